"""The rows that a teacher is about to learn from, compared with those that its students are judged on.

In the driver, before anything is trained: content ids of the domains (16 bytes a row) are read, no inputs.
"""

from __future__ import annotations

from typing import assert_never

import numpy as np

from schemas.artifacts import SamplesRef
from schemas.teachers import AdaptTeacher, GivenTeacher, StudentTeacher, TeacherInputs, TrainTeacher
from stages.context import Context
from stages.domains.reader import TRAIN, Samples, read_budget, read_split
from stages.domains.seen import Seen, check_held_out, seen_rows, together
from stages.labels.reader import LabelSet
from stages.training.models import read_seen


def learned_from(context: Context, inputs: TeacherInputs) -> Seen | None:
    """All rows that a teacher learns from or is chosen by; None for a given one, of which nobody knows.

    Raises DataError where test rows of a domain that is held out are among them.
    """
    seen = _seen(context, inputs)
    check_held_out(context, seen, inputs.held_out, "this teacher")
    return seen


def _seen(context: Context, inputs: TeacherInputs) -> Seen | None:
    match inputs.way:
        case TrainTeacher(domains=domains, weights=weights):
            parts = []
            for domain in domains:
                budget = read_budget(context.place(domain.budget), domain.budget)
                rows = np.concatenate([budget.train_positions, budget.validation_positions])
                parts.append(seen_rows(_open(context, domain.samples), rows))
            return together([*parts, None] if weights is not None else parts)
        case AdaptTeacher(teacher=teacher, samples=samples, split=split):
            train = np.flatnonzero(read_split(context.place(split), split) == TRAIN)
            return together([read_seen(context.place(teacher), teacher), seen_rows(_open(context, samples), train)])
        case StudentTeacher(samples=samples, split=split, budget=budget, labels=labels):
            read = [np.flatnonzero(read_split(context.place(split), split) == TRAIN)]
            if budget is not None:
                told = read_budget(context.place(budget), budget)
                read += [told.train_positions, told.validation_positions]
            own = seen_rows(_open(context, samples), np.unique(np.concatenate(read)))
            return own if labels is None else together([own, LabelSet.open_ref(context.place(labels), labels).seen()])
        case GivenTeacher():
            return None
    assert_never(inputs.way)


def _open(context: Context, ref: SamplesRef) -> Samples:
    return Samples.open(context.place(ref), ref)
