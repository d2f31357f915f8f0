"""Label budgets: which rows' truth may be seen, drawn from the train and validation splits.

Rows are ranked once per seed, and a budget of n takes the first n of each split, so a larger budget holds every
smaller one of the same seed. A blind ranking is a keyed hash of `content_id` and never looks at truth (rows
without any are passed over: there is nothing to see). A class-balanced one takes the classes in turn. Rows of classes
that the budget is `without` are passed over as if they had no truth.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from schemas.artifacts import BudgetRef
from schemas.domains import BudgetInputs, BudgetOutputs
from schemas.errors import DataError
from schemas.spec import LabelBudget
from stages.artifacts import Attempt
from stages.context import Context
from stages.domains import ipc
from stages.domains.reader import (
    BUDGET_FILE,
    TRAIN,
    VALIDATION,
    Budget,
    Samples,
    budget_digest,
    read_split,
    read_truth,
)
from stages.domains.splits import ranks
from stages.truth import UNKNOWN, to_arrow


def make_budget(context: Context, inputs: BudgetInputs, attempt: Attempt) -> BudgetOutputs:
    """The overlay under `attempt` (not committed). Raises DataError if a split has fewer rows with truth."""
    split = read_split(context.place(inputs.split), inputs.split)
    classes: tuple[str, ...] = ()
    if inputs.truth is None:
        truth = np.full(len(split), UNKNOWN, np.int32)
    else:
        truth, classes = read_truth(context.place(inputs.truth), inputs.truth)
    samples = Samples.open(context.place(inputs.samples), inputs.samples)
    if not samples.rows == len(split) == len(truth):
        raise DataError(
            f"the domain has {samples.rows:,} rows, its split {len(split):,} and its truth {len(truth):,}: "
            "they belong to different domains"
        )
    content_ids = samples.all_content_ids()
    left_out = inputs.label_budget.left_out(classes) if inputs.label_budget else []
    train, validation = (
        draw_rows(content_ids, split == code, truth, name, inputs.label_budget, inputs.seed, left_out)
        for code, name in ((TRAIN, "train"), (VALIDATION, "validation"))
    )
    budget = Budget(train, truth[train], validation, truth[validation])
    columns = {
        "split": np.repeat(np.array([TRAIN, VALIDATION], np.int8), [len(train), len(validation)]),
        "position": np.r_[train, validation],
        "truth": np.r_[budget.train_truth, budget.validation_truth],
    }
    attempt.put(BUDGET_FILE, ipc.encode({name: to_arrow(values) for name, values in columns.items()}))
    ref = BudgetRef(uri=attempt.folder.uri, fingerprint=attempt.fingerprint, digest=budget_digest(budget))
    return BudgetOutputs(budget=ref, train=len(train), validation=len(validation))


def draw_rows(
    content_ids: np.ndarray,
    in_split: np.ndarray,
    truth: np.ndarray,
    name: str,
    budget: LabelBudget | None,
    seed: int,
    left_out: Sequence[int] = (),
) -> np.ndarray:
    """Positions drawn from one split, int64, sorted; all rows with known truth if there is no budget.

    content_ids uint8 (N, 16), in_split bool (N,), truth (N,), `left_out` class numbers whose rows stay hidden.
    Raises DataError if there are too few.
    """
    known = np.flatnonzero(in_split & (truth != UNKNOWN) & ~np.isin(truth, left_out))
    if budget is None:
        return known
    wanted = budget.train if name == "train" else budget.validation
    if wanted > len(known):
        rows = int(in_split.sum())
        without = " of a class outside of `without`" if left_out else ""
        unknown = f", {len(known):,} of them with a known label{without}" if len(known) < rows else ""
        raise DataError(
            f"the label budget asks for {wanted:,} {name} labels, and the {name} split has {rows:,} rows{unknown}: "
            "lower `label_budget` or give that split a larger share"
        )
    order = np.argsort(ranks(content_ids[known], f"budget {seed}"), kind="stable")
    if budget.draw == "class-balanced":
        order = order[_in_turn(truth[known[order]])]
    return np.sort(known[order[:wanted]])


def _in_turn(labels: np.ndarray) -> np.ndarray:
    """Order that takes one row of each class in each round, for ranked rows' class numbers (rows,)."""
    by_class = np.argsort(labels, kind="stable")
    _, starts, sizes = np.unique(labels[by_class], return_index=True, return_counts=True)
    turn = np.empty(len(labels), np.int64)
    turn[by_class] = np.arange(len(labels)) - np.repeat(starts, sizes)
    return np.argsort(turn, kind="stable")
