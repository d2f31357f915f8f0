"""Making a set: what it says, what makes another unit, what is refused (`suite` has kills, races and growth)."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from schemas.encodings import Dense
from schemas.errors import DataError, ModelError, StoreError
from schemas.labels import UnitPlan
from stages.labels.actor import label_units
from stages.labels.builder import exact_rows
from stages.labels.reader import LabelSet
from stages.labels.sets import complete_set
from stages.labels.store import FIDELITY_SCALE, About, Store, fidelity_threshold, missing_units
from stages.places import Place
from tests.labels.fakes import (
    NOBODY,
    FakeSamples,
    OracleTeacher,
    inputs_for,
    labeller_for,
    make_fake_set,
    plan_for,
)

ROWS = (10, 7, 1)


def test_a_set_says_what_the_teacher_said(tmp_path: Path) -> None:
    samples, teacher = FakeSamples(ROWS), OracleTeacher()
    manifest = make_fake_set(Place(str(tmp_path)), samples, teacher, inputs_for(Dense(dtype="float32")))
    labels = LabelSet.open(str(tmp_path))
    assert (teacher.rows, manifest.rows, manifest.units, len(labels)) == (18, 18, 3, 18)
    for shard in range(3):
        assert np.array_equal(labels.read(shard)["logits"], samples.read(shard)["x"])
        assert labels.sample_ids(shard) == samples.sample_ids(shard)
        assert np.array_equal(labels.content_ids(shard), samples.content_ids(shard))
        labels.check_ids(shard)
    labels.align(samples)


def test_fidelity_can_be_measured_again_from_the_set_alone(tmp_path: Path) -> None:
    from stages.labels.statistics import fidelity, merge

    samples = FakeSamples((50, 30))
    manifest = make_fake_set(Place(str(tmp_path)), samples, OracleTeacher(), inputs_for(batch_size=16))
    labels = LabelSet.open(str(tmp_path))
    again = []
    for unit in range(2):
        rows, exact_MC = labels.exact(unit)
        assert np.array_equal(exact_MC, samples.read(unit)["x"][rows])
        again.append(fidelity(exact_MC, labels.decode(labels.read(unit)).rows(rows)))
    found = merge(again)
    assert found.fidelity_rows == manifest.statistics.fidelity_rows == 80
    assert found.largest_error == manifest.statistics.largest_error > 0
    assert found.full_kl_sums == pytest.approx(manifest.statistics.full_kl_sums)


def test_batches_and_their_order_change_no_byte(tmp_path: Path) -> None:
    samples = FakeSamples((40, 40, 9))
    digests = {make_fake_set(Place(str(tmp_path / f"{run}")), samples, OracleTeacher()).digest for run in range(3)}
    assert len(digests) == 1


def test_another_precision_batch_size_or_encoding_is_another_unit() -> None:
    samples = FakeSamples((3,))
    asked = [
        inputs_for(),
        inputs_for(batch_size=5),
        inputs_for(precision="bfloat16"),
        inputs_for(Dense(dtype="float32")),
    ]
    assert len({plan_for(samples, inputs).units[0].key for inputs in asked}) == 4


def test_a_finished_unit_is_adopted_without_the_teacher(tmp_path: Path) -> None:
    place, samples, teacher = Place(str(tmp_path)), FakeSamples((5,)), OracleTeacher()
    make_fake_set(place, samples, OracleTeacher())
    result = labeller_for(Store(place), samples, teacher).label(plan_for(samples, inputs_for()).units[0])
    assert (result.made, teacher.rows) == (False, 0)


# --- refusals ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_an_output_that_is_not_finite_names_sample_and_shard(tmp_path: Path, value: float) -> None:
    samples = FakeSamples(ROWS)

    def spoil(batch: torch.Tensor) -> torch.Tensor:
        return torch.where(batch == float(samples.read(0)["x"][9, 2]), value, batch)

    with pytest.raises(ModelError, match=r"sample 'sample-0-9-é' \(row 9 of shard 'shard-00000.arrow'\) is not finite"):
        make_fake_set(Place(str(tmp_path)), samples, OracleTeacher(spoil))
    assert (
        not Store(Place(str(tmp_path)))
        .receipts(plan_for(samples, inputs_for()))
        .get(plan_for(samples, inputs_for()).units[0].key)
    )


def test_outputs_of_another_shape_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"shape \(4, 3\) for 4 samples of 4 classes"):
        make_fake_set(Place(str(tmp_path)), FakeSamples((4,)), OracleTeacher(lambda batch: batch[:, :3]))


def test_a_logit_beyond_float16_is_refused(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match="float16"):
        make_fake_set(Place(str(tmp_path)), FakeSamples((4,)), OracleTeacher(lambda batch: batch * 1e6))


def test_samples_that_are_not_the_planned_ones_are_refused(tmp_path: Path) -> None:
    labeller = labeller_for(Store.create(Place(str(tmp_path))), FakeSamples((4,)), OracleTeacher())
    with pytest.raises(DataError, match="plan again"):
        labeller.label(plan_for(FakeSamples((4,), salt="other-"), inputs_for()).units[0])


def test_another_plan_under_the_same_fingerprint_is_refused(tmp_path: Path) -> None:
    store = Store.create(Place(str(tmp_path)))
    plan = plan_for(FakeSamples(ROWS), inputs_for())
    store.commit_plan(plan)
    store.commit_plan(plan)
    with pytest.raises(StoreError, match="other units for the same fingerprint"):
        store.commit_plan(plan.model_copy(update={"units": plan.units[:1]}))


def test_what_another_unit_wrote_is_no_receipt(tmp_path: Path) -> None:
    place, samples = Place(str(tmp_path)), FakeSamples(ROWS)
    make_fake_set(place, samples, OracleTeacher())
    one, other = (unit.key for unit in plan_for(samples, inputs_for()).units[:2])
    (tmp_path / f"units/{one}/receipt.json").write_bytes(place.read(f"units/{other}/receipt.json"))
    with pytest.raises(StoreError, match=f"units/{one}/receipt.json is the receipt of another unit"):
        Store(place).receipt(one)


def test_no_store_is_told_from_an_empty_one(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match="no label store"):
        Store.open(Place(str(tmp_path)))


# --- plans -------------------------------------------------------------------------------------------------------


def test_missing_units_are_a_difference() -> None:
    plan = plan_for(FakeSamples(ROWS), inputs_for())
    some: Any = {plan.units[1].key: None}
    assert missing_units(plan, some) == (plan.units[0], plan.units[2])
    assert missing_units(plan, {}) == plan.units


@pytest.mark.parametrize("rows", [0, 1, 2000, 2223, 2224, 10_000, 300_000])
def test_fidelity_takes_two_thousand_rows_or_all(rows: int) -> None:
    content_ids = np.random.default_rng(0).integers(0, 256, (rows, 16)).astype("u1")
    taken = int(exact_rows(content_ids, fidelity_threshold(rows)).sum())
    assert min(rows, 2000) <= taken <= min(rows, 2500)
    assert fidelity_threshold(0) == FIDELITY_SCALE


def test_an_error_stops_the_units_that_wait(tmp_path: Path) -> None:
    samples, seen = FakeSamples((4,) * 30), []

    def fail(batch: torch.Tensor) -> torch.Tensor:
        seen.append(len(batch))
        return batch * float("nan")

    store, plan = Store.create(Place(str(tmp_path))), plan_for(samples, inputs_for())

    def label(units: Sequence[UnitPlan]) -> Iterator[Any]:
        return label_units(labeller_for(store, samples, OracleTeacher(fail)), units)

    with pytest.raises(ModelError):
        complete_set(store, plan, label, About(NOBODY, NOBODY))
    assert len(seen) < 10
