"""Consistent labels: what the teacher says in all views of a sample, and the more of it the more its views agree.

The mean over views as in Berthelot et al., "MixMatch", NeurIPS 2019 (arXiv:1905.02249), equations 6 and 7; agreement is
the share of the views' votes, as in query by committee (Dagan and Engelson, ICML 1995).
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from pydantic import NonNegativeFloat, PositiveFloat

from schemas.base import Fraction
from schemas.labels import VIEWS
from stages.students.methods.base import DISTRIBUTIONS, AlphaConfig, Method, Needs, SharedRows, beside, wide

if TYPE_CHECKING:
    from torch import Tensor


class ConsistencyConfig(AlphaConfig):
    """Settings of `consistency`."""

    temperature: PositiveFloat = 2.0
    """Softens the mean over views, and the student; below 1 the mean is sharpened, as in MixMatch."""
    threshold: Fraction = 0.0
    """Least agreement of the views that a row is learned from."""
    power: NonNegativeFloat = 1.0
    """How far agreement counts: a row weighs agreement^power; 0: all that reach the threshold weigh alike."""


class Consistency(Method):
    """T^2 * mean over rows of [a >= threshold] * a^power * KL(softmax(log m / T) || student softened by T).

    m is the mean over views of the teacher's distributions, a the share of views whose most likely class is that of m.
    The student is shown one view an epoch, and learns the same of each. The mean is over all rows, so a batch of
    which little is sure teaches little.
    """

    Config = ConsistencyConfig

    @property
    def needs(self) -> Needs:
        return Needs(fields=frozenset({VIEWS}), encodings=DISTRIBUTIONS, temperatures=(1.0,))

    def teacher_term(self, rows: SharedRows) -> Tensor:
        import torch
        from torch.nn.functional import kl_div, log_softmax

        tau, student_BC = self.config.temperature, wide(rows.student_BC)
        said_BVC = log_softmax(beside(rows, VIEWS), dim=2).to(student_BC.dtype)
        mean_BC = torch.logsumexp(said_BVC, dim=1) - math.log(said_BVC.shape[1])
        agreement_B = (said_BVC.argmax(dim=2) == mean_BC.argmax(dim=1, keepdim=True)).to(student_BC.dtype).mean(dim=1)
        target_BC, answer_BC = log_softmax(mean_BC / tau, dim=1), log_softmax(student_BC / tau, dim=1)
        loss_B = tau**2 * kl_div(answer_BC, target_BC, reduction="none", log_target=True).sum(dim=1)
        weights_B = rows.weights_B.to(loss_B.dtype)
        counted_B = weights_B * (agreement_B >= self.config.threshold) * agreement_B.pow(self.config.power)
        loss: Tensor = (loss_B * counted_B).sum() / weights_B.sum()
        return loss


METHOD = Consistency
