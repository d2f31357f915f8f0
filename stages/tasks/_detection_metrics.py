"""Figures of detection under re-weighted pictures. No torch.

Boxes are matched once, picture by picture; all re-weightings share that. Matching and average precision are those of
COCO (pycocotools): in each picture and class, boxes in the order of their scores take the free true box that they
overlap most, if by enough; precision at a recall is the largest at that or a greater one, read at 101 recalls.

Shapes: B pictures, W re-weightings, P boxes that are said of one class, R thresholds.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from schemas.errors import SpecError, did_you_mean
from stages.tasks._boxes import overlaps

Floats = NDArray[np.float64]
METRICS = ("map50", "map", "f1", "precision", "recall")
AT = 0.5
"""Overlap at which a box is found."""
THRESHOLDS = np.linspace(0.5, 0.95, 10)
RECALLS = np.linspace(0.0, 1.0, 101)


def weighted_metric(
    said: Sequence[NDArray[np.float32]],
    true: Sequence[NDArray[np.float32]],
    metric: str,
    weights: NDArray[np.int64],
    score: float,
) -> Floats:
    """`metric` of boxes that are said (n, 6) and true (m, 6), picture by picture, under weights (W, B): (W,).

    map50, map:             mean over the classes that occur of average precision at an overlap of 0.5, and its mean
                            over ten overlaps from 0.5 to 0.95.
    precision, recall, f1:  of boxes with a score of at least `score` at an overlap of 0.5, over all classes together.

    Where nothing is to be found, and nothing is said, the answer is 1; where something is said, 0.
    Raises SpecError for an unknown metric.
    """
    if metric not in METRICS:
        raise SpecError(f"no metric is called '{metric}'{did_you_mean(metric, list(METRICS))}")
    counts: Floats = weights.astype(np.float64)
    if metric in ("map", "map50"):
        return _mean_average_precision(said, true, THRESHOLDS if metric == "map" else THRESHOLDS[:1], counts)
    kept = [row[row[:, 5] >= score] for row in said]
    hits = [int(matched(*pair, np.array([AT]))[0].sum()) for pair in zip(kept, true, strict=True)]
    found, all_said, all_true = (_weighed(counts, values) for values in (hits, _sizes(kept), _sizes(true)))
    precision, recall = _share(found, all_said, all_true), _share(found, all_true, all_said)
    f1 = _share(2 * found, all_said + all_true, all_true)
    return {"precision": precision, "recall": recall, "f1": f1}[metric]


def matched(said: NDArray[np.float32], true: NDArray[np.float32], thresholds: Floats) -> NDArray[np.bool_]:
    """Whether each box that is said (n, 6) finds a true one (m, 6) of its class, (R, n)."""
    hits = np.zeros((len(thresholds), len(said)), bool)
    overlap = overlaps(said[:, :4], true[:, :4])
    overlap[said[:, 4][:, None] != true[:, 4][None]] = -1.0
    order = np.argsort(-said[:, 5], kind="stable")
    for number, threshold in enumerate(thresholds):
        free = overlap.copy()
        for box in order:
            best = int(free[box].argmax()) if len(true) else -1
            if best >= 0 and free[box, best] >= min(threshold, 1 - 1e-10):
                hits[number, box] = True
                free[:, best] = -1.0
    return hits


def _mean_average_precision(
    said: Sequence[NDArray[np.float32]], true: Sequence[NDArray[np.float32]], thresholds: Floats, weights: Floats
) -> Floats:
    owner_P = np.repeat(np.arange(len(said)), _sizes(said))
    owner_T = np.repeat(np.arange(len(true)), _sizes(true))
    every, facts = (np.concatenate([np.empty((0, 6), np.float32), *rows]) for rows in (said, true))
    hits_RP = np.concatenate(
        [np.empty((len(thresholds), 0), bool), *(matched(*pair, thresholds) for pair in zip(said, true, strict=True))],
        axis=1,
    )
    total, classes = np.zeros(len(weights)), np.zeros(len(weights))
    for number in np.unique(facts[:, 4]):
        wanted_W = weights[:, owner_T[facts[:, 4] == number]].sum(axis=1)
        mine = np.flatnonzero(every[:, 4] == number)
        mine = mine[np.argsort(-every[mine, 5], kind="stable")]
        weight_WP = weights[:, owner_P[mine]]
        classes += wanted_W > 0
        for hits_P in hits_RP[:, mine]:
            total += _average_precision(hits_P, weight_WP, wanted_W)
    averages = np.minimum(total / np.maximum(classes * len(thresholds), 1), 1.0)
    return np.where(classes > 0, averages, float(not len(every)))


def _average_precision(hits_P: NDArray[np.bool_], weight_WP: Floats, wanted_W: Floats) -> Floats:
    """Of one class at one threshold, the boxes in the order of their scores: (W,), 0 where nothing is wanted."""
    if not len(hits_P):
        return np.zeros(len(wanted_W))
    true_WP, said_WP = np.cumsum(weight_WP * hits_P, axis=1), np.cumsum(weight_WP, axis=1)
    precision = true_WP / np.maximum(said_WP, np.spacing(1))
    recall = np.minimum(true_WP / np.maximum(wanted_W, 1)[:, None], 1.0)
    best = np.maximum.accumulate(precision[:, ::-1], axis=1)[:, ::-1]
    reached = np.searchsorted(RECALLS, recall, side="right")
    reached[:, 1:] -= reached[:, :-1].copy()  # each recall is read where it is first reached
    answer: Floats = np.where(wanted_W > 0, (best * reached).sum(axis=1) / len(RECALLS), 0.0)
    return answer


def _sizes(rows: Sequence[NDArray[np.float32]]) -> NDArray[np.int64]:
    return np.array([len(row) for row in rows], np.int64)


def _weighed(weights: Floats, values: Sequence[int] | NDArray[np.int64]) -> Floats:
    """Sum over pictures (W,) of numbers (B,)."""
    total: Floats = weights @ np.asarray(values, np.float64)
    return total


def _share(part: Floats, whole: Floats, other: Floats) -> Floats:
    """part / whole; where there is no whole, 1 if there is nothing else either, else 0."""
    share: Floats = np.where(whole > 0, part / np.maximum(whole, 1), (other == 0).astype(np.float64))
    return share
