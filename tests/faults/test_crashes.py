"""Killed before every single change of the disk, and run again: the same set, nothing lost, little done twice."""

from __future__ import annotations

from pathlib import Path

import pytest

from schemas.errors import StoreError
from schemas.labels import Tag
from stages.labels.garbage import collect
from stages.labels.publish import copy_set
from stages.labels.reader import LabelSet
from stages.labels.store import Store
from stages.labels.tags import put_tag
from stages.labels.verify import verify
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


def copy(source: Path, folder: Path) -> str:
    """Publish, tag and collect: what a publisher does."""
    place = Place(str(folder))
    manifest = copy_set(LabelSet.open(str(source)), place)
    put_tag(place, "digits", Tag(fingerprint=manifest.fingerprint, digest=manifest.digest))
    collect(Store(place), unfinished=True)
    return manifest.digest


@pytest.mark.parametrize("first", [0, pytest.param(None, marks=pytest.mark.long)])
def test_publishing_killed_at_each_moment(tmp_path: Path, first: int | None) -> None:
    """Publish, tag and collect; then again. Whatever a reader can open meanwhile is whole."""
    source = tmp_path / "source"
    digest = label(source)
    found = changes(tmp_path / "whole", lambda: copy(source, tmp_path / "whole"))
    assert any("tags/digits/000001.json" in moment for moment in found)
    for at in range(0, len(found), STRIDE) if first is not None else range(len(found)):
        folder = tmp_path / f"at-{at}"
        killed_at(folder, lambda folder=folder: copy(source, folder), at)  # type: ignore[misc]
        try:
            assert verify(LabelSet.open(str(folder)), deep=True) == [], found[at]
        except StoreError:
            assert not list(folder.glob("sets/*/set.json")), found[at]
        assert copy(source, folder) == digest, found[at]
        assert LabelSet.open(f"{folder}#digits@v1").digest == digest
        assert verify(LabelSet.open(str(folder)), deep=True) == []
        assert len(list(folder.glob("units/*/*"))) == 2 * len(ROWS), found[at]


def test_the_moments_are_many_and_known(moments: list[str]) -> None:
    assert len(moments) > 60
    for part in ("store.json", "plan.json", "logits/c/0", "zarr.json", "receipt.json", "index-", "set.json"):
        assert any(part in moment for moment in moments), part


@pytest.mark.parametrize("first", [0, pytest.param(None, marks=pytest.mark.long)])
def test_labelling_killed_at_each_moment(tmp_path: Path, moments: list[str], first: int | None) -> None:
    whole = label(tmp_path / "whole")
    for at in range(0, len(moments), STRIDE) if first is not None else range(len(moments)):
        try_labelling(tmp_path / f"at-{at}", at, moments[at], whole)
