"""No teacher: the labelled rows alone.

The plain way to train, and the baseline of every other method."""

from __future__ import annotations

from typing import TYPE_CHECKING

from schemas.base import Contract
from stages.students.methods.base import Method, Needs, SharedRows

if TYPE_CHECKING:
    from torch import Tensor


class NoneConfig(Contract):
    """Settings of `none`: it has none."""


class NoTeacher(Method):
    """The truth's term with weight 1."""

    Config = NoneConfig

    @property
    def alpha(self) -> float:
        return 0.0

    @property
    def needs(self) -> Needs:
        return Needs(labels=False)

    def teacher_term(self, rows: SharedRows) -> Tensor:
        return rows.student_BC.new_zeros(())


METHOD = NoTeacher
