"""Co-training: students teach each other, beside the teachers that they began with.

Each student becomes a teacher of its peers, never of itself (Blum and Mitchell 1998; Qiao et al., "Deep Co-Training",
ECCV 2018, arXiv:1803.05984). What the others say is fused with the weights of a majority vote whose members err
independently (`stages.votes`), by the share of errors in selection: a member that is no better than chance has none.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from pipeline.rounds.base import Base, Most, Past, Policy, Round, Stop, at
from pipeline.rounds.born_again import own_labels
from schemas.base import Contract, Fraction
from schemas.errors import SpecError
from schemas.rounds import Measured
from schemas.spec import Labels, Student, Teacher
from stages.votes import vote


class CoTrainingConfig(Contract):
    """Settings of `co-training`."""

    collapse: Fraction = 0.01
    """Students that differ on a smaller share of the rows, and did not get better, have collapsed onto each other."""
    least_weight: Fraction = 0.1
    """A member whose weight is a smaller part of the largest one's does not speak."""


class CoTraining(Policy):
    """Round 1 as asked; then each student learns from its teachers and from what its peers were in the round before."""

    Config = CoTrainingConfig

    def initial(self, base: Base) -> Round:
        if len(base.students) < 2:
            raise SpecError("rounds.policy: co-training takes two students or more, of different models or teachers")
        return base.as_asked()

    def next(self, base: Base, history: Sequence[Past]) -> Round | Stop:
        now, number = history[-1], history[-1].number + 1
        if (why := self._collapsed(base, history)) is not None:
            return Stop(why)
        figures = {name: figure for name, one in now.students.items() if (figure := base.figure(one)) is not None}
        teachers = {at(name, now.number): Teacher(student=at(name, now.number)) for name in figures}
        labels = {at(name, now.number): own_labels(base, base.students[name], at(name, now.number)) for name in figures}
        own = dict(history[0].sets)
        students: dict[str, Student] = {}
        words = []
        for name, student in base.students.items():
            peers = {at(peer, now.number): now.students[peer] for peer in figures if peer != name}
            weights = self._weights(base, {**own, **peers}, now.classes)
            if len(weights) == 1:
                source = next(iter(weights))
            else:
                source = at(f"to-{name}", number)
                labels[source] = Labels(fuse=tuple(weights), weights=tuple(weights.values()))
            students[name] = student.model_copy(update={"labels": source})
            left_out = sorted({*own, *peers} - set(weights))
            said = " + ".join(f"{weight:.2f} {member}" for member, weight in weights.items())
            words.append(f"{name} learns from {said}" + (f", not from {', '.join(left_out)}" if left_out else ""))
        return Round(students, "; ".join(words), teachers, labels)

    def _weights(self, base: Base, members: Mapping[str, Measured], classes: int) -> dict[str, float]:
        """Weight of each member that speaks; the best one alone where none is better than chance."""
        worth = {name: figure for name, one in members.items() if (figure := base.figure(one)) is not None}
        votes = {name: vote(figure, classes) if base.bounded else 1.0 for name, figure in worth.items()}
        most = max(votes.values(), default=0.0)
        if most <= 0:
            return {max(worth, key=lambda name: worth[name]): 1.0} if worth else dict.fromkeys(members, 1.0)
        kept = {name: value for name, value in votes.items() if value >= max(self.config.least_weight * most, 1e-6)}
        whole = sum(kept.values())
        return {name: round(value / whole, 4) for name, value in kept.items()}

    def _collapsed(self, base: Base, history: Sequence[Past]) -> str | None:
        now = history[-1]
        if len(history) < 2 or now.disagreement is None or now.disagreement >= self.config.collapse:
            return None
        figures = [base.of_round(past) for past in history[-2:]]
        if None in figures or figures[1] > figures[0]:  # type: ignore[operator]
            return None
        return (
            f"the students have collapsed onto each other: they differ on {100 * now.disagreement:.1f}% of the rows, "
            "and got no better"
        )

    def most(self, base: Base) -> Most:
        count = len(base.students)
        return Most(0, count, count)


POLICY = CoTraining
