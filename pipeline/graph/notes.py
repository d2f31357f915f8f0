"""What a report says of trainings that were balanced, mixed with source rows, or ended early, of soups, and of label
sets that students weighed.
"""

from __future__ import annotations

from collections.abc import Iterator

from schemas.spec import Spec
from schemas.students import CohortOutputs
from schemas.teachers import DomainSize, TeacherOutputs


def training_notes(spec: Spec, step: str, done: TeacherOutputs | CohortOutputs) -> Iterator[str]:
    """One sentence on the sizes of what `step` learned from, and one for each training that ended early."""
    if isinstance(done, TeacherOutputs):
        teacher = spec.teachers[step.partition(".")[2]]
        sizes = zip(teacher.domains, done.sizes, strict=False)
        if teacher.training.balance is not None:
            yield f"{step} learned from " + "; ".join(f"{domain}: {_told(size)}" for domain, size in sizes)
        if done.ended_early:
            yield f"{step} {done.ended_early}"
        return
    student = spec.students[step.partition(".")[2]]
    if student.soup is not None:
        for one in done.students:
            left = [name for name in student.soup.of if name not in one.averaged]
            out = f", and leaves out {', '.join(left)}" if left else ""
            if one.averaged:
                yield f"{step} of seed {one.seed} is the mean of {', '.join(one.averaged)}{out}"
        return
    training = student.training
    first = next((one for one in done.students if one.target is not None), None)
    if first is not None and first.target is not None and (training.balance or training.source_share):
        source = f"; of the source: {_told(first.source)}" if first.source else ""
        yield f"{step} learned from its target: {_told(first.target)}{source}"
    for one in done.students:
        if one.ended_early:
            yield f"{step} ({one.arm}, seed {one.seed}) {one.ended_early}"
        if one.weights and student.labels is not None:
            parts = zip(one.weights, spec.labels[student.labels].fuse, strict=True)
            said = " + ".join(f"{weight:.2f} {name}" for weight, name in parts)
            yield f"{step} of seed {one.seed} learned from {said}"


def _told(size: DomainSize) -> str:
    classes = ", ".join(map(str, size.labelled))
    return f"{size.rows} rows, {sum(size.labelled)} with their truth ({classes} by class)"
