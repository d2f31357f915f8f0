"""Standardised logits: the student learns how the classes stand to each other, not how large logits are.

Sun, Ren, Li, Wang and Cao, "Logit Standardization in Knowledge Distillation", CVPR 2024 (arXiv:2403.01427), section 4.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from pydantic import PositiveFloat

from stages.students.methods.base import (
    LOGITS,
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


class LogitStandardisationConfig(AlphaConfig):
    """Settings of `logit-standardisation`."""

    temperature: PositiveFloat = 2.0
    """Divides the standardised logits of teacher and student: the paper's base temperature."""


class LogitStandardisation(Method):
    """T^2 * mean over rows of KL(softmax(Z(t) / T) || softmax(Z(z) / T)), Z(x) = (x - mean) / deviation along a row.

    The deviation is that of all classes (divided by C, as in the paper; the authors' code divides by C - 1), with
    1e-5 added to its square. A student of this method may stay less sure than its teacher: calibrate it.
    """

    Config = LogitStandardisationConfig

    @property
    def needs(self) -> Needs:
        return Needs(encodings=LOGITS)

    def teacher_term(self, rows: SharedRows) -> Tensor:
        from torch.nn.functional import kl_div, layer_norm, log_softmax

        tau = self.config.temperature
        ours, theirs = (
            log_softmax(layer_norm(logits_BC, logits_BC.shape[1:]) / tau, dim=1)
            for logits_BC in (wide(rows.student_BC), teacher_logits(rows))
        )
        kl_B = kl_div(ours, theirs, reduction="none", log_target=True).sum(dim=1)
        return weighted_mean(tau**2 * kl_B, rows.weights_B)


METHOD = LogitStandardisation
