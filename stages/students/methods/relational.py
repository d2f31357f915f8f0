"""Relations between samples: distances and angles among the rows of a batch are those of the teacher.

Park, Kim, Lu and Cho, "Relational Knowledge Distillation", CVPR 2019 (arXiv:1904.05068): its
distance-wise and angle-wise losses.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Literal

from pydantic import NonNegativeFloat

from schemas.labels import FEATURES
from stages.students.methods._graph import others, real, squared_distances
from stages.students.methods.base import (
    DISTRIBUTIONS,
    EVERY_ENCODING,
    AlphaConfig,
    Method,
    Needs,
    SharedRows,
    beside,
    features,
    teacher_logits,
    wide,
)

if TYPE_CHECKING:
    from torch import Tensor


class RelationalConfig(AlphaConfig):
    """Settings of `relational`."""

    of: Literal["outputs", "features"] = "outputs"
    """What stands for a sample: its centred logits, or its penultimate features (the paper's way)."""
    distance: NonNegativeFloat = 25.0
    """Weight of the distances between two samples."""
    angle: NonNegativeFloat = 50.0
    """Weight of the angles among three; costs memory of the batch's size to the third power."""


class Relational(Method):
    """distance * mean over pairs of h(d_S / mean d_S, d_T / mean d_T) + angle * mean over triples of h(a_S, a_T).

    d is the Euclidean distance of two rows, a the cosine of the angle at the middle one of three different rows, h the
    Huber loss with its corner at 1. The two sides may differ in width. Needs a batch of 3 or more.
    """

    Config = RelationalConfig

    @property
    def needs(self) -> Needs:
        if self.config.of == "features":
            return Needs(fields=frozenset({FEATURES}), encodings=EVERY_ENCODING, features=True, pairs=True)
        return Needs(encodings=DISTRIBUTIONS, temperatures=(1.0,), pairs=True)

    def teacher_term(self, rows: SharedRows) -> Tensor:
        from torch.nn.functional import smooth_l1_loss

        if self.config.of == "features":
            student, teacher = features(rows), beside(rows, FEATURES)
        else:  # logits are known up to a constant a row
            student, teacher = (
                logits - logits.mean(dim=1, keepdim=True) for logits in (wide(rows.student_BC), teacher_logits(rows))
            )
        student, teacher = real(rows.weights_B, student, teacher)
        if len(student) < 3:
            return student.sum() * 0.0
        (d_S, a_S), (d_T, a_T) = _relations(student), _relations(teacher)
        triples = math.perm(len(student), 3)
        angle = smooth_l1_loss(a_S, a_T, reduction="sum") / triples
        loss: Tensor = self.config.distance * smooth_l1_loss(d_S, d_T) + self.config.angle * angle
        return loss


def _relations(points_BF: Tensor) -> tuple[Tensor, Tensor]:
    """(distances of all pairs over their mean; cosine (B, B, B) at the middle of each triple, 0 where two are one)."""
    points_BF = points_BF - points_BF.mean(dim=0)  # what is left is small, and its products exact
    pairs, square_BB = others(points_BF), squared_distances(points_BF)
    distance_BB = square_BB.sqrt()
    distances = distance_BB[pairs]
    apart_BB = square_BB > 1e-6 * square_BB.mean()  # nearer ones are rounding
    gram_BB = points_BF @ points_BF.T
    # (x_i - x_j) (x_k - x_j) for all i, j, k, without their coordinates
    dots = gram_BB[:, None, :] - gram_BB[:, :, None] - gram_BB[None, :, :] + gram_BB.diagonal()[None, :, None]
    inverse_BB = (pairs & apart_BB) / distance_BB
    cosines = dots * inverse_BB[:, :, None] * inverse_BB[None, :, :] * pairs[:, None, :]
    return distances / distances.mean(), cosines


METHOD = Relational
