"""Confident labels: only what the teacher is sure of is learned, and rare classes may count more.

The threshold as in Sohn et al., "FixMatch", NeurIPS 2020 (arXiv:2001.07685), equation 4; the balance of
pseudo-labelled classes after Zou et al., "Domain Adaptation for Semantic Segmentation via Class-Balanced
Self-Training", ECCV 2018 (arXiv:1810.07911), with weights in the place of thresholds of their own.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal

from schemas.base import Fraction
from schemas.training import Training
from stages.students.methods.base import Method, Needs, SharedRows, Sizes, wide
from stages.students.methods.soft import SoftConfig

if TYPE_CHECKING:
    from torch import Tensor

    from stages.students.learners import Learner

MEMORY = 0.99
"""Share of the running frequency of classes that a step keeps."""


class ConfidentConfig(SoftConfig):
    """Settings of `confident`."""

    threshold: Fraction = 0.8
    """Least probability of the teacher's most likely class, at temperature 1, that a row is learned from."""
    target: Literal["hard", "soft"] = "hard"
    """Learn the most likely class, or the distribution (at `temperature`)."""
    balance: Fraction = 0.0
    """How far rare classes count more: 0 not at all, 1 so that all confident classes weigh alike."""


class Confident(Method):
    """Mean over rows of [p_y >= threshold] * v_y * loss, with y the teacher's most likely class.

    The mean is over all rows, so a batch of which little is sure teaches little. v_y = (mean of f / f_y)^balance, f the
    running frequency of classes among confident rows (remembered beside the student, from even on).
    """

    Config = ConfidentConfig
    _seen: Any = None

    @property
    def needs(self) -> Needs:
        soft = (float(self.config.temperature),) if self.config.target == "soft" else ()
        return Needs(temperatures=(1.0, *soft))

    def learners(self, sizes: Sizes, training: Training) -> dict[str, Learner]:
        import torch

        from stages.students.learners import Learner

        if not self.config.balance:
            return {}
        self._seen = torch.nn.Module()
        self._seen.register_buffer("frequency_C", torch.full((sizes.classes,), 1.0 / sizes.classes))
        return {"classes": Learner(self._seen, None)}

    def teacher_term(self, rows: SharedRows) -> Tensor:
        import torch
        from torch.nn.functional import cross_entropy

        from stages.students.sparse import divergence

        best_B, student_BC = rows.teacher.top1(), wide(rows.student_BC)
        sure_B = torch.softmax(rows.teacher.dense(1.0), dim=1).gather(1, best_B[:, None])[:, 0]
        if self.config.target == "hard":
            loss_B = cross_entropy(student_BC, best_B, reduction="none")
        else:
            tau, spread = self.config.temperature, self.config.tail == "spread"
            loss_B = divergence(student_BC, rows.teacher, tau, spread)
        weights_B = rows.weights_B.to(loss_B.dtype)
        kept_B = weights_B * (sure_B >= self.config.threshold)
        counted_B = kept_B if self._seen is None else kept_B * self._balanced(best_B, kept_B)
        loss: Tensor = (loss_B * counted_B).sum() / weights_B.sum()
        return loss

    def _balanced(self, best_B: Tensor, kept_B: Tensor) -> Tensor:
        """Weight of each row's class (B,), by the frequencies as they were before this step."""
        import torch

        before_C: Tensor = self._seen.frequency_C.to(kept_B.dtype, copy=True)
        if self._seen.training and bool(kept_B.any()):
            now_C = torch.zeros_like(before_C).index_add_(0, best_B, kept_B) / kept_B.sum()
            self._seen.frequency_C.mul_(MEMORY).add_((1.0 - MEMORY) * now_C)
        share_C = before_C.clamp(min=1e-3 / len(before_C))
        return (share_C.mean() / share_C).pow(self.config.balance)[best_B]


METHOD = Confident
