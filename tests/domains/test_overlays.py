"""Splits and label budgets: exact shares, duplicates together, nested draws, and hidden truth that has no say."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from schemas.domains import BudgetInputs, BudgetOutputs, DomainOutputs, SplitInputs, SplitOutputs
from schemas.errors import DataError, SpecError
from schemas.runs import Event
from schemas.spec import LabelBudget, Source, Split
from stages.context import Context
from stages.domains.budgets import draw_rows
from stages.domains.reader import TEST, TRAIN, VALIDATION, read_budget, read_split
from stages.domains.splits import draw_split, join_duplicates
from stages.domains.stage import BUDGETS
from stages.domains.stage import SPLITS as SPLITS_STAGE
from tests.domains.helpers import WORDS, ingest, ingest_words, write_csv

ROWS = [(f"text {row}", str(row % 4)) for row in range(80)]
SHARES = Split(train=0.5, validation=0.3, test=0.2)


def ids(contents: list[int]) -> np.ndarray:
    """uint8 (rows, 16): one id per content."""
    return np.array(contents, "<u8").repeat(2).view(np.uint8).reshape(-1, 16)


def make_split(context: Context, domain: DomainOutputs, split: Split | None = SHARES) -> SplitOutputs:
    return SPLITS_STAGE.run(context, SplitInputs(samples=domain.samples, split=split))


def make_budget(
    context: Context, domain: DomainOutputs, budget: LabelBudget | None, seed: int = 0, truth: bool = True
) -> BudgetOutputs:
    split = make_split(context, domain).split
    given_truth = domain.truth if truth else None
    return BUDGETS.run(
        context,
        BudgetInputs(samples=domain.samples, split=split, truth=given_truth, label_budget=budget, seed=seed),
    )


@st.composite
def shares(draw: st.DrawFn) -> Split:
    first, second = sorted((draw(st.integers(0, 100)), draw(st.integers(0, 100))))
    return Split(
        train=first / 100, validation=(second - first) / 100, test=(100 - second) / 100, seed=draw(st.integers(0, 3))
    )


@settings(deadline=None)
@given(st.sets(st.integers(0, 10**6), min_size=1, max_size=60), shares())
def test_shares_are_exact_to_a_row_without_duplicates(contents: set[int], split: Split) -> None:
    codes = draw_split(ids(sorted(contents)), split)
    for code, share in ((TRAIN, split.train), (VALIDATION, split.validation), (TEST, split.test)):
        count = int((codes == code).sum())
        assert abs(count - share * len(contents)) <= 1
        assert share > 0 or count == 0


@settings(deadline=None)
@given(st.lists(st.integers(0, 12), min_size=1, max_size=60), shares(), st.randoms())
def test_duplicates_stay_together_whatever_the_order(contents: list[int], split: Split, random: object) -> None:
    codes = draw_split(ids(contents), split)
    assert len({(content, code) for content, code in zip(contents, codes.tolist(), strict=True)}) == len(set(contents))
    largest = max(contents.count(content) for content in contents)
    assert abs(int((codes == TRAIN).sum()) - split.train * len(contents)) <= largest / 2 + 1e-6
    assert draw_split(ids(contents[::-1]), split)[::-1].tolist() == codes.tolist()


def test_the_seed_changes_the_split() -> None:
    contents = ids(list(range(100)))
    first, second = (draw_split(contents, Split(train=0.5, test=0.5, seed=seed)) for seed in (0, 1))
    assert 30 < int((first != second).sum()) < 70


def test_split_of_the_stage(local_context: Context, tmp_path: Path) -> None:
    domain = ingest_words(local_context, tmp_path, ROWS, shard_rows=32)
    outputs = make_split(local_context, domain)
    assert (outputs.train, outputs.validation, outputs.test) == (40, 24, 16)
    codes = read_split(local_context.place(outputs.split), outputs.split)
    assert np.bincount(codes).tolist() == [40, 24, 16]
    with pytest.raises(DataError, match="has no `split`"):
        make_split(local_context, domain, None)
    with pytest.raises(DataError, match="run again"):
        read_split(local_context.place(outputs.split), outputs.split.model_copy(update={"digest": "0" * 32}))


def test_given_splits_are_kept_and_duplicates_joined(local_context: Context, tmp_path: Path) -> None:
    texts = {"test": ["a", "x", "y"], "train": ["a", "b", "b"], "validation": ["c", "x"]}
    places = {
        name: str(write_csv(tmp_path / f"{name}.csv", ["text", "label"], [(text, "0") for text in rows]))
        for name, rows in texts.items()
    }
    domain = ingest(local_context, Source(csv=places), WORDS)  # type: ignore[arg-type]
    assert (domain.rows, domain.shards, domain.duplicates) == (8, 3, 3)
    events: list[Event] = []
    context = Context(workspace=local_context.workspace, resources=local_context.resources, sink=events.append)
    outputs = make_split(context, domain, None)
    codes = read_split(context.place(outputs.split), outputs.split)
    assert codes.tolist() == [TRAIN] * 3 + [VALIDATION] * 2 + [TRAIN, VALIDATION, TEST]
    assert ["2 rows stand in another split" in event.message for event in events] == [True]


@given(st.lists(st.tuples(st.integers(0, 6), st.integers(0, 2)), min_size=1, max_size=30))
def test_joined_duplicates_never_cross(rows: list[tuple[int, int]]) -> None:
    contents, given_codes = [row[0] for row in rows], np.array([row[1] for row in rows], np.int8)
    codes, moved = join_duplicates(ids(contents), given_codes)
    assert all(
        code == min(other for content, other in rows if content == mine)
        for mine, code in zip(contents, codes.tolist(), strict=True)
    )
    assert moved == int((codes != given_codes).sum())
    assert (codes[given_codes == TRAIN] == TRAIN).all()


DRAWS = st.sampled_from(["blind", "class-balanced"])


@settings(deadline=None)
@given(st.lists(st.integers(-1, 3), min_size=1, max_size=60), DRAWS, st.integers(0, 3), st.data())
def test_draws_are_nested_and_within_the_split(truth: list[int], how: str, seed: int, data: st.DataObject) -> None:
    contents, labels = ids(list(range(len(truth)))), np.array(truth, np.int32)
    inside = np.array(data.draw(st.lists(st.booleans(), min_size=len(truth), max_size=len(truth))))
    known = int((inside & (labels >= 0)).sum())
    large = data.draw(st.integers(0, known))
    small = data.draw(st.integers(0, large))
    drawn = [
        draw_rows(contents, inside, labels, "train", LabelBudget(train=size, validation=0, draw=how), seed)  # type: ignore[arg-type]
        for size in (small, large)
    ]
    assert [len(rows) for rows in drawn] == [small, large]
    assert set(drawn[0].tolist()) <= set(drawn[1].tolist())
    assert inside[drawn[1]].all()
    assert (labels[drawn[1]] >= 0).all()
    assert (np.diff(drawn[1]) > 0).all()
    if how == "class-balanced" and large:
        sizes = np.bincount(labels[inside & (labels >= 0)], minlength=4)
        counts = np.bincount(labels[drawn[1]], minlength=4)
        assert all(counts[label] in (sizes[label], counts.max(), counts.max() - 1) for label in range(4))


@settings(deadline=None)
@given(st.lists(st.integers(0, 3), min_size=1, max_size=40), st.permutations(range(4)), st.integers(0, 3))
def test_a_blind_draw_never_looks_at_truth(truth: list[int], names: list[int], seed: int) -> None:
    contents, labels = ids(list(range(len(truth)))), np.array(truth, np.int32)
    everywhere, budget = np.ones(len(truth), bool), LabelBudget(train=len(truth) // 2, validation=0)
    first = draw_rows(contents, everywhere, labels, "train", budget, seed)
    second = draw_rows(contents, everywhere, np.array(names, np.int32)[labels], "train", budget, seed)
    assert first.tolist() == second.tolist()


@settings(deadline=None)
@given(st.lists(st.integers(-1, 3), min_size=1, max_size=60), st.sets(st.integers(0, 3)), DRAWS, st.integers(0, 3))
def test_left_out_classes_are_as_rows_without_truth(truth: list[int], classes: set[int], how: str, seed: int) -> None:
    contents, labels = ids(list(range(len(truth)))), np.array(truth, np.int32)
    everywhere, hidden = np.ones(len(truth), bool), np.isin(labels, sorted(classes))
    size = int((~hidden & (labels >= 0)).sum())
    for train in {size, size // 2}:
        budget = LabelBudget(train=train, validation=0, draw=how)  # type: ignore[arg-type]
        drawn = draw_rows(contents, everywhere, labels, "train", budget, seed, sorted(classes))
        unknown = np.where(hidden, -1, labels).astype(np.int32)
        assert drawn.tolist() == draw_rows(contents, everywhere, unknown, "train", budget, seed).tolist()


def test_a_budget_without_some_classes(local_context: Context, tmp_path: Path) -> None:
    domain = ingest_words(local_context, tmp_path, ROWS)
    asked = LabelBudget(train=10, validation=5, without=("1", "3"))
    outputs = make_budget(local_context, domain, asked)
    budget = read_budget(local_context.place(outputs.budget), outputs.budget)
    assert {*budget.train_truth.tolist(), *budget.validation_truth.tolist()} == {0, 2}
    assert str(asked) == "10 + 5 without 1, 3"
    with pytest.raises(DataError, match="known label of a class outside of `without`: lower `label_budget`"):
        make_budget(local_context, domain, LabelBudget(train=30, validation=5, without=("1", "3")))
    with pytest.raises(SpecError, match="without: no class is called 'one'; known: 0, 1, 2, 3"):
        make_budget(local_context, domain, LabelBudget(train=10, validation=5, without=("one",)))


def test_hidden_truth_never_changes_a_budget(local_context: Context, tmp_path: Path) -> None:
    fixed = {"classes": ("0", "1", "2", "3"), "shard_rows": 32}
    domain = ingest_words(local_context, tmp_path / "a", ROWS, **fixed)
    outputs = make_budget(local_context, domain, LabelBudget(train=10, validation=5))
    budget = read_budget(local_context.place(outputs.budget), outputs.budget)
    seen = {*budget.train_positions.tolist(), *budget.validation_positions.tolist()}
    assert [len(seen), outputs.train, outputs.validation] == [15, 10, 5]
    assert budget.train_truth.tolist() == [row % 4 for row in budget.train_positions.tolist()]
    assert budget.validation_truth.tolist() == [row % 4 for row in budget.validation_positions.tolist()]

    def flipped(rows: set[int]) -> BudgetOutputs:
        changed = [
            (text, str((int(label) + 1) % 4) if row in rows else label) for row, (text, label) in enumerate(ROWS)
        ]
        other = ingest_words(local_context, tmp_path / "b", changed, **fixed)
        assert other.samples.digest == domain.samples.digest
        return make_budget(local_context, other, LabelBudget(train=10, validation=5))

    assert flipped(set(range(80)) - seen).budget.digest == outputs.budget.digest
    assert flipped({min(seen)}).budget.digest != outputs.budget.digest


def test_budgets_of_all_of_nothing_and_of_too_much(local_context: Context, tmp_path: Path) -> None:
    domain = ingest_words(local_context, tmp_path, [*ROWS[:70], *((text, "") for text, _ in ROWS[70:])])
    codes = read_split(
        local_context.place(make_split(local_context, domain).split), make_split(local_context, domain).split
    )
    whole = make_budget(local_context, domain, None)
    assert whole.train == int((codes[:70] == TRAIN).sum()) < 40
    assert whole == make_budget(local_context, domain, None, seed=7)
    nothing = make_budget(local_context, domain, LabelBudget(train=0, validation=0), truth=False)
    assert (nothing.train, nothing.validation) == (0, 0)
    assert len(read_budget(local_context.place(nothing.budget), nothing.budget).train_positions) == 0
    with pytest.raises(DataError, match=rf"41 train labels, and the train split has 40 rows, {whole.train} of them"):
        make_budget(local_context, domain, LabelBudget(train=41, validation=0))
    with pytest.raises(DataError, match="1 train labels"):
        make_budget(local_context, domain, LabelBudget(train=1, validation=0), truth=False)


def test_seeds_draw_differently_and_not_as_the_split_does(local_context: Context, tmp_path: Path) -> None:
    domain = ingest_words(local_context, tmp_path, ROWS)
    drawn = {
        make_budget(local_context, domain, LabelBudget(train=10, validation=5), seed).budget.digest for seed in range(4)
    }
    assert len(drawn) == 4
