"""What keeps students from being trained: labels that do not fit, and test rows that they or their teachers saw."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from schemas.artifacts import HeldOut, SamplesRef, SplitRef
from schemas.errors import DataError
from schemas.students import CohortInputs, StudentInputs
from stages.context import Context
from stages.domains.reader import TRAIN, Samples, read_budget, read_split
from stages.domains.seen import Seen, check_held_out, seen_rows
from stages.labels.checks import check_labels


def check_students(context: Context, inputs: CohortInputs, students: Sequence[StudentInputs]) -> None:
    """Raise UserError, counting what is wrong, for students that must not be trained. Reads ids, no inputs."""
    stream = inputs.stream
    refs = [ref for student in students for ref in student.label_sets]
    own = HeldOut(samples=stream.samples, split=stream.split)
    known = Samples.open(context.place(stream.samples), stream.samples).manifest.classes or inputs.classes
    if differing := set(known) ^ set(inputs.classes):
        raise DataError(
            f"the domain has {len(known)} classes and the students have {len(inputs.classes)}, which are not the same "
            f"(first: {min(differing)!a}): give both the same `classes`"
        )
    check_labels(context, refs, inputs.task, inputs.classes, own)
    for source in dict.fromkeys(student.source for student in students if student.source is not None):
        read = _seen(context, source.samples, [_train(context, source.split)])
        check_held_out(context, read, (own,), "these students")
    if not inputs.held_out or not students:
        return
    rows: list[np.ndarray] = []
    for ref in dict.fromkeys(student.budget for student in students if student.budget is not None):
        budget = read_budget(context.place(ref), ref)
        rows += [budget.train_positions, budget.validation_positions]
    if refs:
        rows.append(_train(context, stream.split))
    check_held_out(context, _seen(context, stream.samples, rows), inputs.held_out, "these students")


def _train(context: Context, split: SplitRef) -> np.ndarray:
    return np.flatnonzero(read_split(context.place(split), split) == TRAIN)


def _seen(context: Context, ref: SamplesRef, rows: list[np.ndarray]) -> Seen:
    return seen_rows(Samples.open(context.place(ref), ref), np.concatenate([np.empty(0, np.int64), *rows]))
