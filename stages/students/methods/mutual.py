"""Mutual learning: the student and peers of its own train together, each learning from the others' answers as well.

Zhang et al., "Deep Mutual Learning", CVPR 2018 (arXiv:1706.00384), equation 7, beside a teacher's labels. The peers are
the student's own: trained from its first step to its last, checkpointed with it, and let go at its end, so a result
depends on nobody else in the cohort.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

from pydantic import Field, NonNegativeFloat

from schemas.base import Part
from schemas.training import Training
from stages.students.methods.base import LabelledRows, Method, Needs, SharedRows, Sizes, weighted_mean, wide
from stages.students.methods.soft import SoftConfig

if TYPE_CHECKING:
    from torch import Tensor

    from stages.students.learners import Learner


class MutualConfig(SoftConfig):
    """Settings of `mutual`."""

    peers: Annotated[tuple[Part, ...], Field(min_length=1)]
    """Models that train beside the student, of any architecture."""
    weight: NonNegativeFloat = 1.0
    """What the other answers count beside the teacher's."""


class Mutual(Method):
    """Sum over student and peers k of soft(k, teacher) + weight * T^2 * mean over others j of KL(p_j || p_k).

    Answers of others are constants in it, as in the paper. The truth of the labelled rows is learned by all.
    """

    Config = MutualConfig
    _peers: Any = ()

    @property
    def needs(self) -> Needs:
        return Needs(temperatures=(float(self.config.temperature),), inputs=True)

    @property
    def models(self) -> tuple[Part, ...]:
        return tuple(self.config.peers)

    def learners(self, sizes: Sizes, training: Training) -> dict[str, Learner]:
        from stages.students.learners import Learner

        if sizes.build is None:
            raise ValueError("peers are models, and nothing here builds them")
        self._peers = [sizes.build(part, number) for number, part in enumerate(self.config.peers, start=1)]
        return {f"peer {number}": Learner.as_student(peer, training) for number, peer in enumerate(self._peers)}

    def teacher_term(self, rows: SharedRows) -> Tensor:
        from torch.nn.functional import kl_div

        from stages.students.sparse import divergence

        tau, spread = self.config.temperature, self.config.tail == "spread"
        said_BC = [wide(rows.student_BC), *(wide(peer(rows.inputs)) for peer in self._peers)]
        logs_BC = [(answer / tau).log_softmax(1) for answer in said_BC]
        term: Tensor = said_BC[0].new_zeros(())
        for own, answer in enumerate(said_BC):
            loss_B = divergence(answer, rows.teacher, tau, spread)
            others = [log.detach() for number, log in enumerate(logs_BC) if number != own]
            for other in others:
                apart_B = kl_div(logs_BC[own], other, reduction="none", log_target=True).sum(1)
                loss_B = loss_B + self.config.weight * tau**2 / len(others) * apart_B
            term = term + weighted_mean(loss_B, rows.weights_B)
        return term

    def truth_term(self, rows: LabelledRows, label_smoothing: float) -> Tensor:
        from dataclasses import replace

        term = super().truth_term(rows, label_smoothing)
        for peer in self._peers:
            term = term + super().truth_term(replace(rows, student_LC=peer(rows.inputs)), label_smoothing)
        return term


METHOD = Mutual
