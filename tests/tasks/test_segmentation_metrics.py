"""Metrics of segmentation: the numbers of torchmetrics, class by class, under any re-weighting of the pictures."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torchmetrics.classification import MulticlassAccuracy, MulticlassF1Score, MulticlassJaccardIndex

from schemas.errors import SpecError
from stages.tasks._masks import IGNORED
from stages.tasks._segmentation_metrics import METRICS, pixel_counts, weighted_metric

CLASSES = ("a", "b", "c", "d", "never")
PICTURES, PIXELS = 7, 40


def world(seed: int) -> tuple[np.ndarray, np.ndarray]:
    """What is said and true of some pictures; the fifth class never occurs, an eighth of the pixels do not count."""
    random = np.random.default_rng(seed)
    true = random.integers(0, 4, (PICTURES, PIXELS)).astype(np.uint8)
    said = np.where(random.random(true.shape) < 0.6, true, random.integers(0, 4, true.shape)).astype(np.float32)
    true[random.random(true.shape) < 0.125] = IGNORED
    return said, true


def by_torchmetrics(said: np.ndarray, true: np.ndarray) -> dict[str, float]:
    size: dict[str, Any] = {"num_classes": len(CLASSES), "ignore_index": IGNORED}
    both = torch.from_numpy(said).long(), torch.from_numpy(true).long()
    of_class = MulticlassJaccardIndex(**size, average="none")(*both).tolist()
    return {
        "mean_iou": float(MulticlassJaccardIndex(**size, average="macro")(*both)),
        "dice": float(MulticlassF1Score(**size, average="macro")(*both)),
        "pixel_accuracy": float(MulticlassAccuracy(**size, average="micro")(*both)),
        **{f"iou_{name}": value for name, value in zip(CLASSES[:4], of_class, strict=False)},
    }


@pytest.mark.parametrize("seed", range(3))
def test_torchmetrics_says_the_same(seed: int) -> None:
    said, true = world(seed)
    counts, once = pixel_counts(said, true, len(CLASSES)), np.ones((1, PICTURES), np.int64)
    for metric, wanted in by_torchmetrics(said, true).items():
        assert weighted_metric(counts, metric, CLASSES, once)[0] == pytest.approx(wanted, abs=1e-6), metric


@settings(max_examples=25, deadline=None)
@given(st.lists(st.integers(0, 3), min_size=PICTURES, max_size=PICTURES).filter(any), st.integers(0, 9))
def test_a_weight_is_how_often_a_picture_comes(weights: list[int], seed: int) -> None:
    said, true = world(seed)
    counts, rows = pixel_counts(said, true, len(CLASSES)), np.repeat(np.arange(PICTURES), weights)
    again, once = pixel_counts(said[rows], true[rows], len(CLASSES)), np.ones((1, len(rows)), np.int64)
    both = np.array([weights, [1] * PICTURES])
    for metric in (*METRICS, "iou_b", "iou_never"):
        found = weighted_metric(counts, metric, CLASSES, both)
        assert found.shape == (2,)
        assert found[0] == pytest.approx(weighted_metric(again, metric, CLASSES, once)[0])


def test_counts_by_hand() -> None:
    said = np.array([[0, 0, 1, 1, 2, 0]])
    true = np.array([[0, 1, 1, 1, IGNORED, IGNORED]], np.uint8)
    counts = pixel_counts(said, true, 3)
    assert counts[0].tolist() == [[1, 2, 0], [1, 3, 0], [2, 2, 0]]
    once = np.ones((1, 1), np.int64)
    found = {name: weighted_metric(counts, name, ("x", "y", "z"), once)[0] for name in (*METRICS, "iou_y", "iou_z")}
    assert found == pytest.approx(
        {
            "mean_iou": (1 / 2 + 2 / 3) / 2,
            "dice": (2 / 3 + 4 / 5) / 2,
            "pixel_accuracy": 3 / 4,
            "iou_y": 2 / 3,
            "iou_z": 1,
        }
    )


def test_an_unknown_metric_is_named() -> None:
    counts = np.zeros((1, 3, len(CLASSES)))
    for wrong, near in (("mean_iuo", "mean_iou"), ("iou_nevr", "iou_never")):
        with pytest.raises(SpecError, match=f"no metric is called '{wrong}'.*{near}"):
            weighted_metric(counts, wrong, CLASSES, np.ones((1, 1), np.int64))
