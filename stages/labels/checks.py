"""Do labels fit those who are to learn from them? Told in one sentence each, before anything is trained.

Costs a few small reads a label set and 16 bytes a row of the domain; no labels and no inputs are read.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from schemas.artifacts import HeldOut, LabelSetRef
from schemas.base import Part
from schemas.errors import StoreError, UserError
from schemas.labels import LabelsInputs
from stages.classes import class_columns, reordered
from stages.context import Context
from stages.domains.seen import Seen, check_held_out, together
from stages.labels.reader import LabelSet


def check_labels(
    context: Context,
    refs: Iterable[LabelSetRef],
    task: Part,
    classes: Sequence[str],
    held_out: HeldOut,
) -> None:
    """Raise StoreError or DataError for label sets that students with these classes cannot learn from, if they are to
    be judged on the test rows that are held out. What is remapped, or cannot be checked, is told."""
    for ref in dict.fromkeys(refs):
        labels = LabelSet.open_ref(context.place(ref), ref)
        check_task(labels, task)
        if said := check_classes(labels, classes, "the students"):
            context.tell("warning", said)
        seen = labels.seen()
        if seen is None or not seen.whole:
            what = "all rows that its teachers were" if seen is not None else "which rows its teacher was"
            context.tell(
                "warning",
                f"label set {labels.fingerprint[:12]} does not say {what} trained on: whether test rows are among them "
                "is not known",
            )
        check_held_out(context, seen, (held_out,), f"the teacher of label set {labels.fingerprint[:12]}")


def check_task(labels: LabelSet, task: Part) -> None:
    """Labels speak of what their teacher saw: another task, or other settings of it, prepare other inputs."""
    made = labels.manifest.provenance.inputs.get("task")
    if not isinstance(made, dict):
        return  # imported: nobody says what its teacher saw
    made, wanted = _normal(made), _normal(task.dump())
    differing = [name for name in sorted({*made, *wanted}) if made.get(name) != wanted.get(name)]
    if differing:
        said = ", ".join(f"{name} {made.get(name)!r} there, {wanted.get(name)!r} here" for name in differing)
        raise StoreError(
            f"label set {labels.fingerprint[:12]} was made for another task ({said}): set the spec's `task` alike, or "
            "use a set that fits"
        )


def check_classes(labels: LabelSet, classes: Sequence[str], whose: str) -> str | None:
    """What is to be told if a set's classes stand in another order. Raises StoreError if they are others."""
    name = f"label set {labels.fingerprint[:12]}"
    return None if class_columns(labels.classes, classes, name, whose) is None else reordered(name, whose)


def held_out(inputs: LabelsInputs) -> tuple[HeldOut, ...]:
    """The test rows that nobody who speaks in a set may have learned from."""
    if inputs.split is None:
        return ()
    return (HeldOut(samples=inputs.samples, split=inputs.split, name=inputs.names.domain),)


def seen_by(context: Context, inputs: LabelsInputs) -> Seen | None:
    """The rows that those who speak in a label set learned from, as far as they say."""
    from stages.training.models import read_seen

    if inputs.teacher is not None:
        return read_seen(context.place(inputs.teacher), inputs.teacher)
    sets = inputs.fuse.sets if inputs.fuse is not None else ()
    return together(LabelSet.open_ref(context.place(ref), ref).seen() for ref in sets)


def _normal(made: dict[str, Any]) -> dict[str, Any]:
    """A task with every setting of this release written out; as it stands where this release does not know it."""
    from stages.tasks import TASKS

    try:
        normal: dict[str, Any] = TASKS.normal(Part.model_validate(made), "task").dump()
    except (UserError, ValueError):
        return made
    return normal
