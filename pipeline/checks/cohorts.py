"""Students that cannot go together, be halved, or go through rounds. Loads no torch."""

from __future__ import annotations

from collections.abc import Iterator

from pipeline.graph.project import ALONE, Project
from schemas.errors import UserError, did_you_mean
from schemas.spec import Spec


def cohort_faults(project: Project) -> Iterator[str]:
    """Students that are pinned to one cohort and read different streams."""
    spec = project.spec
    first: dict[str, str] = {}
    for name, student in spec.students.items():
        if not student.cohort or student.cohort in ALONE:
            continue
        other = first.setdefault(student.cohort, name)
        ours, theirs = (
            {"domain": project.target(spec.students[who]), **project.stream_settings(who, on_source=False)}
            for who in (name, other)
        )
        if differing := [key for key in ours if ours[key] != theirs[key]]:
            key = differing[0]
            yield (
                f"{spec.where(name)}.cohort: '{student.cohort}' cannot hold both {other} and {name}: a cohort reads "
                f"one stream, and their `{key}` differs ({theirs[key]} and {ours[key]}): give them the same, or leave "
                "out `cohort`"
            )


def halving_faults(project: Project) -> Iterator[str]:
    """Grids to be halved by a selection quality that there is not."""
    spec = project.spec
    for name, student in spec.students.items():
        if student.halving is None:
            continue
        domain = spec.domains[project.target(student)]
        nothing = domain.label_budget is not None and domain.label_budget.validation == 0
        if nothing or (domain.split is not None and domain.split.validation == 0):
            yield (
                f"{spec.where(name)}.halving compares by selection quality, and domain '{project.target(student)}' has "
                "no validation labels: give it some (`label_budget`, `split`), or leave `halving` out"
            )


def rounds_faults(spec: Spec) -> Iterator[str]:
    """What no policy can work with."""
    from pipeline.rounds import POLICIES
    from stages.tasks import TASKS

    rounds = spec.rounds
    if rounds is None:
        return
    try:
        POLICIES.normal(rounds.policy, "rounds.policy")
    except UserError as error:
        yield from error.problems
    task = TASKS.get(spec.task.name)
    if task.forces or task.coded:
        yield f"rounds: policies go by the one class of a sample, which those of '{spec.task.name}' lack: leave out"
    metrics = task.metrics
    for metric in rounds.until:
        if metric not in metrics:
            yield f"rounds.until: no metric is called '{metric}'{did_you_mean(metric, metrics)}"
    if spec.soups:
        yield "rounds: soups go through no rounds: leave out `soups`, or `rounds`"
    if not spec.students:
        yield "rounds: there are no students to go from round to round with"
    for name, student in spec.students.items():
        if student.labels is None:
            yield f"{spec.where(name)}: rounds are of students with `labels`: leave it out, or leave out `rounds`"
        if student.point is not None and spec.where(name) == f"students.{student.point.grid}":
            yield f"{spec.where(name)}.grid: the points of a grid go through no rounds: leave out `grid`, or `rounds`"
