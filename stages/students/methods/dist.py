"""Correlation in the place of divergence: a student need not copy a stronger teacher's numbers, only their relations.

Huang, You, Wang, Qian and Xu, "Knowledge Distillation from A Stronger Teacher", NeurIPS 2022 (arXiv:2205.10536): its
inter-class and intra-class relations.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from pydantic import NonNegativeFloat, PositiveFloat

from stages.students.methods._graph import real
from stages.students.methods.base import DISTRIBUTIONS, AlphaConfig, Method, Needs, SharedRows, teacher_logits, wide

if TYPE_CHECKING:
    from torch import Tensor


class DistConfig(AlphaConfig):
    """Settings of `dist`."""

    temperature: PositiveFloat = 1.0
    """Divides the logits of teacher and student."""
    inter: NonNegativeFloat = 1.0
    """Weight of the relation between the classes of a sample (the paper's beta)."""
    intra: NonNegativeFloat = 1.0
    """Weight of the relation between the samples of a class (the paper's gamma); needs a batch of 2 or more."""


class Dist(Method):
    """T^2 * (inter * (1 - mean over rows of r) + intra * (1 - mean over classes of r)).

    r is Pearson's correlation of the student's and the teacher's probabilities at T: along the classes of a row, and
    along the rows of a class.
    """

    Config = DistConfig

    @property
    def needs(self) -> Needs:
        return Needs(encodings=DISTRIBUTIONS, temperatures=(float(self.config.temperature),))

    def teacher_term(self, rows: SharedRows) -> Tensor:
        import torch

        tau = self.config.temperature
        student, teacher = real(rows.weights_B, wide(rows.student_BC), teacher_logits(rows, tau))
        q, p = torch.softmax(student / tau, dim=1), torch.softmax(teacher / tau, dim=1)
        inter, intra = 1.0 - _correlation(q, p).mean(), 1.0 - _correlation(q.T, p.T).mean()
        loss: Tensor = tau**2 * (self.config.inter * inter + self.config.intra * intra)
        return loss


def _correlation(one: Tensor, other: Tensor) -> Tensor:
    """Pearson's correlation along the last dimension; near 0 where one of the two hardly varies."""
    one, other = one - one.mean(dim=1, keepdim=True), other - other.mean(dim=1, keepdim=True)
    return (one * other).sum(dim=1) / ((one.square().sum(dim=1) + 1e-12) * (other.square().sum(dim=1) + 1e-12)).sqrt()


METHOD = Dist
