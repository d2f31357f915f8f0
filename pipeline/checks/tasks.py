"""What a task cannot do: metrics, models, sources and classes. Loads no torch."""

from __future__ import annotations

from collections.abc import Iterator

from pipeline.graph.project import Project
from pipeline.graph.teachers import classes_of
from schemas.errors import ModelError, UserError, did_you_mean
from schemas.spec import Spec
from stages.code import code_digest


def task_faults(spec: Spec) -> Iterator[str]:
    from stages.domains.sources import check_source
    from stages.tasks import get_task

    task = get_task(spec.task)
    for place, metric in enumerate(spec.evaluation.metrics):
        forced = [task.forced_metric] if task.forced_metric else []
        if metric not in (metrics := (*task.metrics, *task.of_classes, *forced)):
            known = did_you_mean(metric, metrics)
            yield f"evaluation.metrics: task '{spec.task.name}' has no metric '{metric}'{known}"
        if metric in forced and place == 0:
            yield f"evaluation.metrics: '{metric}' is told beside others and cannot lead: put another first"
    for name, domain in spec.domains.items():
        for problem in check_source(domain.from_, domain.columns, task.roles, task.optional, task.labels):
            yield f"domains.{name}: {problem}"
        if task.coded and domain.label_budget is not None and domain.label_budget.without:
            yield (
                f"domains.{name}.label_budget.without: samples of '{spec.task.name}' have no one class that they could "
                "be left out by: leave it out"
            )
    for name, teacher in spec.teachers.items():
        if teacher.class_map and task.forces:
            yield (
                f"teachers.{name}.class_map: what models of '{spec.task.name}' say is of the task's own classes: leave "
                "it out, and bring a model of these"
            )
    for where, part in dict.fromkeys(_models(spec)):
        if ":" in part:
            try:
                code_digest(part)
            except ModelError as error:
                yield f"{where}: {error}"
        library, slash, _ = part.partition("/")
        elsewhere = ":" in part or (slash and f"{library}/NAME" in task.libraries)
        if not elsewhere and part not in task.models:
            others = ", ".join([*task.libraries, "package.module:factory"])
            yield (
                f"{where}: task '{spec.task.name}' has no model '{part}'{did_you_mean(part, task.models)} "
                f"(or give {others})"
            )


def class_faults(project: Project) -> Iterator[str]:
    """Class sets that do not match, where the spec itself names them; others are compared once the data is packed."""
    spec = project.spec
    declared = {f"domains.{name}": domain for name, domain in spec.domains.items() if domain.classes is not None}
    for where, domain in declared.items():
        if domain.label_budget is not None:
            try:
                domain.label_budget.left_out(domain.classes or (), f"{where}.label_budget")
            except UserError as error:
                yield from error.problems
    for name, teacher in spec.teachers.items():
        targets = [target for target in project.targets_of(name) if f"domains.{target}" in declared]
        known = teacher.classes is not None or bool(teacher.domains)
        if teacher.from_ is None and known and all(f"domains.{domain}" in declared for domain in teacher.domains):
            try:
                classes_of(project, declared, name, targets)
            except UserError as error:
                yield from error.problems


def _models(spec: Spec) -> Iterator[tuple[str, str]]:
    for name, teacher in spec.teachers.items():
        if teacher.model is not None:
            yield f"teachers.{name}.model", teacher.model.name
        if (first := teacher.training.first_model) is not None:
            yield f"teachers.{name}.training.scaling.start", first.name
    for name, student in spec.students.items():
        yield f"{spec.where(name)}.model", student.model.name
        if (first := student.training.first_model) is not None:
            yield f"{spec.where(name)}.training.scaling.start", first.name
