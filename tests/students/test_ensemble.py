"""Label sets that a student weighs by its own validation budget, and reads as one: against values by hand."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from schemas.artifacts import LabelSetRef
from schemas.base import Part
from schemas.canonical import identity
from schemas.students import Ensemble, StudentInputs, StudentOutputs
from stages.context import Context
from stages.students.calibration import fit_temperature
from stages.students.ensemble import EnsembleLabels
from stages.students.stage import STUDENTS
from stages.votes import shares, vote
from tests.students.world import CLASSES, ROWS, Labels, World, cohort_of, ref, student

BOTH = Ensemble(sets=(LabelSetRef(**ref(0)), LabelSetRef(**ref(1))))
SETS = [f"{number:032x}" for number in range(2)]
ALL = np.arange(ROWS)
NONE = np.zeros(ROWS, np.int64)


def read(*sets: Labels, weights: tuple[float, ...], space: Any = "probability") -> np.ndarray:
    """Probabilities of an ensemble, by our order of the classes."""
    order = [
        None if one.classes == CLASSES else np.array([one.classes.index(name) for name in CLASSES]) for one in sets
    ]
    labels = EnsembleLabels(list(zip(sets, order, strict=True)), weights, CLASSES, space)
    said: np.ndarray = np.exp(labels.decode(labels.gather(ALL, NONE, extras=())).log_probabilities(1.0))
    return said


def softmax(logits: np.ndarray) -> np.ndarray:
    wide = np.exp(logits.astype(np.float64))
    return np.asarray(wide / wide.sum(axis=1, keepdims=True))


def spoil(world: World, digest: str, wrong: int) -> None:
    """Let a set be right on all six validation rows of the first draw but so many, where it says the next class."""
    rows = world.budgets[f"{0:032x}"].validation_positions
    said = (world.truth[rows] + (np.arange(len(rows)) < wrong)) % 3
    world.label_sets[digest].values[rows] = 2.0 * np.eye(3, dtype=np.float32)[said]


def trained(context: Context, *students: StudentInputs) -> tuple[StudentOutputs, ...]:
    return STUDENTS.run(context, cohort_of(*students)).students


def test_weights_are_those_of_a_majority_vote() -> None:
    """3 classes: right on 5 of 6, on 4 of 6, and on a third, as chance is."""
    five, four = math.log(5) + math.log(2), math.log(2) + math.log(2)
    assert shares([5 / 6, 4 / 6, 1 / 3], 3) == pytest.approx((five / (five + four), four / (five + four), 0.0))
    assert shares([1.0, 1.0], 3) == (0.5, 0.5)


def test_the_best_one_speaks_alone_where_none_is_better_than_chance() -> None:
    assert shares([0.1, 0.3, 0.3], 3) == (0.0, 1.0, 0.0)
    assert shares([0.0, 0.0], 2) == (1.0, 0.0)


@given(st.lists(st.floats(0, 1), min_size=1, max_size=5), st.integers(2, 1000))
def test_shares_make_up_the_whole_and_better_sets_count_more(figures: list[float], classes: int) -> None:
    found = shares(figures, classes)
    assert sum(found) == pytest.approx(1.0)
    ranked = [share for _, share in sorted(zip(figures, found, strict=True))]
    votes = [vote(figure, classes) for figure in figures]
    assert not any(votes) or ranked == sorted(ranked)


@pytest.mark.parametrize("space", ["probability", "logit"])
def test_what_is_read_is_the_mean_by_hand(space: str) -> None:
    one, other = (World().label_sets[digest] for digest in SETS)
    p, q = softmax(one.values), softmax(other.values)
    wanted = 0.7 * p + 0.3 * q if space == "probability" else p**0.7 * q**0.3
    wanted /= wanted.sum(axis=1, keepdims=True)
    assert np.allclose(read(one, other, weights=(0.7, 0.3), space=space), wanted, atol=1e-6)


def test_classes_in_another_order_are_the_same_classes() -> None:
    one, other = (World().label_sets[digest] for digest in SETS)
    turned = Labels(other.values[:, [2, 0, 1]].copy(), ("three", "one", "two"))
    assert np.allclose(read(one, turned, weights=(0.4, 0.6)), read(one, other, weights=(0.4, 0.6)), atol=1e-7)


def test_a_set_without_weight_is_not_read() -> None:
    world = World()
    one, silent = world.label_sets[SETS[0]], Labels(np.zeros((0, 3), np.float32))
    assert np.allclose(read(one, silent, weights=(1.0, 0.0)), softmax(one.values), atol=1e-6)


def test_each_seed_weighs_by_its_own_budget(monkeypatch: pytest.MonkeyPatch, local_context: Context) -> None:
    """On the first draw's rows one set errs once and the other twice; a student of the set that the weights come to
    by hand learns the same to rounding."""
    world = World().use(monkeypatch)
    spoil(world, SETS[0], 1)
    spoil(world, SETS[1], 2)
    monkeypatch.setattr(world.budgets[f"{1:032x}"], "validation_truth", world.truth[:6])
    monkeypatch.setattr(world.budgets[f"{1:032x}"], "validation_positions", np.arange(6))
    first, second = trained(local_context, student("both", labels=BOTH), student("both", labels=BOTH, budget=1, seed=1))
    assert (first.failure, second.failure) == (None, None)
    weights = shares([5 / 6, 4 / 6], 3)
    assert first.weights == pytest.approx(weights)
    right = [float((world.label_sets[name].values[:6].argmax(axis=1) == world.truth[:6]).mean()) for name in SETS]
    assert second.weights == pytest.approx(shares(right, 3))
    p, q = (softmax(world.label_sets[name].values) for name in SETS)
    mean = np.log(weights[0] * p + weights[1] * q)
    world.label_sets[SETS[0]] = Labels(mean.astype(np.float32))
    (by_hand,) = trained(local_context, student("hand"))
    assert [line.loss for line in first.history] == pytest.approx([line.loss for line in by_hand.history], rel=1e-4)


def test_a_teacher_of_shuffled_labels_is_weighed_down(monkeypatch: pytest.MonkeyPatch, local_context: Context) -> None:
    """One that is right on two of six, as chance is, has no say: the student is that of the other set, to rounding."""
    world = World().use(monkeypatch)
    spoil(world, SETS[0], 1)
    spoil(world, SETS[1], 4)
    both, alone = trained(local_context, student("both", labels=BOTH), student("alone"))
    assert both.weights == (1.0, 0.0)
    assert [line.loss for line in both.history] == pytest.approx([line.loss for line in alone.history], rel=1e-4)


def test_labels_that_are_weighed_may_be_calibrated_too(monkeypatch: pytest.MonkeyPatch, local_context: Context) -> None:
    world = World().use(monkeypatch)
    spoil(world, SETS[0], 1)
    spoil(world, SETS[1], 2)
    (found,) = trained(local_context, student("both", labels=BOTH, calibrate=True))
    budget = world.budgets[f"{0:032x}"]
    parts = [(world.label_sets[name], None) for name in SETS]
    labels = EnsembleLabels(parts, found.weights, CLASSES, "probability")
    rows = budget.validation_positions
    said = labels.decode(labels.gather(rows, np.zeros_like(rows), extras=()))
    assert found.calibration == fit_temperature(said, budget.validation_truth, None, (2.0,))


def test_without_validation_labels_it_fails_alone(monkeypatch: pytest.MonkeyPatch, local_context: Context) -> None:
    World().use(monkeypatch)
    both, alone = trained(local_context, student("both", labels=BOTH, budget=2), student("alone"))
    assert "`weights: selection` follows what validation says" in str(both.failure)
    assert alone.failure is None
    assert alone.weights == ()


def test_a_method_that_reads_beside_labels_is_refused(monkeypatch: pytest.MonkeyPatch, local_context: Context) -> None:
    World().use(monkeypatch)
    (found,) = trained(local_context, student("both", Part(name="features"), labels=BOTH))
    assert "reads `features` of the labels, which do not hold it" in str(found.failure)


def test_students_of_one_budget_read_the_sets_once(monkeypatch: pytest.MonkeyPatch, local_context: Context) -> None:
    world = World().use(monkeypatch)
    trained(local_context, student("a", labels=BOTH))
    alone = world.feeds[-1].counters["labels"]
    trained(local_context, student("b", labels=BOTH, seed=1), student("c", labels=BOTH, seed=2))
    assert world.feeds[-1].counters["labels"] == alone


def test_one_label_set_is_asked_for_as_ever() -> None:
    """An ensemble has another form than a set, and none changes no fingerprint of the others."""
    assert identity(student("one"))["labels"].keys() == identity(LabelSetRef(**ref(0))).keys()
    again = StudentInputs.model_validate(student("both", labels=BOTH).dump())
    assert again.labels == BOTH
    assert again.label_sets == BOTH.sets
    assert student("none", "none").label_sets == ()
