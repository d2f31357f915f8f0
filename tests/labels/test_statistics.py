"""Statistics against values written out by hand; parts add up to the whole."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from schemas.labels import UnitStatistics
from stages.labels.decoded import DenseLabels
from stages.labels.statistics import fidelity, label_statistics, merge

NOTHING_B = np.zeros(2, "f4")


def test_by_hand() -> None:
    logits_BC = np.array([[math.log(3), 0.0], [0.0, 0.0]], "f4")
    found = label_statistics(DenseLabels(logits_BC), 2, np.array([0.25, 0.0], "f4"))
    entropy = -(0.75 * math.log(0.75) + 0.25 * math.log(0.25)) + math.log(2)
    assert found.top1_counts == (2, 0)
    assert found.entropy_sum == pytest.approx(entropy, rel=1e-6)
    assert found.confidence_sum == pytest.approx(0.75 + 0.5, rel=1e-6)
    assert found.unmapped_mass_sum == 0.25


def test_fidelity_by_hand() -> None:
    exact_BC = np.array([[math.log(3), 0.0]])
    found = fidelity(exact_BC, DenseLabels(np.zeros((1, 2), "f4")))
    p = {1.0: 0.75, 2.0: math.sqrt(3) / (math.sqrt(3) + 1), 4.0: 3**0.25 / (3**0.25 + 1)}
    expected = {f"{t:g}": q * math.log(2 * q) + (1 - q) * math.log(2 * (1 - q)) for t, q in p.items()}
    assert found.full_kl_sums == pytest.approx(expected)
    assert found.bucket_kl_sums == found.full_kl_sums
    assert (found.fidelity_rows, found.top1_agreements) == (1, 1)
    assert found.largest_error == pytest.approx(0.25)


def test_large_logits_stay_finite() -> None:
    logits_BC = np.array([[3e38, -3e38], [-3e38, 0.0]], "f4")
    found = label_statistics(DenseLabels(logits_BC), 2, NOTHING_B)
    assert (found.entropy_sum, found.confidence_sum) == (0.0, 2.0)


@given(cut=st.integers(0, 9), seed=st.integers(0, 99))
def test_parts_add_up(cut: int, seed: int) -> None:
    logits_BC = np.random.default_rng(seed).normal(size=(9, 3)).astype("f4")
    nothing_B = np.zeros(9)
    parts = [
        label_statistics(DenseLabels(logits_BC[rows]), 3, nothing_B[rows])
        for rows in (slice(cut), slice(cut, 9))
        if len(logits_BC[rows])
    ]
    whole, merged = label_statistics(DenseLabels(logits_BC), 3, nothing_B), merge(parts)
    assert merged.top1_counts == whole.top1_counts
    assert merged.entropy_sum == pytest.approx(whole.entropy_sum, rel=1e-6)


def test_merge_of_nothing() -> None:
    assert merge([]) == UnitStatistics()
