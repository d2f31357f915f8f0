"""Figures of segmentation under re-weighted pictures. No torch.

Each picture is counted once, class by class; a re-weighting adds these counts up. So figures are those of all pixels
together, as for Pascal VOC (Everingham et al. 2015), and not means over pictures.

Shapes: B pictures, P pixels of each, C classes, W re-weightings.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from schemas.errors import SpecError, did_you_mean
from stages.tasks._masks import IGNORED, Mask

Floats = NDArray[np.float64]
METRICS = ("mean_iou", "dice", "pixel_accuracy")
OF_CLASS = "iou_"
"""Begins the name of the metric of a single class."""


def pixel_counts(said: NDArray[np.generic], true: Mask, classes: int) -> Floats:
    """Of what is said (B, P) and true (B, P): pixels that are right, are truly and are said to be of each class.

    (B, 3, C); pixels that are IGNORED count nowhere.
    """
    counts = np.zeros((len(true), 3, classes))
    for row, (answers, facts) in enumerate(zip(said, true, strict=True)):
        known = facts != IGNORED
        pairs = facts[known].astype(np.int64) * classes + answers[known].astype(np.int64)
        confusion = np.bincount(pairs, minlength=classes**2).reshape(classes, classes)
        counts[row] = confusion.diagonal(), confusion.sum(axis=1), confusion.sum(axis=0)
    return counts


def weighted_metric(counts: Floats, metric: str, classes: Sequence[str], weights: NDArray[np.int64]) -> Floats:
    """`metric` of counts (B, 3, C) under weights (W, B): (W,).

    mean_iou:        mean over the classes that occur in truth or answers of intersection over union.
    dice:            mean over the same classes of 2 * intersection over the sum of both (F1 of pixels).
    pixel_accuracy:  share of the pixels that are right.
    iou_CLASS:       intersection over union of one class; 1 where it occurs on neither side.

    Raises SpecError for an unknown metric.
    """
    hits, true, said = np.moveaxis(np.tensordot(weights.astype(np.float64), counts, axes=1), 1, 0)
    known = (*METRICS, *(OF_CLASS + name for name in classes))
    if metric not in known:
        raise SpecError(f"no metric is called '{metric}'{did_you_mean(metric, known)}")
    if metric == "pixel_accuracy":
        return _share(hits.sum(axis=1), true.sum(axis=1))
    if metric == "dice":
        return _mean_share(2 * hits, true + said)
    if metric == "mean_iou":
        return _mean_share(hits, true + said - hits)
    number = list(classes).index(metric.removeprefix(OF_CLASS))
    return _share(hits[:, number], (true + said - hits)[:, number])


def _mean_share(part: Floats, whole: Floats) -> Floats:
    """Mean over the classes that occur (W, C) to (W,); 1 where none does."""
    occurs = whole > 0
    shares = np.where(occurs, part / np.maximum(whole, 1), 0.0)
    return np.where(occurs.any(axis=1), shares.sum(axis=1) / np.maximum(occurs.sum(axis=1), 1), 1.0)


def _share(part: Floats, whole: Floats) -> Floats:
    """part / whole; 1 where there is no whole."""
    return np.where(whole > 0, part / np.maximum(whole, 1), 1.0)
