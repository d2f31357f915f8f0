"""What a student cannot learn from: labels made here or given, and rows of a source. Loads no torch."""

from __future__ import annotations

from collections.abc import Collection, Iterator

from pipeline.graph.project import Project
from schemas.encodings import Dense, Encoding
from schemas.errors import UserError
from schemas.labels import FEATURES, SAID, VIEWS, LabelSchema
from schemas.spec import Spec
from stages.classes import class_columns


def label_faults(spec: Spec) -> Iterator[str]:
    """Labels that a student's method cannot learn from, or encodings that the classes cannot have."""
    from stages.labels.encodings import check_temperatures, codec_of
    from stages.tasks import get_task

    task = get_task(spec.task)
    for name, labels in spec.labels.items():
        if labels.from_ is None:
            beside = [
                *labels.difficulty,
                *([FEATURES] if labels.features else []),
                *([SAID] if task.forces and SAID in task.recalls else []),
                *([VIEWS] if labels.views.count > 1 else []),
            ]
            read = Dense() if labels.weighed_by_students else labels.encoding  # a mean has every class
            yield from method_faults(spec, name, read, beside)
    for name, labels in spec.labels.items():
        for parent in labels.fuse:
            try:
                check_temperatures(spec.labels[parent].encoding, (1.0,))
            except UserError as error:
                yield f"labels.{name}.fuse: '{parent}' cannot be fused: {error}"
        domain = spec.domain_of(name)
        classes = spec.domains[domain].classes if domain in spec.domains else None
        if classes is not None:
            try:
                codec_of(labels.encoding, len(classes))
            except UserError as error:
                yield f"labels.{name}.encoding: {error}"


def given_faults(spec: Spec, labels: str, schema: LabelSchema, views: int = 1) -> Iterator[str]:
    """What keeps a spec from using labels of another store: its students' methods, or classes that its domain names."""
    from stages.tasks import get_task

    yield from method_faults(
        spec, labels, schema.encoding, [*(field.name for field in schema.fields), *([VIEWS] if views > 1 else [])]
    )
    domain, task = str(spec.domain_of(labels)), get_task(spec.task)
    own = task.vocabulary()
    if own is not None and task.forces and tuple(schema.classes) != own:
        if task.label_shape.kind == "token":
            yield (
                f"labels.{labels}: the set speaks of {len(schema.classes):,} tokens, `task.says` of {len(own):,} "
                "others: set `says` to the set's tokenizer, or distil what its teacher said, which needs no shared "
                "tokens: export its translations, and give them as the labels of a domain"
            )
        else:
            shown = ", ".join(schema.classes[:5])
            yield f"labels.{labels}: it speaks of other classes, or in another order: set `task.classes` to {shown}, …"
        return
    classes = own or spec.domains[domain].classes
    if classes is not None:
        try:
            class_columns(schema.classes, classes, "the label set", "the task" if own else f"domain '{domain}'")
        except UserError as error:
            yield f"labels.{labels}: {error}"


def method_faults(spec: Spec, labels: str, encoding: Encoding, beside: Collection[str]) -> Iterator[str]:
    """What keeps the students of a label set from learning from it: its encoding, or fields that it does not hold."""
    from stages.students.methods import method_for
    from stages.tasks import get_task

    task = get_task(spec.task)
    for name, student in spec.students.items():
        if student.labels == labels:
            try:
                method_for(task, student.method, student.training).needs.check_labels(encoding, beside)
            except UserError as error:
                yield from (
                    f"{spec.where(name)}.method: '{student.method.name}': {problem}" for problem in error.problems
                )


def source_faults(project: Project) -> Iterator[str]:
    """Methods and trainings that read rows of a source that nothing names, or whose truth says something else."""
    spec = project.spec
    from stages.students.methods import get_method

    for name, student in spec.students.items():
        where, share = spec.where(name), student.training.source_share
        if share and project.maps_classes(student):
            yield (
                f"{where}.training.source_share: its teacher was trained on other classes than it speaks of, so the "
                "truth of the source is not the student's: leave it out"
            )
        if project.source(student) is not None:
            continue
        wanting = [f"method: '{student.method.name}'"] if get_method(student.method).needs.source else []
        wanting += ["training.source_share: it"] if share else []
        for what in wanting:
            yield (
                f"{where}.{what} reads rows of the source domain, and there is none: "
                "give it labels of a teacher that was trained on another domain here"
            )
