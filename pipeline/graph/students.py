"""Steps that train students: one per cohort on the target, and one on the source for the baselines' starts."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from pipeline.graph.project import Project
from pipeline.graph.steps import Graph, Outputs
from schemas.base import Part
from schemas.errors import SpecError
from schemas.spec import Training
from schemas.students import Arm, CohortInputs, Stream, StudentInputs

DEFAULT_EPOCHS = 10
"""Passes over the shared rows where a spec gives neither epochs nor steps."""


def add_cohort(graph: Graph, project: Project, step: str, members: list[str], after: tuple[str, ...]) -> None:
    """`students.…` on the target and, where a baseline starts from it, `students.….source` before it."""
    first = project.spec.students[members[0]]
    source = project.source(first)
    if source is not None and any(arm.startswith("source") for name in members for arm in project.arms(name)):
        _add(graph, project, f"{step}.source", source, members, ("source-only",), after)
    _add(graph, project, step, project.target(first), members, ("distilled", "no-teacher", "source-finetuned"), after)


def _add(
    graph: Graph,
    project: Project,
    step: str,
    domain: str,
    members: list[str],
    arms: tuple[Arm, ...],
    after: tuple[str, ...],
) -> None:
    students = project.spec.students
    target = project.target(students[members[0]])
    seeds = {seed for name in members for seed in students[name].seed_list} if project.has_budget(domain) else {0}
    needs = [*project.data(domain, *sorted(seeds)), *project.data(target)]
    if "distilled" in arms:
        needs += [f"labels.{students[name].labels}" for name in members if students[name].labels]
    source = f"{step}.source"
    if "source-finetuned" in arms and any("source-finetuned" in project.arms(name) for name in members):
        needs.append(source)

    def inputs(done: Outputs) -> CohortInputs:
        started = done[source].students if source in needs else ()
        starts = {(out.name, out.seed): out.model for out in started}
        samples, split = project.data(domain)
        return CohortInputs(
            task=project.task,
            classes=classes_for(project, done, members),
            stream=Stream(
                samples=done[samples].samples, split=done[split].split, **project.stream_settings(members[0])
            ),
            students=tuple(
                _student(project, done, name, arm, seed, domain, starts)
                for name in members
                for arm in arms
                if arm in project.trained_arms(name)
                for seed in students[name].seed_list
                if arm != "source-finetuned" or starts[name, seed] is not None
            ),
        )

    graph.add(step, needs, inputs, after=after)


def _student(
    project: Project, done: Outputs, name: str, arm: Arm, seed: int, domain: str, starts: Mapping[Any, Any]
) -> StudentInputs:
    student = project.spec.students[name]
    training = project.normal.student_training[name]
    distilled = arm == "distilled"
    start = starts[name, seed] if arm == "source-finetuned" else None
    if start is None and student.weights:
        start = project.weights[student.weights]
    return StudentInputs(
        name=name,
        arm=arm,
        model=student.model,
        method=project.normal.method[name] if distilled else Part(name="none"),
        training=training,
        steps=steps_of(training, done[f"splits.{project.target(student)}"].train),
        seed=seed,
        labels=done[f"labels.{student.labels}"].labels if distilled and student.labels else None,
        budget=done[project.budget(domain, seed)].budget,
        start=start,
    )


def steps_of(training: Training, rows: int) -> int:
    """Optimiser steps of a training over `rows` rows: as given, or epochs of whole batches."""
    if training.steps is not None:
        return training.steps
    return max(1, (training.epochs or DEFAULT_EPOCHS) * math.ceil(rows / training.batch_size))


def classes_for(project: Project, done: Outputs, members: list[str]) -> tuple[str, ...]:
    """Classes that students speak of: their target's, else those that their teacher declares.

    Raises SpecError if nothing says which.
    """
    for name in members:
        student = project.spec.students[name]
        classes: tuple[str, ...] | None = done[f"domains.{project.target(student)}"].classes
        if classes is None and student.labels is not None:
            root = project.root(project.spec.labels[student.labels].teacher)
            source = project.source(student)
            classes = project.spec.teachers[root].classes or (done[f"domains.{source}"].classes if source else None)
        if classes is not None:
            return classes
    raise SpecError(f"students.{members[0]}: nothing says which classes there are: give `classes` to its domain")
