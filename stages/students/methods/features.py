"""Feature regression: the student's penultimate features, through a projection of its own, match the teacher's.

Romero et al., "FitNets: Hints for Thin Deep Nets", ICLR 2015 (arXiv:1412.6550), equation 3, at the penultimate layer.
The head learns nothing by it: give it true labels, or another method beside this one.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal

from schemas.labels import FEATURES
from schemas.training import Training
from stages.students.methods.base import (
    EVERY_ENCODING,
    AlphaConfig,
    Method,
    Needs,
    SharedRows,
    Sizes,
    beside,
    features,
    weighted_mean,
)

if TYPE_CHECKING:
    from torch import Tensor

    from stages.students.learners import Learner


class FeaturesConfig(AlphaConfig):
    """Settings of `features`."""

    distance: Literal["squared", "cosine"] = "squared"
    """`squared` halves the mean square of what differs; `cosine` is 1 minus the cosine, whatever the lengths."""


class Features(Method):
    """With s the student's features, t the teacher's (width F) and r a linear map that is learned beside:

    squared   mean over rows of |r(s) - t|^2 / (2 F)
    cosine    mean over rows of 1 - cos(r(s), t)
    """

    Config = FeaturesConfig
    _projection: Any

    @property
    def needs(self) -> Needs:
        return Needs(fields=frozenset({FEATURES}), encodings=EVERY_ENCODING, features=True)

    def learners(self, sizes: Sizes, training: Training) -> dict[str, Learner]:
        from torch import nn

        from stages.students.learners import Learner

        self._projection = nn.Linear(sizes.student_features or 1, sizes.fields[FEATURES] or 1)
        return {"projection": Learner.as_student(self._projection, training)}

    def teacher_term(self, rows: SharedRows) -> Tensor:
        from torch.nn.functional import cosine_similarity

        mapped_BF, target_BF = self._projection(features(rows)), beside(rows, FEATURES)
        if self.config.distance == "cosine":
            return weighted_mean(1.0 - cosine_similarity(mapped_BF, target_BF, dim=1), rows.weights_B)
        return weighted_mean((mapped_BF - target_BF).square().mean(dim=1) / 2, rows.weights_B)


METHOD = Features
