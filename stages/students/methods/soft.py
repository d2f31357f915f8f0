"""Soft labels: the student matches the teacher's distribution, softened by a temperature.

Hinton, Vinyals and Dean, "Distilling the Knowledge in a Neural Network", 2015 (arXiv:1503.02531).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from pydantic import PositiveFloat

from schemas.base import Contract, Fraction
from stages.students.methods.base import Method, weighted_mean, wide

if TYPE_CHECKING:
    from torch import Tensor


class SoftConfig(Contract):
    """Settings of `soft`."""

    temperature: PositiveFloat = 2.0
    """Divides the logits of teacher and student; larger values show more of the small classes."""
    alpha: Fraction = 0.7
    """The teacher's share of the loss."""


class Soft(Method):
    """T^2 * mean over rows of KL(teacher || student), both softened by T.

    T^2 keeps the size of the gradient as T changes.
    """

    Config = SoftConfig

    @property
    def alpha(self) -> float:
        return float(self.config.alpha)

    def teacher_term(self, student_BC: Tensor, teacher_BC: Tensor, weights_B: Tensor) -> Tensor:
        from torch.nn.functional import kl_div, log_softmax

        tau: float = self.config.temperature
        student = log_softmax(wide(student_BC) / tau, dim=1)
        teacher = log_softmax(wide(teacher_BC) / tau, dim=1)
        kl_B: Tensor = kl_div(student, teacher, reduction="none", log_target=True).sum(dim=1)
        return weighted_mean(tau**2 * kl_B, weights_B)


METHOD = Soft
