"""What rows count when classes or domains are balanced: by hand, and as what it promises."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from stages.training.balance import balanced_weights, drawn
from stages.training.stream import rng

TRUTH = np.array([0, 0, 0, 1, 2, 0], np.int32)
DOMAIN = np.array([0, 0, 0, 0, 1, 1], np.int64)


@pytest.mark.parametrize(
    ("between", "wanted"),
    [
        (("classes",), [0.5, 0.5, 0.5, 2, 2, 0.5]),  # 6 rows, 3 classes: each class counts 2 in all
        (("domains",), [0.75, 0.75, 0.75, 0.75, 1.5, 1.5]),  # each domain counts 3
        (("classes", "domains"), [0.5, 0.5, 0.5, 1.5, 1.5, 1.5]),  # each of the two classes of a domain counts 1.5
    ],
)
def test_by_hand(between: tuple[str, ...], wanted: list[float]) -> None:
    assert balanced_weights(TRUTH, DOMAIN, between).tolist() == pytest.approx(wanted)


rows = st.lists(st.tuples(st.integers(0, 4), st.integers(0, 2)), min_size=1, max_size=60)


@given(rows)
def test_each_kind_counts_alike(pairs: list[tuple[int, int]]) -> None:
    truth = np.array([truth for truth, _ in pairs], np.int32)
    domain = np.array([domain for _, domain in pairs], np.int64)
    both = balanced_weights(truth, domain, ("domains", "classes"))
    assert both.mean() == pytest.approx(1)
    by_domain = [both[domain == number].sum() for number in np.unique(domain)]
    assert by_domain == pytest.approx([by_domain[0]] * len(by_domain))
    for number in np.unique(domain):
        inside = [both[(domain == number) & (truth == kind)].sum() for kind in np.unique(truth[domain == number])]
        assert inside == pytest.approx([inside[0]] * len(inside))


def test_rows_are_drawn_as_often_as_they_count() -> None:
    chosen = drawn(balanced_weights(TRUTH, DOMAIN, ("classes",)), rng(0, "test"), 30_000)
    found = np.bincount(TRUTH[chosen], minlength=3) / 30_000
    assert np.abs(found - 1 / 3).max() < 0.015  # five standard deviations of a share of a third
    assert drawn(np.array([0.0, 1.0]), rng(0, "test"), 50).min() == 1, "what counts nothing never comes"
    assert balanced_weights(TRUTH[:0], DOMAIN[:0], ("classes",)).shape == (0,)
