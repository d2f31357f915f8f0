"""Label sets that become one, and those that each student weighs itself (`weights: selection`): what keeps a spec from
it. Loads no torch.
"""

from __future__ import annotations

from collections.abc import Iterator

from pipeline.checks.trainings import can_validate
from pipeline.graph.project import Project
from schemas.spec import Spec
from stages.tasks import TASKS


def ensemble_faults(project: Project) -> Iterator[str]:
    """Sets that do not fit together or cannot be weighed by selection quality, and students that have none."""
    spec = project.spec
    task = TASKS.get(spec.task.name)
    weighed = [name for name, labels in spec.labels.items() if labels.weighed_by_students]
    for name in weighed:
        where, mend = f"labels.{name}.weights", "give numbers, or `confidence`"
        if task.coded or task.metrics[0] in task.errors | task.unbounded:
            yield f"{where}: the quality of '{spec.task.name}' is no share of samples that are right: {mend}"
        if spec.rounds is not None:
            yield f"{where}: rounds weigh label sets from round to round themselves: {mend}"
    for name, labels in spec.labels.items():
        known = {parent: project.views(parent) for parent in labels.fuse if not _given(spec, parent)}
        first = next(iter(known), None)
        for parent, views in known.items():
            if first is not None and views != known[first]:
                yield (
                    f"labels.{name}.fuse: '{first}' and '{parent}' hold other views of a sample, so they do not speak "
                    "of the same: give both the same `views`"
                )
        for parent in labels.fuse:
            if parent in weighed:
                yield (
                    f"labels.{name}.fuse: '{parent}' is weighed by each student for itself: fuse the sets that it is "
                    "made of"
                )
    for name, student in spec.students.items():
        domain = str(spec.domain_of(student.labels)) if student.labels in weighed else None
        if domain is not None and not can_validate(spec, domain):
            yield (
                f"{spec.where(name)}.labels: the sets of '{student.labels}' are weighed by validation labels, and "
                f"'{domain}' has none: give it some (`label_budget`, `split`), or `weights` of another kind"
            )


def _given(spec: Spec, labels: str) -> bool:
    """Whether the views of a label set are known by its store alone."""
    while spec.labels[labels].fuse:
        labels = spec.labels[labels].fuse[0]
    return spec.labels[labels].from_ is not None
