"""Born again: each student becomes the teacher of the next one of its kind.

Furlanello et al., "Born Again Neural Networks", ICML 2018 (arXiv:1805.04770).
"""

from __future__ import annotations

from collections.abc import Sequence

from pipeline.rounds.base import Base, Most, Past, Policy, Round, Stop, at
from schemas.base import Contract
from schemas.spec import Labels, Student, Teacher


class BornAgainConfig(Contract):
    """Settings of `born-again`: none."""


class BornAgain(Policy):
    """Round 1 as asked; in each later one a student learns from what it was in the round before."""

    Config = BornAgainConfig

    def next(self, base: Base, history: Sequence[Past]) -> Round | Stop:
        before, number = history[-1], history[-1].number + 1
        teachers: dict[str, Teacher] = {}
        labels: dict[str, Labels] = {}
        students: dict[str, Student] = {}
        words = []
        for name, student in base.students.items():
            figure = base.figure(before.students[name])
            if figure is None:
                students[name] = before.round.students[name]
                words.append(f"{name} failed and teaches nobody")
                continue
            taught = at(name, before.number)
            teachers[taught] = Teacher(student=taught)
            labels[taught] = own_labels(base, student, taught)
            students[name] = student.model_copy(update={"labels": taught})
            words.append(f"{name} of round {before.number} ({figure:.3f}) is the teacher")
        return Round(students, "; ".join(words), teachers, labels) if number > 1 else base.as_asked()

    def most(self, base: Base) -> Most:
        count = len(base.students)
        return Most(0, count, count)


def own_labels(base: Base, student: Student, teacher: str) -> Labels:
    """A label set like the one that a student of the spec learns from, of another teacher."""
    name = str(student.labels)
    while (found := base.labels[name]).fuse:
        name = found.fuse[0]
    kept = {key: getattr(found, key) for key in ("encoding", "precision", "batch_size", "views", "difficulty")}
    return Labels.model_validate({"teacher": teacher, "domain": found.domain, **kept, "features": found.features})


POLICY = BornAgain
