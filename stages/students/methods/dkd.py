"""Decoupled distillation: how sure of its class the teacher is, and how it ranks the others, are taught apart.

Zhao, Cui, Song, Qiu and Liang, "Decoupled Knowledge Distillation", CVPR 2022 (arXiv:2203.08679), equation 7.
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


class DkdConfig(AlphaConfig):
    """Settings of `dkd`."""

    temperature: PositiveFloat = 4.0
    """Divides the logits of teacher and student."""
    target: NonNegativeFloat = 1.0
    """Weight of the target class against all others (the paper's alpha)."""
    others: NonNegativeFloat = 8.0
    """Weight of the distribution over the other classes (the paper's beta)."""


class Dkd(Method):
    """T^2 * mean over rows of target * KL(b_T || b_S) + others * KL(o_T || o_S), all softened by T.

    b is (probability of the target class, that of all others), o the distribution over the other classes. The target
    is the teacher's most likely class: shared rows have no truth, which the paper takes.
    """

    Config = DkdConfig

    @property
    def needs(self) -> Needs:
        return Needs(encodings=DISTRIBUTIONS, temperatures=(float(self.config.temperature),))

    def teacher_term(self, rows: SharedRows) -> Tensor:
        import torch
        from torch.nn.functional import kl_div

        tau, target_B1 = self.config.temperature, rows.teacher.top1()[:, None]

        def parts(logits_BC: Tensor) -> tuple[Tensor, Tensor]:
            """log of b (B, 2) and of o (B, C - 1)."""
            among = torch.ones_like(logits_BC, dtype=torch.bool).scatter_(1, target_B1, False)
            rest_BC = logits_BC[among].reshape(len(logits_BC), -1) / tau
            both = torch.cat([logits_BC.gather(1, target_B1) / tau, rest_BC.logsumexp(dim=1, keepdim=True)], dim=1)
            return torch.log_softmax(both, dim=1), torch.log_softmax(rest_BC, dim=1)

        student, teacher = parts(wide(rows.student_BC)), parts(teacher_logits(rows, tau))
        target_B, others_B = (
            kl_div(ours, theirs, reduction="none", log_target=True).sum(dim=1)
            for ours, theirs in zip(student, teacher, strict=True)
        )
        loss_B = self.config.target * target_B + self.config.others * others_B
        return weighted_mean(tau**2 * loss_B, rows.weights_B)


METHOD = Dkd
