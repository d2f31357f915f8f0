"""Margin: the student must give each class its probability and a margin more.

The log form is the field's margin loss; the hinge form is the multi-class hinge of Crammer and Singer 2001 on
probabilities, with the teacher's most likely class in the place of the true one.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Literal

from pydantic import Field, PositiveFloat

from schemas.base import Fraction
from stages.students.methods.base import (
    AlphaConfig,
    Method,
    Needs,
    SharedRows,
    teacher_logits,
    weighted_mean,
    wide,
)

if TYPE_CHECKING:
    from torch import Tensor


class MarginConfig(AlphaConfig):
    """Settings of `margin`."""

    form: Literal["log", "hinge"] = "log"
    """`log` weighs every class by the teacher; `hinge` looks at its most likely class and the student's next best."""
    margin: Fraction = 0.1
    """How much probability must be there beyond need."""
    floor: Annotated[float, Field(gt=0, le=1)] = 0.01
    """With `log`: the least that a logarithm is taken of."""
    temperature: PositiveFloat = 1.0
    """Divides the logits of teacher and student."""


class Margin(Method):
    """With p the teacher's and q the student's probabilities at T, m the margin, y the teacher's most likely class:

    log     mean over rows of -sum over classes of p log(max(q - m, floor))
    hinge   mean over rows of max(0, m - (q_y - max of the other q))

    Below the floor the value stands still, but the gradient is that of the floor: else a class that the student denies,
    where it has most to learn, would teach it nothing.
    """

    Config = MarginConfig

    @property
    def needs(self) -> Needs:
        return Needs(temperatures=(float(self.config.temperature),))

    def teacher_term(self, rows: SharedRows) -> Tensor:
        import torch

        tau, margin = self.config.temperature, self.config.margin
        q_BC = torch.softmax(wide(rows.student_BC) / tau, dim=1)
        if self.config.form == "hinge":
            best_B1 = rows.teacher.top1()[:, None]
            rival_B = q_BC.scatter(1, best_B1, -torch.inf).amax(dim=1)
            lead_B = q_BC.gather(1, best_B1)[:, 0] - rival_B
            return weighted_mean(torch.relu(margin - lead_B), rows.weights_B)
        p_BC = torch.softmax(teacher_logits(rows, tau) / tau, dim=1)
        beyond_BC = q_BC - margin
        floored_BC = beyond_BC + (beyond_BC.clamp(min=self.config.floor) - beyond_BC).detach()
        return weighted_mean(-(p_BC * floored_BC.log()).sum(dim=1), rows.weights_B)


METHOD = Margin
