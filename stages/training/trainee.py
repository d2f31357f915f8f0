"""The model of a training, teacher or student: its weights, optimiser and moving average, small at first where asked.

With `scaling`, a smaller model is trained until the switch. The one that is asked for then takes over its function by
widening (`stages.training.widening`) where that is possible, else it learns the small one's answers for some steps
before it goes on. Optimiser and average begin anew; all of it is checkpointed, so that a training that is killed on
either side of the switch ends as an uninterrupted one.

Shapes: R rows, C outputs.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from schemas.base import Part
from schemas.training import Training
from stages.training import checkpoints, optim
from stages.training.averaging import Average
from stages.training.stream import rng
from stages.training.widening import CannotWiden, widen


class Trainee:
    """One model in training."""

    module: torch.nn.Module
    optimizer: torch.optim.Optimizer
    average: Average | None

    def __init__(
        self,
        training: Training,
        model: Part,
        build: Callable[[Part], torch.nn.Module],
        steps: int,
        seed: int,
        batch: Callable[[], Tensor],
    ) -> None:
        """`build` makes a model on its device; `batch` makes rows there that two models are compared on."""
        self._training, self._model, self._build, self._seed, self._batch = training, model, build, seed, batch
        scaling = training.scaling
        self.switch = 0 if scaling is None else min(max(round(scaling.switch_at * steps), 0), steps - 1)
        """The step, from 0, that the model which is asked for takes first."""
        self._learns = 0 if scaling is None else round(scaling.distil * steps)
        self.elder: torch.nn.Module | None = None
        """The smaller model, while the larger one learns its answers."""
        self.grown = self.switch == 0
        """Whether this is the model that is asked for."""
        self._make(model if scaling is None or self.grown else scaling.start)

    def begin_step(self, step: int) -> bool:
        """Before a step, from 0: switch to the model that is asked for when its time has come; whether it was now."""
        if self.elder is not None and step >= self.switch + self._learns:
            self.elder = None
        if self.grown or step < self.switch:
            return False
        small = self.module
        self.grown = True
        self._make(self._model)
        try:
            widen(small, self.module, self._batch(), rng(self._seed, "widen"))
        except CannotWiden:
            self.elder = small.eval() if self._learns else None
        if self.average is not None and self._training.ema is not None:
            self.average = Average(self.module, self._training.ema)
        return True

    def lesson(self, rows: Tensor, logits_RC: Tensor) -> Tensor:
        """KL(smaller || larger) of each row (R,): what the larger model learns at first, where it was not widened."""
        if self.elder is None:
            raise ValueError("there is no smaller model to learn from")
        with torch.no_grad():
            said_RC = self.elder(rows).float().log_softmax(1)
        return functional.kl_div(logits_RC.float().log_softmax(1), said_RC, reduction="none", log_target=True).sum(1)

    def update(self, step: int) -> None:
        """Take the step, from 0, that the gradients ask for."""
        optim.clip(self._training, self.module)
        self.optimizer.step()
        if self.average is not None:
            self.average.update(self.module, step - (self.switch if self.grown else 0) + 1)

    def answer(self, rows: Tensor) -> Tensor:
        """What the model says now: that of the average, where there is one."""
        said: Tensor = self.module(rows) if self.average is None else self.average.answer(self.module, rows)
        return said

    def kept(self) -> checkpoints.Tensors:
        """A copy on the CPU of the weights that would be kept now."""
        return copied(self.module.state_dict() if self.average is None else self.average.state)

    def pack(self) -> tuple[checkpoints.Tensors, dict[str, Any]]:
        """(tensors, plain JSON) of all this, for a checkpoint."""
        optimizer, plain = checkpoints.pack_optimizer(self.optimizer)
        tensors = checkpoints.with_prefix("model", copied(self.module.state_dict()))
        tensors |= checkpoints.with_prefix("optimizer", optimizer)
        if self.average is not None:
            tensors |= checkpoints.with_prefix("average", self.average.state)
        if self.elder is not None:
            tensors |= checkpoints.with_prefix("elder", self.elder.state_dict())
        return tensors, {"optimizer": plain, "grown": self.grown}

    def unpack(self, tensors: Mapping[str, Tensor], meta: Mapping[str, Any]) -> None:
        """Give a freshly made trainee what `pack` took."""
        if meta["grown"] and not self.grown:
            if elder := checkpoints.under_prefix("elder", tensors):
                self.elder = self.module.eval()
                self.elder.load_state_dict(elder)
            self.grown = True
            self._make(self._model)
        self.module.load_state_dict(checkpoints.under_prefix("model", tensors))
        checkpoints.unpack_optimizer(self.optimizer, checkpoints.under_prefix("optimizer", tensors), meta["optimizer"])
        if self.average is not None:
            self.average.load(checkpoints.under_prefix("average", tensors))

    def _make(self, part: Part) -> None:
        self.module = self._build(part)
        self.optimizer = optim.make_optimizer(self._training, self.module)
        self.average = None if self._training.ema is None else Average(self.module, self._training.ema)


def copied(state: Mapping[str, Tensor]) -> checkpoints.Tensors:
    """A copy of some tensors on the CPU."""
    return {name: value.detach().to("cpu", copy=True) for name, value in state.items()}
