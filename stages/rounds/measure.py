"""Students and label sets on the validation rows of their target. Never reads test rows.

Shapes: V validation rows, M of them with truth that may be seen, C classes.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from schemas.rounds import Measured, RoundInputs
from schemas.spec import Storage
from stages.places import Place

if TYPE_CHECKING:
    from stages.domains.reader import Samples

MOST_ROWS = 4096
"""Validation rows that confidence and agreement rest on, chosen by hash; those with truth come in any case."""
BATCH = 256
Logits = NDArray[np.float32]


@dataclass(frozen=True)
class Measures:
    """What a round came to."""

    students: tuple[Measured, ...]
    sets: tuple[Measured, ...]
    disagreement: float | None
    rows: int
    labelled: int


def measure(inputs: RoundInputs, storage: Storage) -> Measures:
    """All figures of a round; runs wherever it was sent. A student without finite logits fails alone."""
    from stages.domains.reader import VALIDATION, Samples, read_budget, read_split
    from stages.evaluation.predict import class_order, model_logits
    from stages.labels.reader import LabelSet
    from stages.tasks import get_task
    from stages.training.models import load_model

    samples = Samples.open(Place(inputs.samples.uri, storage), inputs.samples)
    split = read_split(Place(inputs.split.uri, storage), inputs.split)
    budget = read_budget(Place(inputs.budget.uri, storage), inputs.budget)
    known_M = budget.validation_positions
    rows_V = np.union1d(_chosen(samples, np.flatnonzero(split == VALIDATION).astype(np.int64)), known_M)
    place_M = np.searchsorted(rows_V, known_M)
    task = get_task(inputs.task)

    def measured(name: str, logits: Logits, agreement: float | None = None) -> Measured:
        bad = int((~np.isfinite(logits)).any(axis=1).sum())
        if bad:
            return Measured(name=name, failure=f"its logits are not finite on {bad} of {len(logits)} rows")
        scores = task.score(logits[place_M], budget.validation_truth, inputs.metrics) if len(known_M) else {}
        sure = float(_largest(logits).mean()) if len(logits) else None
        return Measured(name=name, quality=scores, confidence=sure, agreement=agreement)

    said: dict[str, NDArray[np.int64]] = {}
    sets = []
    for item in inputs.sets:
        labels = LabelSet.open_ref(Place(item.labels.uri, storage), item.labels)
        order = class_order(labels.classes, inputs.classes, f"label set '{item.name}'")
        logits = np.ascontiguousarray(labels.align(samples).logits(rows_V)[:, order], np.float32)
        said[item.labels.digest] = logits.argmax(axis=1)
        sets.append(measured(item.name, logits))
    students, answers = [], []
    for student in inputs.students:
        if student.model is None:
            students.append(Measured(name=student.name, failure=student.failure or "no model was given"))
            continue
        model = load_model(Place(student.model.uri, storage), student.model)
        order = class_order(model.card.classes, inputs.classes, f"student '{student.name}'")
        logits = np.ascontiguousarray(model_logits(model, samples, rows_V, BATCH)[:, order], np.float32)
        answers.append(logits.argmax(axis=1))
        theirs = said.get(student.labels.digest) if student.labels is not None else None
        agreement = float((answers[-1] == theirs).mean()) if theirs is not None and len(rows_V) else None
        students.append(measured(student.name, logits, agreement))
    return Measures(tuple(students), tuple(sets), _disagreement(answers), len(rows_V), len(known_M))


def _chosen(samples: Samples, rows: NDArray[np.int64]) -> NDArray[np.int64]:
    from stages.domains.splits import ranks

    if len(rows) <= MOST_ROWS:
        return rows
    order = np.argsort(ranks(samples.content_ids_at(rows), "rounds"), kind="stable")
    return np.sort(rows[order[:MOST_ROWS]])


def _largest(logits: Logits) -> NDArray[np.float64]:
    """Largest probability of each row (V,)."""
    wide = logits.astype(np.float64)
    wide -= wide.max(axis=1, keepdims=True)
    return np.asarray(1.0 / np.exp(wide).sum(axis=1))


def _disagreement(answers: Sequence[NDArray[np.int64]]) -> float | None:
    def shares() -> Iterator[float]:
        for one, other in combinations(answers, 2):
            if len(one):
                yield float((one != other).mean())

    found = list(shares())
    return sum(found) / len(found) if found else None
