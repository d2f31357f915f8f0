"""What can be found wrong with the blocks `training:` of a spec before any work starts. Loads no torch."""

from __future__ import annotations

from collections.abc import Iterator

from schemas.spec import Spec
from schemas.training import Training
from stages.training.optim import optimizer_faults


def training_faults(spec: Spec) -> Iterator[str]:
    """One sentence for every setting that makes no sense for the teacher or student that it stands in."""
    for where, training in _blocks(spec):
        yield from (f"{where}.optimizer: {problem}" for problem in optimizer_faults(training))


def _blocks(spec: Spec) -> Iterator[tuple[str, Training]]:
    for name, teacher in spec.teachers.items():
        yield f"teachers.{name}.training", teacher.training
    for name, student in spec.students.items():
        yield f"students.{name}.training", student.training
