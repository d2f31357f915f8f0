"""Hard labels: the teacher's most likely class is taken for the truth (pseudo-labels, Lee 2013)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from schemas.base import Contract, Fraction
from stages.students.methods.base import Method, weighted_mean, wide

if TYPE_CHECKING:
    from torch import Tensor

    from stages.students.teacher import TeacherRows


class HardConfig(Contract):
    """Settings of `hard`."""

    alpha: Fraction = 0.7
    """The teacher's share of the loss."""


class Hard(Method):
    """Mean over rows of the cross-entropy against the teacher's argmax (the first of equal ones)."""

    Config = HardConfig

    @property
    def alpha(self) -> float:
        return float(self.config.alpha)

    def teacher_term(self, student_BC: Tensor, teacher: TeacherRows, weights_B: Tensor) -> Tensor:
        from torch.nn.functional import cross_entropy

        return weighted_mean(cross_entropy(wide(student_BC), teacher.top1(), reduction="none"), weights_B)


METHOD = Hard
