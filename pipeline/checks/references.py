"""Names that refer to nothing, to themselves, or to what does not fit. Loads no torch."""

from __future__ import annotations

from collections.abc import Iterator

from pipeline.checks.draws import draw_faults
from pipeline.graph.project import Project
from schemas.errors import SpecError, did_you_mean
from schemas.spec import Spec, Student


def reference_faults(spec: Spec) -> Iterator[str]:
    def missing(where: str, kind: str, name: str | None, known: object) -> Iterator[str]:
        names = list(known)  # type: ignore[call-overload]
        if name is not None and name not in names:
            yield f"{where}: no {kind} is called '{name}'{did_you_mean(name, names)}"

    for name, teacher in spec.teachers.items():
        where = f"teachers.{name}"
        for domain in teacher.domains:
            yield from missing(f"{where}.domains", "domain", domain, spec.domains)
        yield from missing(f"{where}.from", "teacher", teacher.from_, spec.teachers)
        yield from missing(f"{where}.student", "student", teacher.student, spec.students)
        if teacher.student in spec.students and teacher.seed not in (seeds := spec.students[teacher.student].seeds):
            known = ", ".join(map(str, seeds))
            yield f"{where}.seed: student '{teacher.student}' is trained with seed {known}, not with {teacher.seed}"
        if teacher.adapt is not None:
            yield from missing(f"{where}.adapt.domain", "domain", teacher.adapt.domain, spec.domains)
        trail = [name]
        while (parent := spec.teachers[trail[-1]].from_) in spec.teachers and parent is not None:
            if parent in trail:
                yield f"{where}: made from itself, by way of {' -> '.join([*trail, parent])}"
                break
            trail.append(parent)
    for name, labels in spec.labels.items():
        yield from missing(f"labels.{name}.teacher", "teacher", labels.teacher, spec.teachers)
        yield from missing(f"labels.{name}.domain", "domain", labels.domain, spec.domains)
        for parent in labels.fuse:
            yield from missing(f"labels.{name}.fuse", "label set", parent, spec.labels)
        if circle := _circle(spec, (name,)):
            yield f"labels.{name}: fused with itself, by way of {' -> '.join(circle)}"
            continue
        for parent in labels.fuse:
            own, other = spec.domain_of(name), spec.domain_of(parent)
            if parent in spec.labels and own != other:
                yield f"labels.{name}: it speaks of domain '{own}', and '{parent}', which it fuses, of '{other}'"
    for name, student in spec.students.items():
        where = spec.where(name)
        yield from missing(f"{where}.labels", "label set", student.labels, spec.labels)
        yield from missing(f"{where}.domain", "domain", student.domain, spec.domains)
        yield from missing(f"{where}.start", "teacher", student.start, spec.teachers)
        if student.labels is None and student.method.name != "none":
            yield f"{where}: method '{student.method.name}' learns from labels: give `labels`, or use method none"
        if student.calibrate and not _can_calibrate(spec, student):
            yield f"{where}: `calibrate` fits the labels of a teacher to validation labels: give both, or leave it out"
        if spec.resources.data_parallel and (settings := student.training.of_one_rank):
            yield f"{where}: {', '.join(settings)} needs whole batches on one worker: leave out `data_parallel`"
        if student.labels is None and student.domain is None:
            yield f"{where}: nothing says which domain it is for: give `labels` or `domain`"
        spoken = None if student.labels is None else spec.domain_of(student.labels)
        if spoken is not None and student.domain not in (None, spoken):
            yield (
                f"{where}: labels '{student.labels}' speak of domain '{spoken}', "
                f"not of '{student.domain}': leave out `domain`"
            )
    for name, described in spec.domains.items():
        if described.split is None and "" in described.from_.places:
            example = "{train: 0.8, validation: 0.1, test: 0.1}"
            yield f"domains.{name}: give `split` (such as {example}), or one place per split"
        if described.split is not None and "" not in described.from_.places:
            yield f"domains.{name}: the source comes in one place per split: leave out `split`"


def order_faults(project: Project) -> Iterator[str]:
    """Circles, and students that start from a teacher which is another model."""
    spec = project.spec
    try:
        project.in_order()
    except SpecError as error:
        yield from error.problems
        return
    for name, student in spec.students.items():
        if student.pretrain and (project.source(student) is None or project.maps_classes(student)):
            yield (
                f"{spec.where(name)}.pretrain: the source is where its teacher was trained, and none with its "
                "classes is known: leave it out, or `start` from a teacher"
            )
        if student.start is None:
            continue
        model, _ = project.made_like(student.start)
        if model is not None and model != student.model:
            yield (
                f"{spec.where(name)}.start: teacher '{student.start}' is a {model.name} and the student a "
                f"{student.model.name}: weights go over between equal models only"
            )
        if spec.teachers[project.root(student.start)].class_map:
            yield f"{spec.where(name)}.start: teacher '{student.start}' has other classes behind a `class_map`"
    yield from draw_faults(project)


def _can_calibrate(spec: Spec, student: Student) -> bool:
    if student.labels not in spec.labels:
        return False
    domain = spec.domains.get(str(spec.domain_of(str(student.labels))))
    return domain is None or domain.label_budget is None or domain.label_budget.validation > 0


def _circle(spec: Spec, trail: tuple[str, ...]) -> tuple[str, ...] | None:
    """The way from a label set over those that it fuses back to itself."""
    for parent in spec.labels[trail[-1]].fuse if trail[-1] in spec.labels else ():
        if parent == trail[0]:
            return (*trail, parent)
        if parent not in trail and (found := _circle(spec, (*trail, parent))):
            return found
    return None
