"""The stream of random numbers that samples own: known answers of its authors, and golden values of ours."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from stages.random import counters, philox, step_draws, uniform, view_draws

KNOWN = [
    ([0, 0, 0, 0], 0, [0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8]),
    ([0xFFFFFFFF] * 4, 0xFFFFFFFFFFFFFFFF, [0x408F276D, 0x41C83B0E, 0xA20BC7C6, 0x6D5451FD]),
    (
        [0x243F6A88, 0x85A308D3, 0x13198A2E, 0x03707344],
        0x299F31D0A4093822,
        [0xD16CFE09, 0x94FDCCEB, 0x5001E420, 0x24126EA1],
    ),
]
"""philox4x32-10 of Random123's kat_vectors: counter, key, answer."""


@pytest.mark.parametrize(("counter", "key", "answer"), KNOWN)
def test_known_answers(counter: list[int], key: int, answer: list[int]) -> None:
    found = philox(np.array([counter, [1, 2, 3, 4]], np.uint32), key)
    assert found[0].tolist() == answer
    assert found.dtype == np.uint32


def test_golden_values_of_a_purpose() -> None:
    """A change here changes the views and draws of every set that there is."""
    content = np.arange(32, dtype=np.uint8).reshape(2, 16)
    found = uniform(counters(content), 6, "golden", 7)
    assert np.round(found, 6).tolist() == GOLDEN


GOLDEN = [
    [0.584293, 0.1919, 0.869158, 0.008057, 0.208928, 0.842],
    [0.318705, 0.880784, 0.140811, 0.774506, 0.63208, 0.409859],
]


@given(rows=st.integers(1, 6), draws=st.integers(0, 9), seed=st.integers(0, 99))
def test_a_samples_numbers_do_not_depend_on_its_company(rows: int, draws: int, seed: int) -> None:
    content = np.random.default_rng(seed).integers(0, 256, (rows, 16)).astype(np.uint8)
    whole = uniform(counters(content), 9, "x", seed)
    alone = np.concatenate([uniform(counters(content[[row]]), draws, "x", seed) for row in range(rows)])
    assert np.array_equal(alone, whole[:, :draws])
    assert ((whole >= 0) & (whole < 1)).all()


def test_labels_of_one_sample_draw_apart() -> None:
    content = np.zeros((3, 16), np.uint8)
    found = uniform(counters(content, np.arange(3)), 4, "x")
    assert len(np.unique(found)) == 12
    assert np.array_equal(found[0], uniform(counters(content[:1]), 4, "x")[0])
    assert not np.array_equal(found, uniform(counters(content, np.arange(3)), 4, "y"))


def test_draws_of_a_view_are_golden() -> None:
    """A change here changes the views of every set that there is."""
    content = np.arange(32, dtype=np.uint8).reshape(2, 16)
    found = view_draws(content, seed=3, view=2)("affine", 3)
    assert np.round(found, 6).tolist() == VIEW


VIEW = [[0.830526, 0.08876, 0.447227], [0.314839, 0.416329, 0.869377]]


def test_a_views_draws_belong_to_seed_content_view_and_purpose() -> None:
    content = np.random.default_rng(0).integers(0, 256, (4, 16)).astype(np.uint8)
    first = view_draws(content, 0, 1)
    assert np.array_equal(first.of(np.array([2, 0]))("crop", 4), view_draws(content[[2, 0]], 0, 1)("crop", 4))
    others = [view_draws(content, 1, 1)("crop", 4), view_draws(content, 0, 2)("crop", 4), first("colour", 4)]
    assert not any(np.array_equal(first("crop", 4), other) for other in others)


def test_a_steps_draws_are_drawn_once_each() -> None:
    draws = step_draws(np.random.default_rng(0), 3)
    again = draws("affine", 6)
    assert np.array_equal(again, np.random.default_rng(0).random((3, 6)))
    assert draws("affine", 6) is again
    assert np.array_equal(draws.of(np.array([2]))("affine", 6), again[[2]])
