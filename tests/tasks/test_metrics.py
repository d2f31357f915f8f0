"""Metrics against hand-written values, scikit-learn and torchmetrics; re-weighting against repeating rows."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from sklearn import metrics as reference
from torchmetrics.functional.classification import multiclass_calibration_error

from schemas.errors import ModelError, SpecError
from stages.tasks._metrics import METRICS, weighted_metric


def score(logits: np.ndarray, truth: np.ndarray, metric: str) -> float:
    return float(weighted_metric(logits, truth, metric, np.ones((1, len(truth)), dtype=np.int64))[0])


def drawn(seed: int, rows: int, classes: int) -> tuple[np.ndarray, np.ndarray]:
    random = np.random.default_rng(seed)
    logits = random.normal(size=(rows, classes)).astype(np.float32) * 3
    return logits, random.integers(0, classes, rows).astype(np.int32)


def test_values_by_hand() -> None:
    logits = np.log(np.array([[0.8, 0.2], [0.4, 0.6], [0.7, 0.3]], dtype=np.float32))
    truth = np.array([0, 1, 1], dtype=np.int32)
    assert score(logits, truth, "accuracy") == pytest.approx(2 / 3)
    assert score(logits, truth, "macro_f1") == pytest.approx(2 / 3)
    assert score(logits, truth, "balanced_accuracy") == pytest.approx((1 + 0.5) / 2)
    assert score(logits, truth, "nll") == pytest.approx(-np.log([0.8, 0.6, 0.3]).mean(), rel=1e-6)
    # Each row stands in a bin of its own: |1 - 0.8| + |1 - 0.6| + |0 - 0.7| over 3.
    assert score(logits, truth, "calibration_error") == pytest.approx(1.3 / 3, rel=1e-6)


@given(st.integers(0, 10_000), st.integers(1, 60), st.integers(2, 6))
def test_equal_the_references(seed: int, rows: int, classes: int) -> None:
    logits, truth = drawn(seed, rows, classes)
    said = logits.argmax(1)
    assert score(logits, truth, "accuracy") == pytest.approx(reference.accuracy_score(truth, said))
    f1 = reference.f1_score(truth, said, average="macro", zero_division=0)
    assert score(logits, truth, "macro_f1") == pytest.approx(f1)
    recall = reference.recall_score(truth, said, labels=np.unique(truth), average="macro")
    assert score(logits, truth, "balanced_accuracy") == pytest.approx(recall)
    tensors = torch.from_numpy(logits), torch.from_numpy(truth).long()
    exact = torch.nn.functional.cross_entropy(tensors[0].double(), tensors[1])  # float32 loses digits near certainty
    assert score(logits, truth, "nll") == pytest.approx(float(exact), rel=1e-9)
    sure = tensors[0].double().softmax(1)  # torchmetrics takes logits that all lie in [0, 1] for probabilities
    ece = multiclass_calibration_error(sure, tensors[1], num_classes=classes, n_bins=15, norm="l1")
    assert score(logits, truth, "calibration_error") == pytest.approx(float(ece), abs=1e-5)


@given(st.integers(0, 10_000), st.integers(1, 30), st.integers(2, 5), st.sampled_from(sorted(METRICS)))
def test_a_weight_is_a_repeated_row(seed: int, rows: int, classes: int, metric: str) -> None:
    logits, truth = drawn(seed, rows, classes)
    drawn_rows = np.random.default_rng(seed).integers(0, rows, (4, rows))
    weights = np.stack([np.bincount(draw, minlength=rows) for draw in drawn_rows])
    found = weighted_metric(logits, truth, metric, weights)
    assert found == pytest.approx([score(logits[draw], truth[draw], metric) for draw in drawn_rows], abs=1e-9)


def test_extreme_logits_stay_finite() -> None:
    logits = np.array([[3e38, -3e38], [0.0, 1e4]], dtype=np.float32)
    for metric in METRICS:
        assert np.isfinite(score(logits, np.array([1, 0], dtype=np.int32), metric))


def test_what_cannot_be_measured_is_refused() -> None:
    logits, truth = drawn(0, 3, 2)
    with pytest.raises(SpecError, match="did you mean 'accuracy'"):
        score(logits, truth, "acuracy")
    logits[1, 0] = np.nan
    with pytest.raises(ModelError, match="1 of 3 rows"):
        score(logits, truth, "accuracy")
