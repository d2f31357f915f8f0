"""Somebody else's label set, checked before anything rests on it: whole, of this task, and about these samples.

Three small reads and one comparison a shard; where the samples are packed another way, the ids of both sides are read.
"""

from __future__ import annotations

from schemas.artifacts import LabelSetRef
from schemas.labels import LabelsInputs, SetManifest
from stages.context import Context
from stages.domains.seen import check_held_out
from stages.labels.checks import check_classes, check_task, held_out
from stages.labels.reader import LabelSet


def check_given(context: Context, inputs: LabelsInputs, given: LabelSetRef) -> SetManifest:
    """The manifest of a given set that fits the samples, their classes and splits, and the task.

    Raises StoreError, LabelsMissing or DataError with counts and examples of what does not fit.
    """
    from stages.domains.reader import Samples

    labels = LabelSet.open_ref(context.place(given), given)
    check_task(labels, inputs.task)
    samples = Samples.open(context.place(inputs.samples), inputs.samples)
    if samples.manifest.classes is not None:
        check_classes(labels, samples.manifest.classes, "the domain")
    aligned = labels.align(samples)
    who = f"the teacher of label set {given.fingerprint[:12]}"
    check_held_out(context, labels.seen(), held_out(inputs), who)
    if labels.manifest.replays:
        from stages.labels.views import check_replays
        from stages.tasks import get_task

        if not check_replays(aligned, get_task(inputs.task), samples):
            name = given.fingerprint[:12]
            context.tell("warning", f"no view of label set {name} could be compared: none is of these samples")
    if aligned is not labels:
        context.tell("warning", f"label set {given.fingerprint[:12]} is packed another way: it is read through its ids")
    return labels.manifest
