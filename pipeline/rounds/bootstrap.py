"""Bootstrap: teacher and students are updated in turn, with hard labels, on what is hard.

Students learn the teacher's most likely class of the rows that the teacher finds hard, and the truth where it may be
seen (Reed et al., "Training Deep Neural Networks on Noisy Labels with Bootstrapping", 2015, arXiv:1412.6596, hard form;
selection as in Shrivastava et al., CVPR 2016, arXiv:1604.03540). The teacher then learns from the best student what
that one is sure of, and labels again.
"""

from __future__ import annotations

from collections.abc import Sequence

from pydantic import PositiveFloat

from pipeline.rounds.base import Base, Most, Past, Policy, Round, Stop, at
from pipeline.rounds.born_again import own_labels
from pipeline.rounds.migration import shorter
from schemas.base import Contract, Fraction, Part
from schemas.spec import Labels, Student, Teacher


class BootstrapConfig(Contract):
    """Settings of `bootstrap`."""

    share: Fraction = 0.5
    """Share of a batch that is hard: what students learn of the teacher."""
    sure: Fraction = 0.8
    """Least probability of the student's most likely class that the teacher learns."""
    alpha: Fraction = 0.7
    """The other side's share of the loss, for students and teacher; the rest is the truth that may be seen."""
    rate: PositiveFloat = 0.3
    """Learning rate of the teacher's update, as a factor on its own."""
    length: PositiveFloat = 0.5
    """Steps or epochs of the teacher's update, as a factor on its own."""


class Bootstrap(Policy):
    """Each round: the teacher learns from the best student of the round before, labels again, and students learn."""

    Config = BootstrapConfig

    def initial(self, base: Base) -> Round:
        for student in base.students.values():
            base.teacher_of(str(student.labels))
        return Round(self._students(base, 1), "hard labels of the hard half of each batch", base.teachers, base.labels)

    def next(self, base: Base, history: Sequence[Past]) -> Round | Stop:
        now, number = history[-1], history[-1].number + 1
        worth = {name: figure for name, one in now.students.items() if (figure := base.figure(one)) is not None}
        best = max(worth, key=lambda name: worth[name])
        said = at(best, now.number)
        teachers: dict[str, Teacher] = {said: Teacher(student=said)}
        labels: dict[str, Labels] = {said: own_labels(base, base.students[best], said)}
        helpers: dict[str, Student] = {}
        words = []
        for name in dict.fromkeys(str(student.labels) for student in base.students.values()):
            teacher = base.teacher_of(name)
            start = teacher if now.number == 1 else at(teacher, now.number)
            tuning, root = at(f"{teacher}.tuning", number), base.root(teacher)
            helpers[tuning] = Student(
                model=root.model or Part(name="none"),
                preprocessing=root.preprocessing,
                labels=said,
                start=start,
                baselines=(),
                method=Part.model_validate(
                    {"name": "confident", "threshold": self.config.sure, "alpha": self.config.alpha}
                ),
                training=shorter(root.training, self.config.rate, self.config.length),
            )
            teachers[at(teacher, number)] = Teacher(student=tuning)
            labels[at(name, number)] = base.labels[name].model_copy(update={"teacher": at(teacher, number)})
            words.append(f"{teacher} learns what {best} ({worth[best]:.3f}) is sure of, from {self.config.sure:g} on")
        return Round(self._students(base, number), "; ".join(words), teachers, labels, helpers)

    def _students(self, base: Base, number: int) -> dict[str, Student]:
        method = Part.model_validate(
            {"name": "hard-examples", "target": "hard", "share": self.config.share, "alpha": self.config.alpha}
        )
        names = {name: str(student.labels) for name, student in base.students.items()}
        return {
            name: student.model_copy(
                update={"method": method, "labels": names[name] if number == 1 else at(names[name], number)}
            )
            for name, student in base.students.items()
        }

    def most(self, base: Base) -> Most:
        sets = len({student.labels for student in base.students.values()})
        return Most(sets, sets + 1, len(base.students))


POLICY = Bootstrap
