"""Soft labels: the student matches the teacher's distribution, softened by a temperature.

Hinton, Vinyals and Dean, "Distilling the Knowledge in a Neural Network", 2015 (arXiv:1503.02531).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from pydantic import PositiveFloat

from schemas.base import Contract, Fraction
from stages.students.methods.base import Method, weighted_mean, wide

if TYPE_CHECKING:
    from torch import Tensor

    from stages.students.teacher import TeacherRows


class SoftConfig(Contract):
    """Settings of `soft`."""

    temperature: PositiveFloat = 2.0
    """Divides the logits of teacher and student; larger values show more of the small classes."""
    alpha: Fraction = 0.7
    """The teacher's share of the loss."""
    tail: Literal["bucket", "spread"] = "bucket"
    """With labels that keep some classes only: all others count as one, or share what is left evenly."""


class Soft(Method):
    """T^2 * mean over rows of KL(teacher || student), both softened by T.

    T^2 keeps the size of the gradient as T changes. Sparse labels are read as they are (`stages.students.sparse`).
    """

    Config = SoftConfig

    @property
    def alpha(self) -> float:
        return float(self.config.alpha)

    @property
    def temperatures(self) -> tuple[float, ...]:
        return (float(self.config.temperature),)

    def teacher_term(self, student_BC: Tensor, teacher: TeacherRows, weights_B: Tensor) -> Tensor:
        from torch.nn.functional import kl_div, log_softmax

        from stages.students.sparse import sparse_divergence
        from stages.students.teacher import SparseTeacher

        tau: float = self.config.temperature
        if isinstance(teacher, SparseTeacher):
            return weighted_mean(
                sparse_divergence(wide(student_BC), teacher, tau, self.config.tail == "spread"), weights_B
            )
        student = log_softmax(wide(student_BC) / tau, dim=1)
        target = log_softmax(wide(teacher.dense(tau)) / tau, dim=1)
        kl_B: Tensor = kl_div(student, target, reduction="none", log_target=True).sum(dim=1)
        return weighted_mean(tau**2 * kl_B, weights_B)


METHOD = Soft
