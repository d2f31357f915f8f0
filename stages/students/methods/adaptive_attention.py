"""Adaptive attention: where teacher and student disagree about a class, the student's output counts more.

The field's adaptive attention: weights from both outputs are applied to the student's output before the soft loss
(Hinton et al. 2015).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from pydantic import NonNegativeFloat, PositiveFloat

from stages.students.methods.base import (
    DISTRIBUTIONS,
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


class AdaptiveAttentionConfig(AlphaConfig):
    """Settings of `adaptive-attention`."""

    temperature: PositiveFloat = 2.0
    """Divides the logits of teacher and student."""
    sharpness: NonNegativeFloat = 4.0
    """How far attention gathers on what differs; 0 is plain soft labels."""


class AdaptiveAttention(Method):
    """T^2 * mean over rows of KL(p || softmax(z' / T)), with p, q the probabilities of teacher and student at T.

    a = C * softmax(sharpness * |p - q|), without gradient: one weight a class, their mean 1
    z' = t + a * (z - t), with t, z the logits of both, each row's mean taken out

    The weights act on the student's output as it stands to the teacher's. Were they to multiply it alone, a student
    that is wrong in the right places would have no loss; like this, only z = t has none.
    """

    Config = AdaptiveAttentionConfig

    @property
    def needs(self) -> Needs:
        return Needs(encodings=DISTRIBUTIONS, temperatures=(float(self.config.temperature),))

    def teacher_term(self, rows: SharedRows) -> Tensor:
        import torch
        from torch.nn.functional import kl_div

        tau = self.config.temperature
        z, t = (
            (logits - logits.mean(dim=1, keepdim=True)) / tau
            for logits in (wide(rows.student_BC), teacher_logits(rows, tau))
        )
        apart_BC = (torch.softmax(t, dim=1) - torch.softmax(z.detach(), dim=1)).abs()
        attention_BC = t.shape[1] * torch.softmax(self.config.sharpness * apart_BC, dim=1)
        attended = torch.log_softmax(t + attention_BC * (z - t), dim=1)
        kl_B = kl_div(attended, torch.log_softmax(t, dim=1), reduction="none", log_target=True).sum(dim=1)
        return weighted_mean(tau**2 * kl_B, rows.weights_B)


METHOD = AdaptiveAttention
