"""What a policy is: from what was measured of the rounds so far, the next round, or the end. One file each.

Policies are pure: no files, no torch, no clock. They see selection quality alone: `schemas.rounds.Measured` has no
room for more. A round is asked for in the words of a spec, as teachers, label sets and students that are new in it, and
unfolds into ordinary steps; what it repeats of an earlier round is named and not made again.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from statistics import mean
from typing import Any, ClassVar

from schemas.base import Contract, Part
from schemas.errors import SpecError
from schemas.rounds import Measured
from schemas.spec import Labels, Student, Teacher


@dataclass(frozen=True)
class Round:
    """What one round of a chain asks for, beyond the rounds before it. Names are the chain's own."""

    students: Mapping[str, Student]
    """The students that the round is judged by, by their name in the spec."""
    decision: str
    """Why it is what it is, in words."""
    teachers: Mapping[str, Teacher] = field(default_factory=dict)
    """Teachers that are new in it."""
    labels: Mapping[str, Labels] = field(default_factory=dict)
    """Label sets that are new in it."""
    helpers: Mapping[str, Student] = field(default_factory=dict)
    """Students that are trained on the way, such as a teacher that is tuned."""
    state: Mapping[str, Any] = field(default_factory=dict)
    """What the policy wants to remember: plain JSON."""


@dataclass(frozen=True)
class Stop:
    """No further round."""

    reason: str
    """Why, in words."""


@dataclass(frozen=True)
class Past:
    """A round that is over."""

    number: int
    """From 1."""
    round: Round
    """What was asked."""
    students: Mapping[str, Measured]
    """What came of its students, by their name in the spec."""
    sets: Mapping[str, Measured]
    """What the label sets that they learned from are worth."""
    classes: int
    """Number of classes."""
    disagreement: float | None = None
    """Share of rows on which its students differ, over all pairs; none for a single one."""


@dataclass(frozen=True)
class Most:
    """What each round after the first one makes of a chain, at most."""

    teachers: int
    """Teachers that are trained, tuned or carried over."""
    labels: int
    """Passes of a teacher over the target."""
    students: int
    """Students that are trained."""


@dataclass(frozen=True)
class Base:
    """What the spec asks for: the material of every round."""

    teachers: Mapping[str, Teacher]
    labels: Mapping[str, Labels]
    students: Mapping[str, Student]
    metric: str
    """What leads."""
    error: bool = False
    """Whether less of it is better."""
    bounded: bool = True
    """Whether it is a share of 1."""
    fixed: frozenset[str] = frozenset()
    """Teachers without batch-norm statistics, as far as they are made."""

    def figure(self, measured: Measured) -> float | None:
        """What guides, larger being better: the leading metric on the validation budget, else the mean of agreement (of
        students) and confidence; None where there is no figure.
        """
        if measured.failure is not None:
            return None
        if self.metric in measured.quality:
            value = measured.quality[self.metric]
            return -value if self.error else value
        known = [value for value in (measured.agreement, measured.confidence) if value is not None]
        return mean(known) if known else None

    def of_round(self, past: Past) -> float | None:
        """The mean of what guides over a round's students; None where all of them failed."""
        found = [figure for one in past.students.values() if (figure := self.figure(one)) is not None]
        return mean(found) if found else None

    def best(self, history: Sequence[Past]) -> Past:
        """The first of the best rounds; a round without figures is worse than any other."""

        def rank(past: Past) -> float:
            figure = self.of_round(past)
            return float("-inf") if figure is None else figure

        return max(history, key=rank)

    def points(self, difference: float) -> str:
        """A difference in words."""
        return f"{100 * difference:.1f} points" if self.bounded else f"{difference:.3g}"

    def teacher_of(self, labels: str) -> str:
        """The teacher that a label set of the spec asks. Raises SpecError if it has none of its own."""
        teacher = self.labels[labels].teacher
        if teacher is None:
            raise SpecError(f"labels.{labels}: rounds of this policy need a `teacher` that they can change")
        return teacher

    def root(self, teacher: str) -> Teacher:
        """The teacher at the beginning of a chain of `from`."""
        found = self.teachers[teacher]
        return self.root(found.from_) if found.from_ is not None else found

    def as_asked(self) -> Round:
        """The first round, as the spec says."""
        return Round(self.students, "as the spec says", self.teachers, self.labels)


def at(name: str, number: int) -> str:
    """The name of what is made anew in a round."""
    return f"{name}.r{number}"


def changed(part: Part, **settings: Any) -> Part:
    """A plug-in with some settings changed."""
    return Part.model_validate({"name": part.name, **part.settings, **settings})


class Policy(ABC):
    """One way to go from round to round. Built with its validated `Config`; holds no other state."""

    Config: ClassVar[type[Contract]]
    """Settings of the spec's `rounds.policy`."""

    def __init__(self, config: Any) -> None:
        self.config = config

    def initial(self, base: Base) -> Round:
        """The first round. Raises SpecError where the spec gives it nothing to work with."""
        return base.as_asked()

    @abstractmethod
    def next(self, base: Base, history: Sequence[Past]) -> Round | Stop:
        """What follows on the rounds so far, the newest last; at least one student of it has figures."""

    @abstractmethod
    def most(self, base: Base) -> Most:
        """What each further round of a chain makes, at most."""
