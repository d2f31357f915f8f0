"""Steps that train students: on the target, and on the source for the baselines that start from there.

Where a grid is halved, its points are compared first: the students of a point that was stopped are not trained.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pipeline.graph.project import Project
from pipeline.graph.steps import Graph, Outputs
from pipeline.graph.teachers import held_out
from schemas.artifacts import LabelSetRef
from schemas.base import Part
from schemas.errors import SpecError
from schemas.students import (
    Arm,
    CohortInputs,
    Ensemble,
    HalvingInputs,
    PointOutcome,
    SourceInputs,
    Stream,
    StudentInputs,
)
from stages.training.schedules import total_steps

ON_TARGET: tuple[Arm, ...] = ("distilled", "no-teacher", "source-finetuned")
ON_SOURCE: tuple[Arm, ...] = ("source-only",)


def add_halving(graph: Graph, project: Project, name: str, after: tuple[str, ...]) -> None:
    """`halving.GRID`, once, where the points of a student's grid are to be compared before their training ends."""
    from stages.tasks import TASKS

    spec = project.spec
    halving, point = spec.students[name].halving, spec.students[name].point
    if halving is None or point is None or f"halving.{point.grid}" in graph.steps:
        return
    grid = point.grid
    points = list(project.grids[grid])
    metric = next(iter(spec.evaluation.metrics or TASKS.get(spec.task.name).metrics))

    def inputs(done: Outputs) -> HalvingInputs:
        cohorts = tuple(_cohort(project, done, name, ("distilled",), {}, None) for name in points)
        return HalvingInputs(halving=halving, metric=metric, points=cohorts)

    needs = [need for name in points for need in _needs(project, name, ("distilled",))]
    graph.add(f"halving.{grid}", needs, inputs, after=after)


def add_student(graph: Graph, project: Project, name: str, after: tuple[str, ...]) -> None:
    """`students.NAME` on the target and, where an arm is or starts from it, `students.NAME.source` before it."""
    student = project.spec.students[name]
    source = project.source(student)
    if source is not None and any(arm.startswith("source") for arm in project.trained_arms(name)):
        _add(graph, project, f"students.{name}.source", name, ON_SOURCE, after)
    _add(graph, project, f"students.{name}", name, ON_TARGET, after)


def _add(graph: Graph, project: Project, step: str, name: str, arms: tuple[Arm, ...], after: tuple[str, ...]) -> None:
    needs, source = _needs(project, name, arms), f"{step}.source"
    if set(arms).intersection(project.on_source_first(name)):
        needs.append(source)
    halving = project.halving(name)
    if halving is not None:
        needs.append(halving)

    def inputs(done: Outputs) -> CohortInputs:
        starts = {out.seed: out.model for out in (done[source].students if source in needs else ())}
        outcome = None
        if halving is not None:
            number = list(project.grids[halving.partition(".")[2]]).index(name)
            outcome = done[halving].points[number]
        return _cohort(project, done, name, arms, starts, outcome)

    on_source = arms == ON_SOURCE
    grid = project.of_grid(name, "students", ".source" if on_source else "")
    graph.add(step, needs, inputs, after=after, group=project.cohort(name, on_source).name, grid=grid)


def _domain(project: Project, name: str, arms: tuple[Arm, ...]) -> str:
    """Where some arms of a student are trained."""
    student = project.spec.students[name]
    source = project.source(student)
    return source if arms == ON_SOURCE and source is not None else project.target(student)


def _needs(project: Project, name: str, arms: tuple[Arm, ...]) -> list[str]:
    student, domain = project.spec.students[name], _domain(project, name, arms)
    seeds = student.seeds if project.has_budget(domain) else (0,)
    needs = [*project.data(domain, *seeds), *project.data(project.target(student))]
    if "distilled" in arms and student.labels:
        needs += [f"labels.{one}" for one in project.weighed(student) or (student.labels,)]
    if student.start:
        needs.append(f"teachers.{student.start}")
    for mixed in dict.fromkeys(filter(None, (project.mixed(name, arm) for arm in arms))):
        needs += project.data(mixed, *(student.seeds if project.has_budget(mixed) else (0,)))
    return needs


