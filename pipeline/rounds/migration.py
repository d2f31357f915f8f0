"""Migration: the teacher is carried over to the target step by step, and labels it again after each.

First its normalisation statistics (AdaBN, Li et al. 2016); then it is tuned on the label budget and on those of its own
labels that it is sure of, class-balanced (self-training as in Zou et al., ECCV 2018, arXiv:1810.07911), with a
threshold that relaxes while selection quality rises and tightens when it falls.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from pydantic import PositiveFloat

from pipeline.rounds.base import Base, Most, Past, Policy, Round, Stop, at
from schemas.base import Contract, Fraction, Part
from schemas.spec import Adapt, Labels, Student, Teacher
from schemas.training import Training
from stages.training.schedules import DEFAULT_EPOCHS


class MigrationConfig(Contract):
    """Settings of `migration`."""

    statistics: bool = True
    """Whether the first step re-estimates batch-norm statistics; a teacher without such layers is tuned at once."""
    threshold: Fraction = 0.9
    """Least probability of the teacher's most likely class that it is tuned on."""
    move: Fraction = 0.1
    """How far the threshold relaxes or tightens."""
    lowest: Fraction = 0.5
    """Least threshold."""
    highest: Fraction = 0.98
    """Largest threshold: above it nothing is left to learn from, and the chain ends."""
    balance: Fraction = 0.5
    """How far rare classes count more among the pseudo-labels: 0 not at all, 1 so that all weigh alike."""
    alpha: Fraction = 0.5
    """Share of the pseudo-labels in the loss of the tuning; the rest is the label budget."""
    rate: PositiveFloat = 0.3
    """Learning rate of the tuning, as a factor on the teacher's own."""
    length: PositiveFloat = 0.5
    """Steps or epochs of the tuning, as a factor on the teacher's own."""
    training: Training | None = None
    """How a teacher is tuned; left out: as it was trained, by `rate` and `length`."""


class Migration(Policy):
    """Round 1 as asked; then a carried-over teacher, its label set, and the students on it, round by round."""

    Config = MigrationConfig

    def initial(self, base: Base) -> Round:
        asked = base.as_asked()
        for student in base.students.values():
            base.teacher_of(str(student.labels))
        state = {name: {"threshold": self.config.threshold, "tuned": 0} for name in _sets(base)}
        return Round(asked.students, asked.decision, asked.teachers, asked.labels, state=state)

    def next(self, base: Base, history: Sequence[Past]) -> Round | Stop:
        now, number = history[-1], history[-1].number + 1
        teachers: dict[str, Teacher] = {}
        labels: dict[str, Labels] = {}
        helpers: dict[str, Student] = {}
        state: dict[str, Any] = {}
        words = []
        for name in _sets(base):
            teacher, domain = base.teacher_of(name), base.labels[name].domain
            memory = dict(now.round.state[name])
            new = at(name, number)
            labels[new] = base.labels[name].model_copy(update={"teacher": at(teacher, number)})
            adaptable = base.teachers[teacher].adapt is None and teacher not in base.fixed
            if self.config.statistics and number == 2 and adaptable:
                teachers[at(teacher, 2)] = Teacher(from_=teacher, adapt=Adapt(domain=str(domain)))
                words.append(f"{teacher}: its normalisation statistics are those of {domain}")
                state[name] = memory
                continue
            best, memory, said = self._threshold(base, history, name, memory)
            if memory["threshold"] > self.config.highest:
                return Stop(f"{teacher} no longer gains: {said}")
            start = teacher if best.number == 1 else at(teacher, best.number)
            tuning = at(f"{teacher}.tuning", number)
            helpers[tuning] = self._tuning(base, teacher, start, _set_of(name, best), memory["threshold"])
            teachers[at(teacher, number)] = Teacher(student=tuning)
            words.append(f"{teacher} of round {best.number} is tuned: {said}")
            state[name] = memory
        students = {
            name: student.model_copy(update={"labels": at(str(student.labels), number)})
            for name, student in base.students.items()
        }
        return Round(students, "; ".join(words), teachers, labels, helpers, state)

    def _threshold(
        self, base: Base, history: Sequence[Past], name: str, memory: dict[str, Any]
    ) -> tuple[Past, dict[str, Any], str]:
        """(round whose teacher is tuned, what is remembered, the threshold in words)."""
        now, before = history[-1], memory["threshold"]
        worth = [base.figure(past.sets[_set_of(name, past)]) for past in history]
        figures = [float("-inf") if figure is None else figure for figure in worth]
        best = history[figures.index(max(figures))]
        if not memory["tuned"]:
            return best, {"threshold": before, "tuned": 1}, f"on labels of at least {before:g}"
        fell = best is not now
        after = round(before + self.config.move if fell else max(before - self.config.move, self.config.lowest), 4)
        what = f"it fell by {base.points(max(figures) - figures[-1])}" if fell else "it rose"
        word = "tightens" if fell else "relaxes"
        return best, {"threshold": after, "tuned": 1}, f"{what}, so the threshold {word}: {before:g} -> {after:g}"

    def _tuning(self, base: Base, teacher: str, start: str, labels: str, threshold: float) -> Student:
        root, config = base.root(teacher), self.config
        return Student(
            model=root.model or Part(name="none"),
            preprocessing=root.preprocessing,
            labels=labels,
            start=start,
            baselines=(),
            method=Part.model_validate(
                {"name": "confident", "threshold": threshold, "balance": config.balance, "alpha": config.alpha}
            ),
            training=config.training or shorter(root.training, config.rate, config.length),
        )

    def most(self, base: Base) -> Most:
        return Most(len(_sets(base)), len(_sets(base)), len(base.students))


def shorter(training: Training, rate: float, length: float) -> Training:
    """A training with its learning rate and its length multiplied."""
    what = "epochs" if training.steps is None else "steps"
    many = training.steps or training.epochs or DEFAULT_EPOCHS
    more = {"learning_rate": training.learning_rate * rate, what: max(1, round(many * length))}
    return training.model_copy(update={**more, "scaling": None, "balance": None})


def _sets(base: Base) -> list[str]:
    """Label sets that students of the spec learn from."""
    return list(dict.fromkeys(str(student.labels) for student in base.students.values()))


def _set_of(name: str, past: Past) -> str:
    """The set that stood in a round for one of the spec."""
    return name if past.number == 1 else at(name, past.number)


POLICY = Migration
