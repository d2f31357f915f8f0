"""A teacher's labels at the temperature that fits the truth which may be seen: for students that are to be calibrated.

One number a student and label set, from the student's own validation budget, applied when labels are read: what is
stored stays raw. Costs one gather of the validation rows, before the first step.

Shapes: V validation rows, C classes. t: temperature, no unit.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

from schemas.errors import DataError
from stages.labels.decoded import Decoded, SparseLabels

LEAST, MOST = 0.25, 4.0
"""Temperatures that are looked at: a few validation rows that are all right would ask for none at all."""
ITERATIONS = 60
GOLDEN = (5**0.5 - 1) / 2


def fit_temperature(
    decoded: Decoded, truth_V: NDArray[np.integer], columns: NDArray[np.int64] | None, read_at: Sequence[float]
) -> float:
    """The temperature t in [1/4, 4] at which labels give the truth the largest likelihood.

    t = argmin of -mean log softmax(z / t)[truth] (Guo, Pleiss, Sun and Weinberger, ICML 2017, arXiv:1706.04599), which
    is convex in 1 / t. `columns`: the place of each of our classes among the labels', none for the same. `read_at`:
    temperatures at which a method reads the labels; sparse ones must still hold them when read through t. Raises
    DataError without validation rows, or for labels that were drawn at one temperature.
    """
    if not len(truth_V):
        raise DataError(
            "`calibrate` needs true labels of its validation budget: raise `label_budget.validation`, or leave it out"
        )
    least = LEAST
    if isinstance(decoded, SparseLabels):
        if not decoded.tempered:
            raise DataError(
                "`calibrate` reads labels at any temperature, and sampled ones have their own: leave it out"
            )
        least = max(LEAST, decoded.temperatures[0] / min([1.0, *read_at]), decoded.temperatures[0])
    rows, places_V = np.arange(len(truth_V)), truth_V if columns is None else columns[truth_V]

    def loss(log_t: float) -> float:
        return -float(decoded.log_probabilities(float(np.exp(log_t)))[rows, places_V].mean())

    return float(np.exp(_golden_section(loss, float(np.log(least)), float(np.log(max(MOST, least))))))


def _golden_section(loss: Callable[[float], float], low: float, high: float) -> float:
    """Where a function with one minimum between two ends has it (Kiefer 1953); an end, if it lies there."""
    first, last = low, high
    one, other = last - GOLDEN * (last - first), first + GOLDEN * (last - first)
    at_one, at_other = loss(one), loss(other)
    for _ in range(ITERATIONS):
        if at_one <= at_other:
            last, other, at_other = other, one, at_one
            one = last - GOLDEN * (last - first)
            at_one = loss(one)
        else:
            first, one, at_one = one, other, at_other
            other = first + GOLDEN * (last - first)
            at_other = loss(other)
    return min((low, (first + last) / 2, high), key=loss)
