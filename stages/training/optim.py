"""Optimisers and the learning rate of a step, as pure functions of `Training`.

The rate is a function of the step's number alone, so that nothing of it stands in a checkpoint. torch is loaded by
what needs it, so that a plan may count steps.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, assert_never

from schemas.spec import Training

if TYPE_CHECKING:
    import torch

DEFAULT_EPOCHS = 10
"""Epochs of a training that says neither `epochs` nor `steps`."""
ONE_CYCLE_START = 25.0
"""A one-cycle training starts at learning_rate / 25, as in torch."""
ONE_CYCLE_END = 1e4
"""It ends at the start's rate / 10,000, as in torch."""


def total_steps(training: Training, rows: int) -> int:
    """Optimiser steps of a training over `rows` rows: as asked, or by epochs, the last batch of each filled up."""
    if training.steps is not None:
        return training.steps
    return (training.epochs or DEFAULT_EPOCHS) * max(1, math.ceil(rows / training.batch_size))


def make_optimizer(training: Training, module: torch.nn.Module) -> torch.optim.Optimizer:
    """The optimiser over all weights of `module` that take a gradient; its rate is set before each step.

    One fused kernel does the update: with many small tensors that is the smaller part of a small student's step.
    """
    import torch

    weights = [weight for weight in module.parameters() if weight.requires_grad]
    rate, decay = training.learning_rate, training.weight_decay
    match training.optimizer:
        case "adamw":
            return torch.optim.AdamW(weights, lr=rate, weight_decay=decay, fused=True)
        case "adam":
            return torch.optim.Adam(weights, lr=rate, weight_decay=decay, fused=True)
        case "sgd":
            return torch.optim.SGD(
                weights,
                lr=rate,
                momentum=training.momentum,
                weight_decay=decay,
                nesterov=training.momentum > 0,
                fused=True,
            )
        case _:
            assert_never(training.optimizer)


def learning_rate(training: Training, step: int, steps: int) -> float:
    """Learning rate of step `step` (from 0) out of `steps`; p is `learning_rate`, w is `warmup`.

    constant:  p.
    cosine:    p (s + 1) / (w n) while s < w n, then p (1 + cos(pi (s - w n) / (n - w n))) / 2.
    one-cycle: with a = (1 + cos(pi x)) / 2, from p / 25 to p over x = s / (w n - 1), then from p to p / 250,000 over
               the steps that are left (Smith 2018, as torch's OneCycleLR with its defaults).
    """
    peak, rise = training.learning_rate, training.warmup * steps
    match training.schedule:
        case "constant":
            return peak
        case "cosine":
            if step < rise:
                return peak * min(1.0, (step + 1) / rise)
            return _between(peak, 0.0, (step - rise) / max(1.0, steps - rise))
        case "one-cycle":
            start = peak / ONE_CYCLE_START
            top = rise - 1
            if step < top:
                return _between(start, peak, step / top)
            top = max(0.0, top)
            return _between(peak, start / ONE_CYCLE_END, (step - top) / max(1.0, steps - 1 - top))
        case _:
            assert_never(training.schedule)


def _between(first: float, last: float, share: float) -> float:
    """Half a cosine from `first` (share 0) to `last` (share 1)."""
    return last + (first - last) * (1 + math.cos(math.pi * min(1.0, share))) / 2


def set_learning_rate(optimizer: torch.optim.Optimizer, rate: float) -> None:
    """Give all weights of an optimiser one rate."""
    for group in optimizer.param_groups:
        group["lr"] = rate


def clip(training: Training, module: torch.nn.Module) -> None:
    """Scale the gradient of all weights together down to `gradient_clip`, where that is set."""
    import torch

    if training.gradient_clip is not None:
        torch.nn.utils.clip_grad_norm_(module.parameters(), training.gradient_clip)
