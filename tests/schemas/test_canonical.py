"""Canonical JSON: one text for one meaning, circumstances left out, what has no form refused by name."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from schemas.artifacts import ModelRef, SamplesRef
from schemas.canonical import canonical_json, digest, digest_bytes
from schemas.errors import ContractError

VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)


@given(VALUES)
def test_equal_values_have_one_text(value: Any) -> None:
    import json

    again = json.loads(canonical_json(value))
    assert canonical_json(again) == canonical_json(value)


@given(st.dictionaries(st.text(), st.integers(), min_size=2, max_size=5))
def test_order_of_keys_does_not_count(value: dict[str, int]) -> None:
    assert digest(dict(reversed(list(value.items())))) == digest(value)


def test_pinned() -> None:
    """A change here changes every fingerprint that was ever made."""
    assert canonical_json({"b": [1, 2.0, None, True], "a": "é"}) == b'{"a":"\\u00e9","b":[1,2.0,null,true]}'
    assert digest({"b": [1, 2.0, None, True], "a": "é"}) == "cb11b3368e1f67b5075a3931957c86a8"
    assert digest(-0.0) == digest(0.0)
    assert digest(1) != digest(1.0)
    assert digest(True) != digest(1)


def test_chunks_do_not_run_together() -> None:
    assert digest_bytes(b"ab", b"c") != digest_bytes(b"a", b"bc")


@pytest.mark.parametrize("value", [float("nan"), float("inf"), b"x", {1, 2}, print, object(), {1: 2}, 1j])
def test_what_has_no_canonical_form_is_refused_by_name(value: Any) -> None:
    with pytest.raises(ContractError, match=r"value\.here\[1\]"):
        digest({"here": [0, value]})


def test_only_the_content_of_a_reference_counts() -> None:
    one = SamplesRef(uri="/a", fingerprint="1" * 32, digest="3" * 32)
    moved = SamplesRef(uri="s3://b", fingerprint="2" * 32, digest="3" * 32)
    assert digest(one) == digest(moved)
    assert digest(one) != digest(SamplesRef(uri="/a", fingerprint="1" * 32, digest="4" * 32))
    assert digest(one) != digest(ModelRef(uri="/a", fingerprint="1" * 32, digest="3" * 32))
