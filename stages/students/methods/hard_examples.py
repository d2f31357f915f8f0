"""Hard examples: soft labels of the rows that the teacher finds hard, or of the easy ones first.

Selection as in Shrivastava et al., "Training Region-based Object Detectors with Online Hard Example Mining", CVPR 2016
(arXiv:1604.03540); the curriculum as in Bengio et al., "Curriculum Learning", ICML 2009. Difficulty is the teacher's
own word; by its loss it is known only where the truth may be seen, which are the labelled rows.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Literal, Self

from pydantic import NonNegativeFloat, model_validator

from schemas.base import Fraction
from schemas.labels import ENTROPY, MARGIN
from stages.students.methods.base import LabelledRows, Method, Needs, SharedRows, beside, wide
from stages.students.methods.soft import SoftConfig

if TYPE_CHECKING:
    from torch import Tensor


class HardExamplesConfig(SoftConfig):
    """Settings of `hard-examples`."""

    measure: Literal["entropy", "margin", "loss"] = "entropy"
    """What is hard: a flat distribution, two classes that are close, or (on the labelled rows alone) a teacher that is
    wrong."""
    stored: bool = False
    """Whether the measure is read as the label set stores it (`difficulty`), exact whatever the encoding lost; else it
    is worked out from the labels."""
    target: Literal["soft", "hard"] = "soft"
    """Learn the distribution (at `temperature`), or the most likely class."""
    select: Literal["share", "threshold", "weight", "curriculum"] = "share"
    """The hardest `share` of a batch; all above `threshold`; all, weighted by difficulty; or the easiest `share`, which
    grows to all of them by the end."""
    share: Fraction = 0.5
    """Share of the rows that are kept, or that a curriculum begins with; at least one row."""
    threshold: NonNegativeFloat = 0.3
    """Least difficulty that is kept, from 0 (sure) to 1."""
    power: NonNegativeFloat = 1.0
    """Exponent of the difficulty as a weight."""

    @model_validator(mode="after")
    def _storable(self) -> Self:
        if self.stored and self.measure == "loss":
            raise ValueError("the teacher's loss rests on truth and is never stored: leave out `stored`")
        return self


class HardExamples(Method):
    """Sum over rows of w * loss / sum of w, where w is 0 or 1 by selection, or difficulty^power.

    The loss is that of soft labels or, with `target: hard`, the cross-entropy against the teacher's argmax.
    Difficulty at temperature 1, between 0 and 1: entropy / log C, or 1 - (largest - second largest probability). With
    `loss` it is the teacher's cross-entropy / log C, the shared rows all count alike, and the labelled rows' own
    cross-entropy is weighted. Where nothing is above the threshold the loss is 0.
    """

    Config = HardExamplesConfig

    @property
    def needs(self) -> Needs:
        by_loss, stored = self.config.measure == "loss", self.config.stored
        return Needs(
            fields=frozenset({self.config.measure} if stored else ()),
            temperatures=(
                *(() if self.config.target == "hard" else (float(self.config.temperature),)),
                *(() if stored or by_loss else (1.0,)),
            ),
            labelled=by_loss,
        )

    def teacher_term(self, rows: SharedRows) -> Tensor:
        from torch.nn.functional import cross_entropy

        from stages.students.sparse import divergence

        student_BC = wide(rows.student_BC)
        if self.config.target == "hard":
            loss_B = cross_entropy(student_BC, rows.teacher.top1(), reduction="none")
        else:
            tau, spread = self.config.temperature, self.config.tail == "spread"
            loss_B = divergence(student_BC, rows.teacher, tau, spread)
        weights_B = rows.weights_B.to(loss_B.dtype)
        if self.config.measure != "loss":
            weights_B = self._weights(self._difficulty(rows).to(loss_B.dtype), weights_B, rows.progress)
        return _mean(loss_B, weights_B)

    def truth_term(self, rows: LabelledRows, label_smoothing: float) -> Tensor:
        from torch.nn.functional import cross_entropy

        if rows.teacher is None or self.config.measure != "loss":
            return super().truth_term(rows, label_smoothing)
        loss_L = cross_entropy(wide(rows.student_LC), rows.truth_L, label_smoothing=label_smoothing, reduction="none")
        said_LC = rows.teacher.dense(1.0).to(loss_L.dtype)
        wrong_L = cross_entropy(said_LC, rows.truth_L, reduction="none") / math.log(max(2, said_LC.shape[1]))
        counts_L = loss_L.new_ones(len(loss_L)) if rows.weights_L is None else rows.weights_L.to(loss_L.dtype)
        return _mean(loss_L, self._weights(wrong_L, counts_L, rows.progress))

    def _difficulty(self, rows: SharedRows) -> Tensor:
        """How hard each row (B,) is for the teacher, from 0 to 1."""
        import torch

        classes = rows.student_BC.shape[1]
        if self.config.measure == ENTROPY:
            entropy = beside(rows, ENTROPY) if self.config.stored else _entropy(rows.teacher.dense(1.0))
            return entropy / math.log(max(2, classes))
        if self.config.stored:
            return 1.0 - beside(rows, MARGIN)
        two = torch.softmax(rows.teacher.dense(1.0), dim=1).topk(min(2, classes), dim=1).values
        return 1.0 - (two[:, 0] - two[:, 1] if classes > 1 else two[:, 0])

    def _weights(self, difficulty_B: Tensor, weights_B: Tensor, progress: float) -> Tensor:
        """What each row counts; rows that only fill up a batch count nothing."""
        import torch

        if self.config.select == "threshold":
            return weights_B * difficulty_B.ge(self.config.threshold)
        if self.config.select == "weight":
            return weights_B * (difficulty_B.clamp(min=0.0) + 1e-6).pow(self.config.power)
        share, easy = self.config.share, self.config.select == "curriculum"
        if easy:
            share += (1.0 - share) * progress
        kept = max(1, math.ceil(share * int((weights_B > 0).sum())))
        rank = torch.where(weights_B > 0, -difficulty_B if easy else difficulty_B, -torch.inf)
        chosen = torch.zeros_like(weights_B)
        chosen[rank.argsort(descending=True, stable=True)[:kept]] = 1.0
        return weights_B * chosen


def _entropy(logits_BC: Tensor) -> Tensor:
    import torch

    log_p = torch.log_softmax(wide(logits_BC), dim=1)
    entropy_B: Tensor = torch.special.entr(log_p.exp()).sum(dim=1)
    return entropy_B


def _mean(values_B: Tensor, weights_B: Tensor) -> Tensor:
    return (values_B * weights_B).sum() / weights_B.sum().clamp(min=1e-12)


METHOD = HardExamples
