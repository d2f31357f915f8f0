"""Metrics of classification under re-weighted rows, in float64. No torch.

Shapes: B rows, C classes, W re-weightings.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from schemas.errors import ModelError, SpecError, did_you_mean

Floats = NDArray[np.float64]
BINS = 15
"""Bins of equal width for the calibration error, as in Guo et al. 2017."""


def weighted_metric(
    logits: NDArray[np.float32], truth: NDArray[np.int32], metric: str, weights: NDArray[np.int64]
) -> Floats:
    """`metric` of logits (B, C) under W weightings (W, B) of the rows, each with a positive sum: (W,).

    accuracy:           share of rows whose largest logit is the truth (of equals, the first).
    macro_f1:           mean of F1 over the classes that occur in truth or answers (as scikit-learn).
    balanced_accuracy:  mean of recall over the classes that occur in truth.
    calibration_error:  ECE: sum over 15 bins of confidence of |hits - confidence|, per row.
    nll:                mean of -log p(truth), in nats.

    One pass over the logits and a matrix product of (W, B) with (B, C) at most. Raises SpecError for an unknown
    metric, ModelError for logits that are not finite.
    """
    if metric not in METRICS:
        raise SpecError(f"no metric is called '{metric}'{did_you_mean(metric, list(METRICS))}")
    if not np.isfinite(logits).all():
        bad = int((~np.isfinite(logits)).any(axis=1).sum())
        raise ModelError(f"the outputs for {bad} of {len(logits)} rows are not finite: train with a lower rate")
    return METRICS[metric](logits.astype(np.float64), truth, weights.astype(np.float64))


def _accuracy(logits: Floats, truth: NDArray[np.int32], weights: Floats) -> Floats:
    return _mean(weights, (logits.argmax(1) == truth).astype(np.float64))


def _counts(logits: Floats, truth: NDArray[np.int32], weights: Floats) -> tuple[Floats, Floats, Floats]:
    """(hits, rows of that truth, rows of that answer), each (W, C)."""
    classes = np.arange(logits.shape[1])
    true, said = truth[:, None] == classes, logits.argmax(1)[:, None] == classes
    return weights @ (true & said), weights @ true, weights @ said


def _macro_f1(logits: Floats, truth: NDArray[np.int32], weights: Floats) -> Floats:
    hits, true, said = _counts(logits, truth, weights)
    return _mean_share(2 * hits, true + said)


def _balanced_accuracy(logits: Floats, truth: NDArray[np.int32], weights: Floats) -> Floats:
    hits, true, _ = _counts(logits, truth, weights)
    return _mean_share(hits, true)


def _calibration_error(logits: Floats, truth: NDArray[np.int32], weights: Floats) -> Floats:
    confidence = np.exp(_log_softmax(logits)).max(axis=1)
    gap = (logits.argmax(1) == truth) - confidence
    bins = np.clip(np.ceil(confidence * BINS).astype(int) - 1, 0, BINS - 1)[:, None] == np.arange(BINS)
    gaps: Floats = np.abs(weights @ (bins * gap[:, None])).sum(axis=1) / weights.sum(axis=1)
    return gaps


def _nll(logits: Floats, truth: NDArray[np.int32], weights: Floats) -> Floats:
    return _mean(weights, -_log_softmax(logits)[np.arange(len(truth)), truth])


METRICS: dict[str, Callable[[Floats, NDArray[np.int32], Floats], Floats]] = {
    "accuracy": _accuracy,
    "macro_f1": _macro_f1,
    "balanced_accuracy": _balanced_accuracy,
    "calibration_error": _calibration_error,
    "nll": _nll,
}


def _log_softmax(logits: Floats) -> Floats:
    shifted = logits - logits.max(axis=1, keepdims=True)
    result: Floats = shifted - np.log(np.exp(shifted).sum(axis=1, keepdims=True))
    return result


def _mean(weights: Floats, values: Floats) -> Floats:
    result: Floats = weights @ values / weights.sum(axis=1)
    return result


def _mean_share(part: Floats, whole: Floats) -> Floats:
    """Mean over the classes that occur of part / whole."""
    occurs = whole > 0
    shares = np.divide(part, whole, out=np.zeros_like(part), where=occurs)
    result: Floats = shares.sum(axis=1) / occurs.sum(axis=1)
    return result
