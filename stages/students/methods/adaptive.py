"""Adaptive: how much the teacher counts follows the student's gap to it, from epoch to epoch.

The teacher fades as the student comes near, as in Jafari et al., "Annealing Knowledge Distillation", EACL 2021
(arXiv:2104.07163), by what validation says instead of by a schedule. Policy `adaptive` of rounds does the same from
training to training.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Self

from pydantic import PositiveFloat, model_validator

from schemas.base import Fraction
from schemas.training import Training
from stages.students.methods.base import Needs, Sizes
from stages.students.methods.soft import Soft, SoftConfig

if TYPE_CHECKING:
    from stages.students.learners import Learner


class AdaptiveConfig(SoftConfig):
    """Settings of `adaptive`; `alpha` is where it begins."""

    rate: PositiveFloat = 1.0
    """Change of `alpha` after an epoch for a whole gap of 1: at 1.0, ten points under the teacher add 0.1."""
    low: Fraction = 0.1
    """Least `alpha`."""
    high: Fraction = 0.95
    """Largest `alpha`."""

    @model_validator(mode="after")
    def _between(self) -> Self:
        if not self.low <= self.alpha <= self.high:
            raise ValueError(f"`alpha` begins between `low` and `high`, {self.low:g} and {self.high:g}")
        return self


class Adaptive(Soft):
    """Soft labels; after each epoch alpha <- min(max(alpha + rate * (teacher - student), low), high).

    Both figures are the task's leading metric on the student's own validation budget.
    """

    Config = AdaptiveConfig
    _memory: Any = None

    @property
    def needs(self) -> Needs:
        return super().needs | Needs(validation=True)

    @property
    def alpha(self) -> float:
        return float(self.config.alpha if self._memory is None else self._memory.alpha)

    def learners(self, sizes: Sizes, training: Training) -> dict[str, Learner]:
        import torch

        from stages.students.learners import Learner

        self._memory = torch.nn.Module()
        self._memory.register_buffer("alpha", torch.tensor(float(self.config.alpha), dtype=torch.float64))
        return {"share": Learner(self._memory, None)}

    def end_epoch(self, student: float, teacher: float) -> None:
        after = self.alpha + self.config.rate * (teacher - student)
        self._memory.alpha.fill_(min(max(after, self.config.low), self.config.high))


METHOD = Adaptive
