"""What a method trains beside a student: a projection, a discriminator, each with its own optimiser.

It belongs to one student: initialised from its seed, stepped with it, checkpointed and restored with it, so that a
resumed training equals an uninterrupted one to the bit.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch

from schemas.training import Training
from stages.training import checkpoints, optim


@dataclass(frozen=True)
class Learner:
    """A module that a method trains."""

    module: torch.nn.Module
    optimizer: torch.optim.Optimizer | None
    """None for a module that only remembers."""
    follows: bool = False
    """Whether its learning rate is the student's at every step; else that of its optimiser, always."""

    @classmethod
    def as_student(cls, module: torch.nn.Module, training: Training) -> Learner:
        """Trained as the student is: same optimiser, same rate at every step."""
        return cls(module, optim.make_optimizer(training, module), follows=True)


class Learners:
    """All that the method of one student trains, by name."""

    def __init__(self, learners: Mapping[str, Learner], device: torch.device) -> None:
        self._learners = dict(learners)
        for learner in self._learners.values():
            learner.module.to(device).train()

    def zero_grad(self) -> None:
        """Forget the gradients."""
        for learner in self._learners.values():
            learner.module.zero_grad(set_to_none=True)

    def step(self, rate: float) -> None:
        """One step of every optimiser; `rate` is the student's."""
        for learner in self._learners.values():
            if learner.optimizer is None:
                continue
            if learner.follows:
                optim.set_learning_rate(learner.optimizer, rate)
            learner.optimizer.step()

    def pack(self) -> tuple[checkpoints.Tensors, dict[str, Any]]:
        """(tensors, plain JSON) of all modules and optimisers, for a checkpoint."""
        tensors: checkpoints.Tensors = {}
        meta: dict[str, Any] = {}
        for name, learner in self._learners.items():
            tensors |= checkpoints.with_prefix(f"{name}.module", learner.module.state_dict())
            if learner.optimizer is not None:
                state, meta[name] = checkpoints.pack_optimizer(learner.optimizer)
                tensors |= checkpoints.with_prefix(f"{name}.optimizer", state)
        return tensors, meta

    def unpack(self, tensors: checkpoints.Tensors, meta: Mapping[str, Any]) -> None:
        """Give freshly made learners the state that `pack` took."""
        for name, learner in self._learners.items():
            learner.module.load_state_dict(checkpoints.under_prefix(f"{name}.module", tensors))
            if learner.optimizer is not None:
                state = checkpoints.under_prefix(f"{name}.optimizer", tensors)
                checkpoints.unpack_optimizer(learner.optimizer, state, meta[name])