def _cohort(
    project: Project,
    done: Outputs,
    name: str,
    arms: tuple[Arm, ...],
    starts: Mapping[int, Any],
    outcome: PointOutcome | None,
) -> CohortInputs:
    domain, target = _domain(project, name, arms), project.target(project.spec.students[name])
    samples, split = project.data(domain)
    return CohortInputs(
        task=project.task,
        classes=classes_for(project, done, name),
        stream=Stream(
            samples=done[samples].samples,
            split=done[split].split,
            **project.stream_settings(name, arms == ON_SOURCE),
        ),
        students=tuple(
            _student(project, done, name, arm, seed, domain, starts).model_copy(
                update={"stopped": outcome.stopped if outcome and seed not in outcome.failed else None}
            )
            for arm in arms
            if arm in project.trained_arms(name)
            for seed in project.spec.students[name].seeds
            if arm not in project.on_source_first(name) or starts[seed] is not None
        ),
        held_out=held_out(project, done, target) if domain != target else (),
    )


def _student(
    project: Project, done: Outputs, name: str, arm: Arm, seed: int, domain: str, starts: Mapping[int, Any]
) -> StudentInputs:
    student = project.spec.students[name]
    training = project.normal.student_training[name]
    distilled = arm == "distilled"
    if arm in student.baseline_rates:
        training = training.model_copy(update={"learning_rate": student.baseline_rates[arm]})
    start = starts[seed] if arm in project.on_source_first(name) else None
    if start is None and student.weights:
        start = project.weights[student.weights]
    if start is None and student.start:
        start = done[f"teachers.{student.start}"].model
    if start is not None:  # it is of the size that is asked for already
        training = training.model_copy(update={"scaling": None})
    source = None
    if mixed := project.mixed(name, arm):
        samples, split, budget = project.data(mixed, seed)
        seen = done[budget].budget if training.source_share else None
        source = SourceInputs(samples=done[samples].samples, split=done[split].split, budget=seen)
    return StudentInputs(
        name=name,
        arm=arm,
        model=student.model,
        method=project.normal.method[name] if distilled else Part(name="none"),
        training=training,
        steps=total_steps(training, done[f"splits.{project.target(student)}"].train),
        seed=seed,
        labels=_labels(project, done, name) if distilled else None,
        budget=done[project.budget(domain, seed)].budget,
        source=source,
        calibrate=distilled and student.calibrate,
        start=start,
    )


def _labels(project: Project, done: Outputs, name: str) -> LabelSetRef | Ensemble | None:
    """What a student learns from: a label set, or those that it weighs itself."""
    student = project.spec.students[name]
    if student.labels is None:
        return None
    if weighed := project.weighed(student):
        sets = tuple(done[f"labels.{one}"].labels for one in weighed)
        return Ensemble(sets=sets, space=project.spec.labels[student.labels].space)
    ref: LabelSetRef = done[f"labels.{student.labels}"].labels
    return ref


def classes_for(project: Project, done: Outputs, name: str) -> tuple[str, ...]:
    """Classes that a student speaks of: its target's, else those that its teacher declares or was trained on.

    Raises SpecError if nothing says which.
    """
    student = project.spec.students[name]
    classes: tuple[str, ...] | None = done[f"domains.{project.target(student)}"].classes
    if classes is None and student.labels is not None:
        said = (project.weighed(student) or (student.labels,))[0]
        teacher, source = project.spec.labels[said].teacher, project.source(student)
        if teacher is None:  # given or fused: the set itself says
            return tuple(done[f"labels.{said}"].classes)
        root = project.spec.teachers[project.root(teacher)]
        classes = root.classes or (done[f"domains.{source}"].classes if source else None)
    if classes is None:
        raise SpecError(
            f"{project.spec.where(name)}: nothing says which classes there are: give `classes` to its domain"
        )
    return classes
