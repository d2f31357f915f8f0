"""A moving average of a model's weights, which is validated and kept in their place.

Polyak and Juditsky 1992; exponential, with the decay that rises as TensorFlow's ExponentialMovingAverage has it. Costs
one copy of the weights and one fused pass over them a step.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch


class Average:
    """m <- d m + (1 - d) w after step s (from 1), with d = min(decay, (1 + s) / (10 + s)); at first m = w.

    Batch-norm statistics are averaged as weights are; what is no floating-point number (a count) is the model's own.
    """

    def __init__(self, module: torch.nn.Module, decay: float) -> None:
        self._decay = decay
        self.state = {name: value.detach().clone() for name, value in module.state_dict().items()}
        """The average by the names of the module's own `state_dict`, on its device."""

    @torch.no_grad()
    def update(self, module: torch.nn.Module, step: int) -> None:
        """Take in the weights after step `step`, from 1."""
        decay = min(self._decay, (1 + step) / (10 + step))
        mine, theirs = [], []
        for name, value in module.state_dict().items():
            if value.is_floating_point():
                mine.append(self.state[name])
                theirs.append(value)
            else:
                self.state[name].copy_(value)
        torch._foreach_lerp_(mine, theirs, 1 - decay)

    def load(self, state: Mapping[str, torch.Tensor]) -> None:
        """Go on from an average that was kept."""
        for name, value in state.items():
            self.state[name].copy_(value)

    def answer(self, module: torch.nn.Module, inputs: torch.Tensor) -> Any:
        """What the module would say with the average for weights; its own stay as they are."""
        return torch.func.functional_call(module, self.state, (inputs,))
