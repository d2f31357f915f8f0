"""Reading: equal to what was written, wherever the store is; every fault is named."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import zarr
from hypothesis import given, settings
from hypothesis import strategies as st

from schemas.artifacts import LabelSetRef
from schemas.encodings import Dense
from schemas.errors import ContractError, LabelsMissing, StoreError
from schemas.labels import SetManifest
from stages.labels import reader
from stages.labels.catalog import card, list_sets, printable
from stages.labels.reader import LabelSet
from stages.labels.store import Store
from stages.places import Place
from tests.labels.fakes import FakeSamples, OracleTeacher, inputs_for, make_fake_set

ROWS = (10, 7, 1)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small set that no test changes."""
    path: Path = tmp_path_factory.mktemp("store")
    make_fake_set(Place(str(path)), FakeSamples(ROWS), OracleTeacher())
    return path


@given(positions=st.lists(st.integers(0, sum(ROWS) - 1), max_size=40))
@settings(max_examples=60)
def test_gather_is_read(folder: Path, positions: list[int]) -> None:
    labels = LabelSet.open(str(folder))
    whole = np.concatenate([labels.read(unit)["logits"] for unit in range(3)])
    wanted = np.array(positions, np.int64)
    assert np.array_equal(labels.gather(wanted)["logits"], whole[wanted])
    decoded = labels.logits(wanted)
    assert (decoded.dtype, decoded.shape) == (np.dtype("f4"), (len(positions), 4))
    assert np.array_equal(decoded, whole[wanted].astype("f4"))


@pytest.mark.parametrize("positions", [[-1], [18], [0, 99]])
def test_positions_beyond_the_set_are_refused(folder: Path, positions: list[int]) -> None:
    with pytest.raises(IndexError, match="from 0 to 17"):
        LabelSet.open(str(folder)).gather(np.array(positions))


def test_mapped_labels_cannot_be_written(folder: Path) -> None:
    with pytest.raises(ValueError, match="read-only"):
        LabelSet.open(str(folder)).read(0)["logits"][0, 0] = 1


def test_more_units_than_are_mapped_at_once(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reader, "UNITS_MAPPED", 1)
    labels, positions = LabelSet.open(str(folder)), np.array([17, 0, 12, 3, 17])
    assert np.array_equal(labels.gather(positions)["logits"], LabelSet.open(str(folder)).gather(positions)["logits"])


def test_opening_writes_nothing(folder: Path) -> None:
    before = {path: path.stat().st_mtime_ns for path in folder.rglob("*")}
    LabelSet.open(str(folder)).gather(np.arange(18))
    assert {path: path.stat().st_mtime_ns for path in folder.rglob("*")} == before


def test_other_libraries_open_the_files(folder: Path) -> None:
    labels = LabelSet.open(str(folder))
    (index,) = folder.glob("sets/*/index-*.parquet")
    for unit, row in enumerate(pq.read_table(index).to_pylist()):
        group: Any = zarr.open_group(folder / "units" / row["key"] / row["attempt"], mode="r")
        assert np.array_equal(group["logits"][:], labels.read(unit)["logits"])
        ids = group["sample_id"][:]
        assert [bytes(item).rstrip(b"\0").decode() for item in ids] == labels.sample_ids(unit)


def test_a_store_that_is_not_on_disk() -> None:
    place, samples = Place("memory://reader-test"), FakeSamples(ROWS)
    manifest = make_fake_set(place, samples, OracleTeacher())
    labels = LabelSet.open(place, manifest.fingerprint)
    labels.align(samples)
    assert np.array_equal(labels.read(1)["logits"], samples.read(1)["x"].astype("f2"))
    assert len(labels.gather(np.arange(18))["logits"]) == 18


# --- names -------------------------------------------------------------------------------------------------------


def test_a_set_is_found_by_what_names_it(folder: Path) -> None:
    place = Place(str(folder))
    fingerprint = place.names("sets")[0]
    assert {LabelSet.open(place, name).fingerprint for name in (None, fingerprint, fingerprint[:8])} == {fingerprint}


@pytest.mark.parametrize("name", ["0123456", "../../etc", "ABCDEF0123", "00000000", "0" * 32])
def test_a_name_that_means_no_set_is_refused(folder: Path, name: str) -> None:
    with pytest.raises(StoreError):
        LabelSet.open(str(folder), name)


