"""Truth as numbers and as bytes: kept, digested and counted."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from stages.truth import UNKNOWN, Truth, as_truth, content, counts, from_arrow, to_arrow

numbers = st.lists(st.integers(-1, 5), max_size=8).map(lambda values: as_truth(values, coded=False))
texts = st.lists(st.one_of(st.just(UNKNOWN), st.binary(max_size=3)), max_size=8).map(
    lambda values: as_truth(values, coded=True)
)


@given(st.one_of(numbers, texts))
def test_what_is_stored_comes_back(truth: Truth) -> None:
    again = from_arrow(to_arrow(truth))
    assert again.dtype == truth.dtype
    assert again.tolist() == truth.tolist()
    assert (again != UNKNOWN).tolist() == [value != UNKNOWN for value in truth.tolist()]


@given(texts, texts)
def test_other_bytes_have_another_content(one: Truth, other: Truth) -> None:
    assert (content(one) == content(other)) == (one.tolist() == other.tolist())


def test_the_content_of_numbers_is_what_it_was() -> None:
    assert content(np.array([3, -1], np.int32)) == b"\x03\0\0\0\xff\xff\xff\xff"


@pytest.mark.parametrize(
    ("truth", "wanted"), [(as_truth([0, 2, 2], False), (1, 0, 2, 0)), (as_truth([b"a", b""], True), (2,))]
)
def test_rows_are_counted_by_class_or_as_one(truth: Truth, wanted: tuple[int, ...]) -> None:
    assert counts(truth, 4) == wanted
