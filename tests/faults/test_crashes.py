"""Killed before every single change of the disk, and run again: the same set, nothing lost, little done twice."""

from __future__ import annotations

from pathlib import Path

import pytest

from schemas.errors import StoreError
from stages.labels.reader import LabelSet
from stages.labels.store import Store
from stages.places import Place
from tests.faults.crash import changes, killed_at
from tests.labels.fakes import FakeSamples, OracleTeacher, inputs_for, make_fake_set, plan_for

ROWS = (2, 1)
STRIDE = 9
"""`make test` tries every ninth moment, `make test-faults` each."""


def label(folder: Path) -> str:
    return make_fake_set(Place(str(folder)), FakeSamples(ROWS), OracleTeacher()).digest


@pytest.fixture(scope="module")
def moments(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    folder: Path = tmp_path_factory.mktemp("whole") / "store"
    return changes(folder, lambda: label(folder))


def try_labelling(folder: Path, at: int, moment: str, digest: str) -> None:
    """Kill labelling at a moment; what can be opened is whole; run again, and compare."""
    killed_at(folder, lambda: label(folder), at)
    try:
        found = LabelSet.open(str(folder))
    except StoreError:
        found = None
    assert found is None or found.digest == digest, moment
    place = Place(str(folder))
    receipts = Store(place).receipts(plan_for(FakeSamples(ROWS), inputs_for()))
    teacher = OracleTeacher()
    assert make_fake_set(place, FakeSamples(ROWS), teacher).digest == digest, moment
    assert teacher.rows == sum(ROWS) - sum(receipt.rows for receipt in receipts.values()), moment
    labels = LabelSet.open(place)
    for unit in range(len(labels.units)):
        labels.check_ids(unit)
        labels.exact(unit)


def test_the_moments_are_many_and_known(moments: list[str]) -> None:
    assert len(moments) > 60
    for part in ("store.json", "plan.json", "logits/c/0", "zarr.json", "receipt.json", "index-", "set.json"):
        assert any(part in moment for moment in moments), part


@pytest.mark.parametrize("first", [0, pytest.param(None, marks=pytest.mark.long)])
def test_labelling_killed_at_each_moment(tmp_path: Path, moments: list[str], first: int | None) -> None:
    whole = label(tmp_path / "whole")
    for at in range(0, len(moments), STRIDE) if first is not None else range(len(moments)):
        try_labelling(tmp_path / f"at-{at}", at, moments[at], whole)
