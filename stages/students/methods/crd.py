"""Contrast: a sample's student features lie nearer to the teacher's of the same sample than to those of others.

Tian, Krishnan and Isola, "Contrastive Representation Distillation", ICLR 2020 (arXiv:1910.10699). The paper draws
16,384 negatives from a memory of two vectors for every sample of the domain: state that would grow with the domain in
every student and every checkpoint. Here the other rows of the batch are the negatives, as in van den Oord et al. 2018
(InfoNCE, arXiv:1807.03748): a batch of 64 costs two matrices of 64 x 64. Larger batches give more negatives.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from pydantic import PositiveFloat, PositiveInt

from schemas.labels import FEATURES
from schemas.training import Training
from stages.students.methods._graph import real
from stages.students.methods.base import EVERY_ENCODING, AlphaConfig, Method, Needs, SharedRows, Sizes, beside, features

if TYPE_CHECKING:
    from torch import Tensor

    from stages.students.learners import Learner


class CrdConfig(AlphaConfig):
    """Settings of `crd`."""

    width: PositiveInt = 128
    """Width of the space in which both sides are compared."""
    temperature: PositiveFloat = 0.07
    """Divides the cosines; smaller ones look at the nearest negatives."""


class Crd(Method):
    """1/2 mean over rows i of -log softmax over j of (s_i t_j / T) at j = i, and the same with both sides swapped.

    s and t are the features of student and teacher through a linear map each (learned beside), scaled to length 1.
    """

    Config = CrdConfig
    _embed: Any

    @property
    def needs(self) -> Needs:
        return Needs(fields=frozenset({FEATURES}), encodings=EVERY_ENCODING, features=True)

    def learners(self, sizes: Sizes, training: Training) -> dict[str, Learner]:
        from torch import nn

        from stages.students.learners import Learner

        ours, theirs = sizes.student_features or 1, sizes.fields[FEATURES] or 1
        width = self.config.width
        self._embed = nn.ModuleDict({"student": nn.Linear(ours, width), "teacher": nn.Linear(theirs, width)})
        return {"embeddings": Learner.as_student(self._embed, training)}

    def teacher_term(self, rows: SharedRows) -> Tensor:
        import torch
        from torch.nn.functional import cross_entropy, normalize

        student, teacher = real(rows.weights_B, features(rows), beside(rows, FEATURES))
        s, t = normalize(self._embed["student"](student), dim=1), normalize(self._embed["teacher"](teacher), dim=1)
        alike_BB = s @ t.T / self.config.temperature
        own_B = torch.arange(len(alike_BB), device=alike_BB.device)
        return (cross_entropy(alike_BB, own_B) + cross_entropy(alike_BB.T, own_B)) / 2


METHOD = Crd
