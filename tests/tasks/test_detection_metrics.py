"""Metrics of detection: against a slow way to write COCO's, under weights, and torchmetrics where it can."""

from __future__ import annotations

import numpy as np
import pytest

from schemas.errors import SpecError
from stages.tasks._detection_metrics import METRICS, matched, weighted_metric

PICTURES, CLASSES = 9, 3


def world(seed: int) -> tuple[list[np.ndarray], list[np.ndarray]]:
    """Boxes that are said, most of them near to true ones, and those; pictures without either are among them."""
    random = np.random.default_rng(seed)
    said, true = [], []
    for picture in range(PICTURES):
        count = 0 if picture == 4 else int(random.integers(0, 6))
        start = random.uniform(0, 0.7, (count, 2))
        boxes = np.column_stack([start, start + random.uniform(0.1, 0.3, (count, 2))])
        number = random.integers(1, CLASSES + 1, count)
        true.append(np.column_stack([boxes, number, np.ones(count)]).astype(np.float32))
        again = np.repeat(np.arange(count), 2)
        near = boxes[again] + random.normal(0, 0.025, (len(again), 4))
        called = np.where(random.random(len(again)) < 0.85, number[again], random.integers(1, CLASSES + 1, len(again)))
        said.append(np.column_stack([near, called, random.uniform(0.05, 1, len(again))]).astype(np.float32))
    said[4] = np.array([[0.1, 0.1, 0.4, 0.4, 1, 0.8]], np.float32)
    return said, true


def slow(said: list[np.ndarray], true: list[np.ndarray], thresholds: list[float]) -> float:
    """COCO's mean average precision, box by box."""
    averages = []
    for number in sorted({float(row[4]) for rows in true for row in rows}):
        wanted = sum(int((rows[:, 4] == number).sum()) for rows in true)
        for threshold in thresholds:
            hits: list[tuple[float, bool]] = []
            for boxes, facts in zip(said, true, strict=True):
                free = [row for row in facts if row[4] == number]
                for box in sorted((row for row in boxes if row[4] == number), key=lambda row: -row[5]):
                    best = max(free, key=lambda row: overlap(box, row), default=None)
                    hit = best is not None and overlap(box, best) >= threshold
                    hits.append((-float(box[5]), hit))
                    free = [row for row in free if row is not best] if hit else free
            curve, found = [], 0
            for count, (_, hit) in enumerate(sorted(hits, key=lambda item: item[0]), start=1):
                found += hit
                curve.append((found / wanted, found / count))
            read = [max((p for r, p in curve if r >= recall), default=0.0) for recall in np.linspace(0, 1, 101)]
            averages.append(sum(read) / len(read))
    return sum(averages) / len(averages)


def overlap(one: np.ndarray, other: np.ndarray) -> float:
    a, b = one[:4].astype(float), other[:4].astype(float)
    width, height = (max(0.0, min(a[i + 2], b[i + 2]) - max(a[i], b[i])) for i in (0, 1))
    whole = (a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1]) - width * height
    return float(width * height / whole)


@pytest.mark.parametrize("seed", range(4))
def test_average_precision_is_that_of_a_slow_way(seed: int) -> None:
    said, true = world(seed)
    once = np.ones((1, PICTURES), np.int64)
    ten = np.linspace(0.5, 0.95, 10).tolist()
    assert weighted_metric(said, true, "map50", once, 0.5)[0] == pytest.approx(slow(said, true, [0.5]), abs=1e-9)
    assert weighted_metric(said, true, "map", once, 0.5)[0] == pytest.approx(slow(said, true, ten), abs=1e-9)


@pytest.mark.parametrize("metric", METRICS)
def test_a_weight_counts_as_so_many_pictures(metric: str) -> None:
    said, true = world(7)
    weights = np.random.default_rng(0).multinomial(PICTURES, [1 / PICTURES] * PICTURES, size=5)
    found = weighted_metric(said, true, metric, weights, 0.4)
    for row, value in zip(weights, found, strict=True):
        drawn = np.repeat(np.arange(PICTURES), row)
        once = np.ones((1, len(drawn)), np.int64)
        again = weighted_metric([said[i] for i in drawn], [true[i] for i in drawn], metric, once, 0.4)
        assert value == pytest.approx(again[0], abs=1e-12)


def test_precision_recall_and_f1_by_hand() -> None:
    """Three true boxes; one found twice, one found as another class, one said too softly."""
    place = [0.1, 0.1, 0.4, 0.4]
    true = [np.array([[*place, 1, 1], [0.5, 0.5, 0.9, 0.9, 2, 1]]), np.array([[*place, 1, 1]])]
    said = [
        np.array([[*place, 1, 0.9], [0.1, 0.1, 0.4, 0.41, 1, 0.8], [0.5, 0.5, 0.9, 0.9, 1, 0.7]]),
        np.array([[*place, 1, 0.3]]),
    ]
    once = np.ones((1, 2), np.int64)
    found = {name: weighted_metric(said, true, name, once, 0.5)[0] for name in ("precision", "recall", "f1")}
    assert found == pytest.approx({"precision": 1 / 3, "recall": 1 / 3, "f1": 1 / 3})
    assert matched(said[0], true[0], np.array([0.5])).tolist() == [[True, False, False]]


@pytest.mark.parametrize("metric", METRICS)
def test_pictures_without_boxes_are_right_where_nothing_is_said(metric: str) -> None:
    nothing, something = np.empty((0, 6), np.float32), np.array([[0.1, 0.1, 0.4, 0.4, 1, 0.9]], np.float32)
    once = np.ones((1, 1), np.int64)
    assert weighted_metric([nothing], [nothing], metric, once, 0.5)[0] == 1
    assert weighted_metric([something], [nothing], metric, once, 0.5)[0] == 0
    assert weighted_metric([nothing], [something], metric, once, 0.5)[0] == 0


def test_an_unknown_metric_is_named() -> None:
    with pytest.raises(SpecError, match="no metric is called 'map5'"):
        weighted_metric([], [], "map5", np.ones((1, 0), np.int64), 0.5)


def test_torchmetrics_says_the_same() -> None:
    """Its mean average precision needs pycocotools, which this project does not: compared where it is there."""
    pytest.importorskip("pycocotools")
    import torch
    from torchmetrics.detection import MeanAveragePrecision

    said, true = world(11)
    metric = MeanAveragePrecision(box_format="xyxy")
    for boxes, facts in zip(said, true, strict=True):
        metric.update(
            [
                {
                    "boxes": torch.tensor(boxes[:, :4]) * 100,
                    "scores": torch.tensor(boxes[:, 5]),
                    "labels": torch.tensor(boxes[:, 4]).long(),
                }
            ],
            [{"boxes": torch.tensor(facts[:, :4]) * 100, "labels": torch.tensor(facts[:, 4]).long()}],
        )
    wanted, once = metric.compute(), np.ones((1, PICTURES), np.int64)
    assert weighted_metric(said, true, "map50", once, 0.5)[0] == pytest.approx(wanted["map_50"].item(), abs=1e-6)
    assert weighted_metric(said, true, "map", once, 0.5)[0] == pytest.approx(wanted["map"].item(), abs=1e-6)
