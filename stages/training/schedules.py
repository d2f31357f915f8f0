"""How long a training is, and its learning rate at each step: pure functions of `Training`.

The rate is a function of the step's number alone, so that nothing of it stands in a checkpoint. Loads no torch, so that
a plan may count steps.
"""

from __future__ import annotations

import math
from typing import assert_never

from schemas.training import Constant, Cosine, InverseTime, OneCycle, Stepwise, Training

DEFAULT_EPOCHS = 10
"""Epochs of a training that says neither `epochs` nor `steps`."""
ONE_CYCLE_START = 25.0
"""A one-cycle training starts at learning_rate / 25, as in torch."""
ONE_CYCLE_END = 1e4
"""It ends at the start's rate / 10,000, as in torch."""
WARMUP = 0.2
"""Share of warm-up of the schedules that are shaped by it, where none is given."""


def total_steps(training: Training, rows: int) -> int:
    """Optimiser steps of a training over `rows` rows: as asked, or by epochs, the last batch of each filled up."""
    if training.steps is not None:
        return training.steps
    return (training.epochs or DEFAULT_EPOCHS) * max(1, math.ceil(rows / training.batch_size))


def learning_rate(training: Training, step: int, steps: int, steps_per_epoch: int) -> float:
    """Learning rate of step `step` (from 0) out of `steps`; p is `learning_rate`, w is `warmup`, e the epoch from 0.

    constant:      p.
    inverse-time:  p / (1 + decay e).
    step:          p factor^floor(e / epochs), as torch's StepLR.
    cosine:        p (1 + cos(pi (s - w n) / (n - w n))) / 2.
    one-cycle:     with a = (1 + cos(pi x)) / 2, from p / 25 to p over x = s / (w n - 1), then from p to p / 250,000
                   over the steps that are left (Smith 2018, as torch's OneCycleLR with its defaults).

    While s < w n, all but one-cycle are p (s + 1) / (w n) where that is less.
    """
    peak, rise = training.learning_rate, _warmup(training) * steps
    schedule = training.schedule
    if isinstance(schedule, OneCycle):
        start, top = peak / ONE_CYCLE_START, rise - 1
        if step < top:
            return _between(start, peak, step / top)
        top = max(0.0, top)
        return _between(peak, start / ONE_CYCLE_END, (step - top) / max(1.0, steps - 1 - top))
    rising = peak * min(1.0, (step + 1) / rise) if step < rise else peak
    epoch = step // steps_per_epoch
    match schedule:
        case Constant():
            return rising
        case InverseTime(decay=decay):
            return min(rising, peak / (1.0 + decay * epoch))
        case Stepwise(epochs=epochs, factor=factor):
            return min(rising, peak * factor ** (epoch // epochs))
        case Cosine():
            return rising if step < rise else _between(peak, 0.0, (step - rise) / max(1.0, steps - rise))
    assert_never(schedule)


def _warmup(training: Training) -> float:
    if training.warmup is not None:
        return training.warmup
    return WARMUP if isinstance(training.schedule, Cosine | OneCycle) else 0.0


def _between(first: float, last: float, share: float) -> float:
    """Half a cosine from `first` (share 0) to `last` (share 1)."""
    return last + (first - last) * (1 + math.cos(math.pi * min(1.0, share))) / 2
