"""Calibration: the temperature that the truth asks for, through any encoding, for one student alone."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.specs import load_spec
from schemas.encodings import Sampled, TopK
from schemas.errors import DataError, SpecError
from stages.context import Context
from stages.labels.decoded import Decoded, DenseLabels
from stages.labels.encodings import codec_of
from stages.random import counters
from stages.students.calibration import LEAST, MOST, fit_temperature
from stages.students.stage import STUDENTS
from tests.pipeline.world import write_world
from tests.students.world import World, cohort_of, student

ROWS, CLASSES = 4000, 6


def drawn(seed: int = 0, rows: int = ROWS) -> tuple[np.ndarray, np.ndarray]:
    """Logits, and truth that is drawn from them: calibrated at t = 1."""
    rng = np.random.default_rng(seed)
    logits = 2 * rng.normal(size=(rows, CLASSES)).astype(np.float32)
    truth = (logits + rng.gumbel(size=logits.shape)).argmax(axis=1).astype(np.int32)
    return logits, truth


def encoded(logits: np.ndarray, encoding: Any) -> Decoded:
    codec = codec_of(encoding, logits.shape[1])
    return codec.decode(codec.encode(logits, counters(np.zeros((len(logits), 16), np.uint8))))


@pytest.mark.parametrize("factor", [0.5, 1.0, 1.7, 3.0])
def test_what_logits_were_multiplied_by_is_found(factor: float) -> None:
    logits, truth = drawn()
    found = fit_temperature(DenseLabels(logits * np.float32(factor)), truth, None, (2.0,))
    assert found == pytest.approx(factor, rel=0.06), "4,000 rows: some percent of noise"


def test_it_has_the_largest_likelihood_of_a_fine_grid() -> None:
    logits, truth = drawn(1, 50)
    labels = DenseLabels(np.float32(1.3) * logits)

    def loss(t: float) -> float:
        return -float(labels.log_probabilities(t)[np.arange(50), truth].mean())

    found = fit_temperature(labels, truth, None, ())
    grid = np.geomspace(LEAST, MOST, 2000)
    assert loss(found) <= min(map(loss, grid)) + 1e-9


def test_classes_in_another_order_are_the_same_classes() -> None:
    logits, truth = drawn()
    order = np.array([3, 1, 0, 5, 4, 2])
    theirs = np.empty_like(logits)
    theirs[:, order] = logits
    ours = fit_temperature(DenseLabels(logits), truth, None, ())
    assert fit_temperature(DenseLabels(theirs), truth, order, ()) == pytest.approx(ours, rel=1e-6), (
        "sums in other order"
    )


def test_sparse_labels_of_all_classes_are_fitted_as_dense_ones() -> None:
    logits, truth = drawn()
    sparse = encoded(logits, TopK(kind="top-k", k=CLASSES, temperatures=(0.25, 1.0, 2.0)))
    dense = fit_temperature(DenseLabels(logits.astype(np.float16).astype(np.float32)), truth, None, ())
    assert fit_temperature(sparse, truth, None, (1.0,)) == pytest.approx(dense, rel=1e-3)


@given(st.floats(1.0, 3.0), st.floats(1.0, 4.0), st.integers(1, CLASSES))
def test_calibrated_labels_at_tau_are_the_labels_at_t_times_tau(t: float, tau: float, k: int) -> None:
    logits, _ = drawn(2, 20)
    for labels in (DenseLabels(logits), encoded(logits, TopK(kind="top-k", k=k, temperatures=(0.5, 1.0, 4.0)))):
        found = labels.calibrated(t).log_probabilities(tau)
        assert np.allclose(found, labels.log_probabilities(t * tau), atol=1e-5)


def test_no_temperature_is_found_that_sparse_labels_do_not_hold() -> None:
    """A method that reads at 1 needs t * 1 to be at least the smallest declared temperature."""
    logits, truth = drawn()
    sharp = encoded(0.2 * logits, TopK(kind="top-k", k=3))
    t = fit_temperature(sharp, truth, None, (1.0, 2.0))
    assert t == pytest.approx(1.0)
    sharp.calibrated(t).check(1.0)


def test_all_right_ends_at_the_bound() -> None:
    truth = np.arange(5, dtype=np.int32)
    assert fit_temperature(DenseLabels(3 * np.eye(5, dtype=np.float32)), truth, None, ()) == pytest.approx(LEAST)
    assert fit_temperature(DenseLabels(-9 * np.eye(5, dtype=np.float32)), truth, None, ()) == pytest.approx(MOST)


def test_what_cannot_be_calibrated_says_why() -> None:
    logits, truth = drawn(3, 10)
    with pytest.raises(DataError, match="raise `label_budget.validation`"):
        fit_temperature(DenseLabels(logits[:0]), truth[:0], None, ())
    with pytest.raises(DataError, match="sampled ones have their own"):
        fit_temperature(encoded(logits, Sampled(kind="sampled")), truth, None, ())


def test_a_calibrated_student_reads_through_its_own_temperature(
    monkeypatch: pytest.MonkeyPatch, local_context: Context
) -> None:
    """One of a cohort; its neighbours read what is stored."""
    world = World().use(monkeypatch)
    labels, rows = world.label_sets[f"{0:032x}"], world.budgets[f"{0:032x}"].validation_positions
    labels.values[rows[:2]] = np.roll(labels.values[rows[:2]], 1, axis=1)  # a teacher that is wrong now and then
    asked = cohort_of(student("plain"), student("fitted", calibrate=True), student("neighbour", seed=1))
    found = STUDENTS.run(local_context, asked).students
    assert [one.failure for one in found] == [None] * 3
    assert [one.calibration for one in found][::2] == [None, None]
    wanted = fit_temperature(DenseLabels(labels.values[rows]), world.truth[rows], None, (2.0,))
    assert found[1].calibration == wanted
    assert LEAST < wanted < MOST
    assert len({one.model.digest for one in found if one.model}) == 3


def test_a_calibrated_student_without_validation_labels_fails_alone(
    monkeypatch: pytest.MonkeyPatch, local_context: Context
) -> None:
    World().use(monkeypatch)
    found = STUDENTS.run(local_context, cohort_of(student("a"), student("b", calibrate=True, budget=2))).students
    assert found[0].failure is None
    assert "`calibrate` needs true labels of its validation budget" in str(found[1].failure)


def test_a_plan_refuses_it_where_there_is_nothing_to_fit(tmp_path: Path) -> None:
    from crossdistill import plan

    spec = write_world(tmp_path)
    none = load_spec(spec, ["students.small.calibrate=true", "domains.target.label_budget={train: 6, validation: 0}"])
    with pytest.raises(SpecError, match="students.small: `calibrate` fits the labels of a teacher"):
        plan(none)
