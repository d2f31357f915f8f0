"""Somebody else's label set, checked before anything rests on it: whole, of this task, and about these samples.

Three small reads and one comparison a shard; where the samples are packed another way, the ids of both sides are read.
"""

from __future__ import annotations

from typing import Any

from schemas.artifacts import LabelSetRef
from schemas.base import Part
from schemas.errors import StoreError
from schemas.labels import LabelsInputs, SetManifest
from stages.context import Context
from stages.labels.reader import LabelSet


def check_given(context: Context, inputs: LabelsInputs, given: LabelSetRef) -> SetManifest:
    """The manifest of a given set that fits the samples and the task.

    Raises StoreError or LabelsMissing with counts and examples of what does not fit.
    """
    from stages.domains.reader import Samples

    labels = LabelSet.open_ref(context.place(given), given)
    _check_task(labels, inputs.task)
    samples = Samples.open(context.place(inputs.samples), inputs.samples)
    aligned = labels.align(samples)
    if labels.manifest.replays:
        from stages.labels.views import check_replays
        from stages.tasks import get_task

        if not check_replays(aligned, get_task(inputs.task), samples):
            name = given.fingerprint[:12]
            context.tell("warning", f"no view of label set {name} could be compared: none is of these samples")
    if aligned is not labels:
        context.tell("warning", f"label set {given.fingerprint[:12]} is packed another way: it is read through its ids")
    return labels.manifest


def _check_task(labels: LabelSet, task: Part) -> None:
    """Labels speak of what their teacher saw: another task, or other settings of it, prepare other inputs."""
    made = labels.manifest.provenance.inputs.get("task")
    if not isinstance(made, dict):
        return  # imported: nobody says what its teacher saw
    wanted: dict[str, Any] = task.dump()
    differing = [name for name in sorted({*made, *wanted}) if made.get(name) != wanted.get(name)]
    if differing:
        said = ", ".join(f"{name} {made.get(name)!r} there, {wanted.get(name)!r} here" for name in differing)
        raise StoreError(
            f"label set {labels.fingerprint[:12]} was made for another task ({said}): set the spec's `task` alike, or "
            "use a set that fits"
        )
