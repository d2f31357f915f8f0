"""Sequence-level distillation: what the teacher said is taken for the truth, item by item.

Kim and Rush, "Sequence-Level Knowledge Distillation", EMNLP 2016 (arXiv:1606.07947), eq. 8: the teacher's sequence
distribution is replaced by its mode, as its beam search finds it. For tasks whose models are forced,
such as translation.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from schemas.labels import SAID
from stages.students.methods.base import AlphaConfig, Method, Needs, SharedRows, beside, weighted_mean, wide

if TYPE_CHECKING:
    from torch import Tensor


class SequenceConfig(AlphaConfig):
    """Settings of `sequence`."""


class Sequence(Method):
    """Mean over items of the cross-entropy against the item that the teacher said."""

    Config = SequenceConfig

    @property
    def needs(self) -> Needs:
        """What was said."""
        return Needs(fields=frozenset({SAID}))

    def teacher_term(self, rows: SharedRows) -> Tensor:
        from torch.nn.functional import cross_entropy

        loss_N = cross_entropy(wide(rows.student_BC), beside(rows, SAID).long(), reduction="none")
        return weighted_mean(loss_N, rows.weights_B)


METHOD = Sequence
