"""Columns that models read and domains lack, found before anything is made. Loads no torch."""

from __future__ import annotations

from collections.abc import Iterator

from pipeline.graph.project import Project
from schemas.errors import UserError
from schemas.spec import Domain
from stages.tasks import get_task
from stages.tasks.base import Task
from stages.training.models import preprocessing_of


def side_faults(project: Project) -> Iterator[str]:
    """Teachers and students that read a column which one of their domains does not have."""
    spec, normal, task = project.spec, project.normal, get_task(project.spec.task)
    asked = [
        (f"teachers.{name}", settings, {*spec.teachers[name].domains, *project.targets_of(name)})
        for name, settings in normal.teacher_preprocessing.items()
    ]
    on_source = [arm for arm in spec.evaluation.baselines if arm.startswith("source")]
    for name, settings in normal.student_preprocessing.items():
        student = spec.students[name]
        source = project.source(student) if on_source else None
        asked.append((spec.where(name), settings, {project.target(student), *([source] if source else [])}))
    for where, settings, domains in asked:
        try:
            reads = task.reads(preprocessing_of(task, settings))
        except UserError as error:
            yield f"{where}.{error}"
            continue
        for domain in sorted(domains & spec.domains.keys()):
            columns = _columns(spec.domains[domain], task) if reads else None
            for side in reads or ():
                if columns is not None and side not in columns:
                    mend = f"name it with `domains.{domain}.columns: {{{side}: …}}`, or let it read another"
                    if where.startswith("students") and domain == _source_of(project, where):
                        mend = f"leave {' and '.join(on_source)} out of `evaluation.baselines`"
                    yield f"{where} reads '{side}', which domain '{domain}' does not have: {mend}"


def _source_of(project: Project, where: str) -> str | None:
    student = project.spec.students.get(where.removeprefix("students."))
    return None if student is None else project.source(student)


def _columns(domain: Domain, task: Task) -> set[str] | None:
    """The task's roles that a domain has; None where that is not known before it is fetched."""
    from stages.domains.examples import EXAMPLES
    from stages.domains.sources import open_source

    if domain.from_.example is not None:
        found = EXAMPLES.get(domain.from_.example).columns
    else:
        roles, labels = task.roles, task.labels
        found = open_source(domain.from_, domain.columns, roles, optional=frozenset(roles), labels=labels).column_names
    return {role for role in task.roles if domain.columns.get(role, role) in found} if found else None
