"""Tables of quality from predictions that are made up here: what counts, what is left out, what is said of it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import pytest

from schemas.canonical import digest
from schemas.errors import DataError, SpecError
from schemas.evaluation import ArmQuality, EvaluationInputs, QualityTable
from stages.evaluation.predict import Entry, Evidence, class_order
from stages.evaluation.quality import table_of
from stages.evaluation.stage import EVALUATION, chosen_metrics
from tests.evaluation.fakes import logits_that_are_right, task

REF = {"uri": "/nowhere", "fingerprint": "0" * 32, "digest": "0" * 32}
TRUTH = np.random.default_rng(3).integers(0, 3, 50).astype(np.int32)
METRICS = ("accuracy", "nll")
Shares = Mapping[tuple[str, int], float | str]


@dataclass
class FakeBudget:
    """The part of a budget that figures rest on."""

    train_positions: np.ndarray
    validation_positions: np.ndarray
    validation_truth: np.ndarray


def budget(train: int = 10, validation: int = 6) -> Any:
    return FakeBudget(np.arange(train), np.arange(validation), TRUTH[:validation])


def inputs(*pairs: tuple[str, int], **more: Any) -> EvaluationInputs:
    candidates = [{"arm": arm, "seed": seed, "model": REF} for arm, seed in pairs]
    asked = {"subject": "mobile", "domain": "digits", "task": "fake", "candidates": candidates, "samples": REF}
    return EvaluationInputs.model_validate({**asked, "split": REF, "truth": REF, **more})


def judge(
    asked: EvaluationInputs,
    shares: Shares,
    truth: np.ndarray | None = TRUTH,
    reference: np.ndarray | None = None,
    budgets: Any = None,
) -> QualityTable:
    """The table of candidates that are right on a share of rows, or failed for a reason."""
    entries = []
    for index, candidate in enumerate(asked.candidates):
        share = shares[candidate.arm, candidate.seed]
        failure = share if isinstance(share, str) else None
        logits = logits_that_are_right(TRUTH, 0.0 if isinstance(share, str) else share, index)
        said = {"test_logits": logits, "selection_logits": logits[:6]}
        entries.append(Entry(candidate, failure, budgets or budget(), partial(dict, said)))
    return table_of(task(), METRICS, asked, Evidence(tuple(entries), truth, reference))


def by_arm(table: QualityTable) -> dict[str, ArmQuality]:
    return {arm.arm: arm for arm in table.arms}


def test_figures_are_those_of_the_rows_that_count() -> None:
    asked = inputs(("distilled", 0), ("distilled", 1), ("no-teacher", 0), ("no-teacher", 1))
    table = judge(asked, {(c.arm, c.seed): 0.9 if c.arm == "distilled" else 0.4 for c in asked.candidates})
    first = by_arm(table)["distilled"].seeds[0]
    logits = logits_that_are_right(TRUTH, 0.9, 0)
    assert first.final["accuracy"] == pytest.approx((logits.argmax(1) == TRUTH).mean())
    assert first.selection["accuracy"] == pytest.approx((logits[:6].argmax(1) == TRUTH[:6]).mean())
    accuracies = [seed.final["accuracy"] for seed in by_arm(table)["distilled"].seeds]
    assert by_arm(table)["distilled"].mean["accuracy"] == pytest.approx(sum(accuracies) / 2)
    gap = abs(accuracies[0] - accuracies[1])
    assert by_arm(table)["distilled"].spread["accuracy"] == pytest.approx(gap / 2**0.5)
    assert (table.test_rows, table.selection_rows) == (50, (6, 6))
    assert table.comparison is not None
    assert (table.comparison.baseline, table.comparison.seeds_better) == ("no-teacher", 2)
    assert (table.errors, table.unbounded) == (("nll",), ("nll",))


def test_rows_without_truth_count_in_agreement_only() -> None:
    hidden = TRUTH.copy()
    hidden[:20] = -1
    asked = inputs(("distilled", 0))
    table = judge(asked, {("distilled", 0): 0.8}, hidden, reference=TRUTH.astype(np.int64))
    logits = logits_that_are_right(TRUTH, 0.8, 0)
    seed = by_arm(table)["distilled"].seeds[0]
    assert table.test_rows == 30
    assert seed.final["accuracy"] == pytest.approx((logits.argmax(1) == TRUTH)[20:].mean())
    assert seed.agreement == pytest.approx((logits.argmax(1) == TRUTH).mean())


@pytest.mark.parametrize("truth", [None, np.full(50, -1, np.int32)])
def test_unknown_truth_leaves_final_empty(truth: np.ndarray | None) -> None:
    asked = inputs(("distilled", 0), ("no-teacher", 0), truth=None, reference=REF)
    table = judge(asked, dict.fromkeys((("distilled", 0), ("no-teacher", 0)), 0.7), truth, TRUTH.astype(np.int64))
    assert all(seed.final == {} and seed.agreement is not None for arm in table.arms for seed in arm.seeds)
    assert all(arm.mean == {} and arm.spread == {} for arm in table.arms)
    assert table.comparison is None
    assert table.test_rows == (50 if truth is None else 0)


def test_failed_seeds_are_named_and_left_out() -> None:
    asked = inputs(*((arm, seed) for arm in ("distilled", "no-teacher", "source-only") for seed in range(3)))
    shares: Shares = {
        **{(c.arm, c.seed): 0.6 for c in asked.candidates},
        ("distilled", 1): "its loss is not finite at step 7",
        **{("source-only", seed): "out of memory" for seed in range(3)},
    }
    table = judge(asked, shares)
    arms = by_arm(table)
    assert [seed.failure for seed in arms["distilled"].seeds] == [None, "its loss is not finite at step 7", None]
    assert arms["distilled"].note is None
    assert arms["source-only"].note == "out of memory"
    assert arms["source-finetuned"].note == "no model was given"
    assert table.comparison is not None
    assert table.comparison.seeds == 2


def test_a_budget_of_0_makes_arms_impossible_not_chance() -> None:
    asked = inputs(("teacher", 0), ("distilled", 0), ("no-teacher", 0), ("source-only", 0))
    shares: Shares = {
        ("teacher", 0): 0.9, ("distilled", 0): 0.8, ("no-teacher", 0): "no model", ("source-only", 0): 0.5,
    }  # fmt: skip
    table = judge(asked, shares, budgets=budget(0, 0))
    arms = by_arm(table)
    assert arms["no-teacher"].note == arms["source-finetuned"].note == "impossible at a budget of 0"
    assert arms["source-only"].note is None
    assert arms["distilled"].seeds[0].selection == {}
    assert table.comparison is not None
    assert table.comparison.baseline == "source-only"


def test_the_teacher_is_no_baseline_and_agrees_with_itself_unasked() -> None:
    asked = inputs(("distilled", 0), reference=REF)
    teacher = {"arm": "teacher", "seed": 0, "labels": REF}
    asked = asked.model_copy(update={"candidates": (*inputs(candidates=[teacher]).candidates, *asked.candidates)})
    table = judge(asked, {("teacher", 0): 0.99, ("distilled", 0): 0.8}, reference=TRUTH.astype(np.int64))
    assert by_arm(table)["teacher"].seeds[0].agreement is None
    assert table.comparison is None


def test_no_figure_is_left_without_a_value() -> None:
    """Contracts refuse NaN and infinity, so a table that was made holds none; here with every row of one class."""
    asked = inputs(("distilled", 0), ("no-teacher", 0))
    table = judge(asked, {("distilled", 0): 1.0, ("no-teacher", 0): 0.0}, np.zeros(50, np.int32))
    assert QualityTable.parse(table.dump(), "table") == table


def test_classes_are_matched_by_name() -> None:
    assert class_order(("b", "x", "a"), ("a", "b"), "the student") == [2, 0]
    with pytest.raises(DataError, match=r"the student does not know 2 of the domain's 3 classes \(first: c, d\)"):
        class_order(("a",), ("a", "c", "d"), "the student")


def test_unknown_metrics_are_refused() -> None:
    with pytest.raises(SpecError, match="did you mean 'accuracy'"):
        chosen_metrics(task(), ("acuracy",))
    assert chosen_metrics(task(), ()) == task().metrics
    assert chosen_metrics(task(), ("nll", "nll")) == ("nll",)


def test_names_count_in_the_fingerprint_and_places_do_not() -> None:
    asked = EVALUATION.example()
    moved = asked.model_copy(update={"split": asked.split.model_copy(update={"uri": "/elsewhere"})})
    renamed = asked.model_copy(update={"subject": "other"})
    assert EVALUATION.parts(asked)[""] == asked
    assert digest(asked) == digest(moved)
    assert digest(asked) != digest(renamed)