def test_two_sets_need_a_name(tmp_path: Path) -> None:
    place = Place(str(tmp_path))
    for dtype in ("float16", "float32"):
        make_fake_set(place, FakeSamples((2,)), OracleTeacher(), inputs_for(Dense.model_validate({"dtype": dtype})))
    with pytest.raises(StoreError, match="holds 2 label sets, a name is needed"):
        LabelSet.open(place)


def test_a_reference_is_held_to_its_digest(folder: Path) -> None:
    place = Place(str(folder))
    known = LabelSet.open(place)
    ref = LabelSetRef(uri=place.uri, fingerprint=known.fingerprint, digest=known.digest)
    assert LabelSet.open_ref(place, ref).rows == 18
    with pytest.raises(StoreError, match="not the one that was referred to"):
        LabelSet.open_ref(place, ref.model_copy(update={"digest": "0" * 32}))


# --- alignment ---------------------------------------------------------------------------------------------------


class Changed(FakeSamples):
    """Samples of which one has another content."""

    def content_ids(self, shard: int) -> np.ndarray:
        changed = super().content_ids(shard).copy()
        changed[0] ^= 1
        return changed


@pytest.mark.parametrize(
    ("samples", "error", "message"),
    [
        (
            FakeSamples((*ROWS, 2)),
            LabelsMissing,
            r"2 of 20 samples have no label .* \(first: sample-3-0-\\xe9, sample-3-1",
        ),
        (FakeSamples(ROWS, salt="x"), LabelsMissing, "18 of 18 samples have no label"),
        (Changed(ROWS, width=5), StoreError, "3 of 18 samples have other content"),
    ],
)
def test_labels_of_other_rows_are_refused(
    folder: Path, samples: FakeSamples, error: type[StoreError], message: str
) -> None:
    with pytest.raises(error, match=message):
        LabelSet.open(str(folder)).align(samples)


# --- faults ------------------------------------------------------------------------------------------------------

OBJECTS = ["logits", "content_id", "sample_id", "fidelity_position", "fidelity_logits"]


def read_all(place: Place) -> None:
    """Everything that a set says."""
    labels = LabelSet.open(place)
    labels.gather(np.arange(len(labels)))
    for unit in range(len(labels.units)):
        labels.check_ids(unit)
        labels.exact(unit)


@pytest.mark.parametrize("fault", ["missing", "cut", "longer", "flipped"])
def test_a_fault_in_any_object_is_found_and_named(tmp_path: Path, fault: str) -> None:
    place = Place(str(tmp_path))
    make_fake_set(place, FakeSamples((3, 2)), OracleTeacher())
    read_all(place)
    unit = LabelSet.open(place).units[1].receipt
    attempt = tmp_path / "units" / unit.key / unit.attempt
    objects = [path for path in attempt.rglob("*") if path.is_file() and path.parent != attempt]
    assert {path.relative_to(attempt).parts[0] for path in objects} == set(OBJECTS)
    for path in [*objects, *tmp_path.glob("sets/*/index-*.parquet")]:
        data = path.read_bytes()
        if fault == "missing":
            path.unlink()
        else:
            flipped = bytearray(data)
            flipped[len(data) // 2] ^= 1
            path.write_bytes({"cut": data[:-1], "longer": data + b"\0", "flipped": bytes(flipped)}[fault])
        with pytest.raises(StoreError, match=f"{path.relative_to(tmp_path).as_posix()} is .*: {reader.MEND}$"):
            read_all(place)
        path.write_bytes(data)
    read_all(place)


def test_every_flipped_bit_of_a_row_is_found(tmp_path: Path) -> None:
    place = Place(str(tmp_path))
    make_fake_set(place, FakeSamples((2,), zero=True), OracleTeacher())
    (path,) = tmp_path.glob("units/*/*/logits/c/0/0")
    data = path.read_bytes()
    for byte in range(len(data)):
        path.write_bytes(data[:byte] + bytes([data[byte] ^ 4]) + data[byte + 1 :])
        with pytest.raises(StoreError, match="logits/c/0/0 is damaged"):
            LabelSet.open(place).gather(np.arange(2))


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ('"rows": 5', '"rows": 6'),
        ('"a",', '"z",'),
        ('"units": 2', '"units": 3'),
        ('"entropy_sum": ', '"entropy_sum": 1'),
    ],
)
def test_an_edited_manifest_is_found(tmp_path: Path, old: str, new: str) -> None:
    place = Place(str(tmp_path))
    make_fake_set(place, FakeSamples((3, 2)), OracleTeacher())
    (path,) = tmp_path.glob("sets/*/set.json")
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new, 1))
    with pytest.raises(StoreError, match="was edited"):
        LabelSet.open(place)


