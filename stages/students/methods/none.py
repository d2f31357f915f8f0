"""No teacher: the labelled rows alone. The plain way to train, and the baseline of every other method."""

from __future__ import annotations

from typing import TYPE_CHECKING

from schemas.base import Contract
from stages.students.methods.base import Method

if TYPE_CHECKING:
    from torch import Tensor

    from stages.students.teacher import TeacherRows


class NoneConfig(Contract):
    """Settings of `none`: it has none."""


class NoTeacher(Method):
    """The truth's term with weight 1."""

    Config = NoneConfig
    needs_labels = False

    @property
    def alpha(self) -> float:
        return 0.0

    def teacher_term(self, student_BC: Tensor, teacher: TeacherRows, weights_B: Tensor) -> Tensor:
        return student_BC.new_zeros(())


METHOD = NoTeacher
