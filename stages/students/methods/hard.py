"""Hard labels: the teacher's most likely class is taken for the truth.

Lee, "Pseudo-Label: The Simple and Efficient Semi-Supervised Learning Method", ICML workshop 2013.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from stages.students.methods.base import AlphaConfig, Method, SharedRows, weighted_mean, wide

if TYPE_CHECKING:
    from torch import Tensor


class HardConfig(AlphaConfig):
    """Settings of `hard`."""


class Hard(Method):
    """Mean over rows of the cross-entropy against the teacher's argmax (the first of equal ones)."""

    Config = HardConfig

    def teacher_term(self, rows: SharedRows) -> Tensor:
        from torch.nn.functional import cross_entropy

        loss_B = cross_entropy(wide(rows.student_BC), rows.teacher.top1(), reduction="none")
        return weighted_mean(loss_B, rows.weights_B)


METHOD = Hard