def test_a_manifest_cannot_point_out_of_the_store(tmp_path: Path) -> None:
    from schemas.errors import PlaceError

    place = Place(str(tmp_path))
    make_fake_set(place, FakeSamples((3,)), OracleTeacher())
    (path,) = tmp_path.glob("sets/*/set.json")
    manifest = SetManifest.parse_json(path.read_bytes(), "set.json")
    evil = manifest.model_copy(update={"index": manifest.index.model_copy(update={"name": "../../../index-x.parquet"})})
    path.write_bytes(evil.model_copy(update={"seal": evil.unsealed()}).to_json())
    with pytest.raises(PlaceError, match="leaves its folder"):
        LabelSet.open(place)


def test_a_newer_store_is_refused_by_name(tmp_path: Path) -> None:
    place = Place(str(tmp_path))
    make_fake_set(place, FakeSamples((3,)), OracleTeacher())
    (tmp_path / "store.json").write_text('{"version": 3, "layout": 3}')
    with pytest.raises(ContractError, match="install a newer crossdistill"):
        LabelSet.open(place)


# --- shapes of data ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float32"])
@pytest.mark.parametrize("rows", [(1,), (5, 1), (300, 299)])
def test_zeros_and_short_shards(tmp_path: Path, dtype: str, rows: tuple[int, ...]) -> None:
    place, samples = Place(str(tmp_path)), FakeSamples(rows, zero=True)
    make_fake_set(place, samples, OracleTeacher(), inputs_for(Dense.model_validate({"dtype": dtype}), batch_size=128))
    labels = LabelSet.open(place)
    labels.align(samples)
    assert np.array_equal(labels.logits(np.arange(sum(rows))), np.zeros((sum(rows), 4)))


def test_a_set_without_rows(tmp_path: Path) -> None:
    place, samples = Place(str(tmp_path)), FakeSamples(())
    assert make_fake_set(place, samples, OracleTeacher()).rows == 0
    labels = LabelSet.open(place)
    labels.align(samples)
    assert labels.logits(np.arange(0)).shape == (0, 4)


# --- catalog -----------------------------------------------------------------------------------------------------


def test_catalog_shows_every_whole_set_and_nothing_that_does_not_print(tmp_path: Path) -> None:
    place = Place(str(tmp_path))
    manifest = make_fake_set(place, FakeSamples((3,)), OracleTeacher())
    (tmp_path / "sets" / ("0" * 32)).mkdir()
    (tmp_path / "sets" / ("0" * 32) / "set.json").write_text("{")
    sets, damaged = list_sets(place)
    assert sets == [manifest]
    assert list(damaged) == ["0" * 32]
    assert re.search(r"set\.json is not JSON.*: remove it, or make it again with --force labels$", damaged["0" * 32])
    evil = manifest.label_schema.model_copy(update={"classes": ("\x1b[2Jcat\n", "д" * 500)})
    shown = card(manifest.model_copy(update={"label_schema": evil}))
    assert shown["classes"].startswith("2: \\x1b[2Jcat\\n, дд")
    assert all(line.isprintable() and len(line) <= 120 for line in shown.values())
    assert printable("a\u202eb") == "a\\u202eb"


@pytest.mark.parametrize("lost", ["units/*/receipt.json", "sets/*/plan.json", "units/*/*/zarr.json"])
def test_what_no_reader_reads_harms_none(tmp_path: Path, lost: str) -> None:
    place = Place(str(tmp_path))
    make_fake_set(place, FakeSamples((3, 2)), OracleTeacher())
    for path in list(tmp_path.glob(lost)):
        path.write_bytes(b"")
    read_all(place)


def test_forgetting_a_set_makes_it_anew_and_harms_no_other(tmp_path: Path) -> None:
    place = Place(str(tmp_path))
    first = make_fake_set(place, FakeSamples((3,)), OracleTeacher())
    other = make_fake_set(place, FakeSamples((3, 2)), OracleTeacher())
    Store(place).forget_set(first.fingerprint)
    teacher = OracleTeacher()
    assert make_fake_set(place, FakeSamples((3,)), teacher).digest == first.digest
    assert teacher.rows == 3
    LabelSet.open(place, other.fingerprint).gather(np.arange(5))
