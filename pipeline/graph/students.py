"""Steps that train students: on the target, and on the source for the baselines that start from there."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pipeline.graph.project import Project
from pipeline.graph.steps import Graph, Outputs
from pipeline.graph.teachers import held_out
from schemas.base import Part
from schemas.errors import SpecError
from schemas.students import Arm, CohortInputs, SourceInputs, Stream, StudentInputs
from stages.training.schedules import total_steps


def add_student(graph: Graph, project: Project, name: str, after: tuple[str, ...]) -> None:
    """`students.NAME` on the target and, where a baseline starts from it, `students.NAME.source` before it."""
    student = project.spec.students[name]
    source = project.source(student)
    if source is not None and any(arm.startswith("source") for arm in project.arms(name)):
        _add(graph, project, f"students.{name}.source", source, name, ("source-only",), after)
    _add(
        graph,
        project,
        f"students.{name}",
        project.target(student),
        name,
        ("distilled", "no-teacher", "source-finetuned"),
        after,
    )


def _add(
    graph: Graph, project: Project, step: str, domain: str, name: str, arms: tuple[Arm, ...], after: tuple[str, ...]
) -> None:
    student = project.spec.students[name]
    target, on_source = project.target(student), arms == ("source-only",)
    needs = [*project.data(domain, *(student.seeds if project.has_budget(domain) else (0,))), *project.data(target)]
    if "distilled" in arms and student.labels:
        needs.append(f"labels.{student.labels}")
        needs += project.data(mixed) if (mixed := project.mixed(name)) else ()
    source = f"{step}.source"
    if "source-finetuned" in arms and "source-finetuned" in project.arms(name):
        needs.append(source)

    def inputs(done: Outputs) -> CohortInputs:
        starts = {out.seed: out.model for out in (done[source].students if source in needs else ())}
        samples, split = project.data(domain)
        return CohortInputs(
            task=project.task,
            classes=classes_for(project, done, name),
            stream=Stream(
                samples=done[samples].samples,
                split=done[split].split,
                **project.stream_settings(name, on_source),
            ),
            students=tuple(
                _student(project, done, name, arm, seed, domain, starts)
                for arm in arms
                if arm in project.trained_arms(name)
                for seed in student.seeds
                if arm != "source-finetuned" or starts[seed] is not None
            ),
            held_out=(held_out(project, done, target),) if domain != target else (),
        )

    graph.add(step, needs, inputs, after=after, group=project.cohort(name, on_source))


def _student(
    project: Project, done: Outputs, name: str, arm: Arm, seed: int, domain: str, starts: Mapping[int, Any]
) -> StudentInputs:
    student = project.spec.students[name]
    training = project.normal.student_training[name]
    distilled = arm == "distilled"
    start = starts[seed] if arm == "source-finetuned" else None
    if start is None and student.weights:
        start = project.weights[student.weights]
    mixed = project.mixed(name) if distilled else None
    source = None
    if mixed is not None:
        samples, split = project.data(mixed)
        source = SourceInputs(samples=done[samples].samples, split=done[split].split)
    return StudentInputs(
        name=name,
        arm=arm,
        model=student.model,
        method=project.normal.method[name] if distilled else Part(name="none"),
        training=training,
        steps=total_steps(training, done[f"splits.{project.target(student)}"].train),
        seed=seed,
        labels=done[f"labels.{student.labels}"].labels if distilled and student.labels else None,
        budget=done[project.budget(domain, seed)].budget,
        source=source,
        calibrate=distilled and student.calibrate,
        start=start,
    )


def classes_for(project: Project, done: Outputs, name: str) -> tuple[str, ...]:
    """Classes that a student speaks of: its target's, else those that its teacher declares or was trained on.

    Raises SpecError if nothing says which.
    """
    student = project.spec.students[name]
    classes: tuple[str, ...] | None = done[f"domains.{project.target(student)}"].classes
    if classes is None and student.labels is not None:
        teacher, source = project.spec.labels[student.labels].teacher, project.source(student)
        if teacher is None:  # given or fused: the set itself says
            return tuple(done[f"labels.{student.labels}"].classes)
        root = project.spec.teachers[project.root(teacher)]
        classes = root.classes or (done[f"domains.{source}"].classes if source else None)
    if classes is None:
        raise SpecError(f"students.{name}: nothing says which classes there are: give `classes` to its domain")
    return classes
