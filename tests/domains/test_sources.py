"""Sources: every kind gives the same pictures, in slices, and says by place what is wrong."""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import Any

import fsspec
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from schemas.errors import DataError, SpecError
from schemas.spec import Source
from stages.context import Context
from stages.domains.reader import read_truth
from stages.domains.sources import check_source, open_source, source_digest
from stages.places import Place
from stages.tasks.base import BadRow
from tests.domains.helpers import KINDS, ingest, open_samples, pictures, png, write_csv, write_source


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_round_trips_in_shards(kind: str, local_context: Context, tmp_path: Path) -> None:
    images, labels = pictures()
    outputs = ingest(local_context, write_source(kind, tmp_path / "source", images, labels), shard_rows=4)
    samples = open_samples(local_context, outputs)
    assert [shard.rows for shard in samples.shards] == [4, 4, 2]
    packed = samples.gather(np.arange(10))["image"]
    if kind.startswith("arrays"):
        assert np.array_equal(packed, images)
    else:
        assert packed == [png(picture) for picture in images]
    truth, classes = read_truth(local_context.place(outputs.samples), outputs.truth)  # type: ignore[arg-type]
    assert [classes[number] for number in truth] == labels


@pytest.mark.parametrize("kind", KINDS)
def test_a_moved_source_is_the_same_and_a_changed_one_is_not(kind: str, tmp_path: Path) -> None:
    images, labels = pictures()
    source = write_source(kind, tmp_path / "here", images, labels)
    digest = source_digest(source)
    shutil.move(tmp_path / "here", tmp_path / "there")
    moved = Source.model_validate_json(source.model_dump_json().replace("/here", "/there"))
    assert source_digest(moved) == digest
    images[3, 0, 0, 0] ^= 1
    assert source_digest(write_source(kind, tmp_path / "changed", images, labels)) != digest


def test_source_digest_is_cached_until_a_file_changes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = write_source("csv", tmp_path / "source", *pictures())
    workspace = Place(str(tmp_path / "workspace"))
    digest = source_digest(source, workspace)
    with monkeypatch.context() as patch:
        patch.setattr("stages.places.checksum_stream", lambda file: pytest.fail("a known file was read again"))
        assert source_digest(source, workspace) == digest
    picture = tmp_path / "source" / "files" / "004.png"
    before = picture.stat()
    picture.write_bytes(picture.read_bytes()[:-1] + b"\0")
    os.utime(picture, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert source_digest(source, workspace) == source_digest(source) != digest


@pytest.mark.parametrize("damage", [b"", b"0123", b"\xff" * 32, b"0" * 33])
def test_a_damaged_cache_of_digests_is_replaced(tmp_path: Path, damage: bytes) -> None:
    source = write_source("csv", tmp_path / "source", *pictures())
    workspace = Place(str(tmp_path / "workspace"))
    digest = source_digest(source, workspace)
    (path,) = (tmp_path / "workspace" / "sources").iterdir()
    path.write_bytes(damage)
    assert source_digest(source, workspace) == digest == path.read_text()


def test_order_of_a_folder_does_not_follow_its_classes(local_context: Context, tmp_path: Path) -> None:
    images, labels = pictures()
    first = ingest(local_context, write_source("folder", tmp_path / "a", images, labels))
    second = ingest(local_context, write_source("folder", tmp_path / "b", images, labels[::-1]))
    assert first.samples.digest == second.samples.digest
    assert first.truth != second.truth


def test_object_storage_is_read_alike(local_context: Context, tmp_path: Path) -> None:
    images, labels = pictures()
    write_source("csv", tmp_path / "source", images, labels)
    fsspec.filesystem("memory").put(str(tmp_path / "source"), "/sources-test", recursive=True)
    outputs = ingest(local_context, Source(csv="memory://sources-test/data.csv"), shard_rows=3)
    assert open_samples(local_context, outputs).gather(np.array([7]))["image"] == [png(images[7])]


CELLS = st.text(st.characters(codec="utf-8", exclude_characters="\x00"), max_size=6)


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(CELLS, CELLS), max_size=12), st.integers(1, 5))
def test_csv_slices_hold_every_record_once(
    tmp_path_factory: pytest.TempPathFactory, rows: list[tuple[str, str]], size: int
) -> None:
    path = write_csv(tmp_path_factory.mktemp("csv") / "data.csv", ["text", "label"], rows)
    reader = open_source(Source(csv=str(path)), {}, ["text"])
    slices = [[row for _, row in piece.read()] for _, piece in reader.slices(size)]
    found = [(row["text"] or "", row["label"] or "") for piece in slices for row in piece]  # type: ignore[index]
    assert found == rows
    assert all(len(piece) == size for piece in slices[:-1])


def test_csv_places_are_lines_and_odd_rows_are_named(tmp_path: Path) -> None:
    path = tmp_path / "data.csv"
    path.write_bytes(b'\xef\xbb\xbftext,label\r\n"a\r\nb",0\r\n\r\nc\r\n\xff,1\r\n5" disk,1\r\n')
    reader = open_source(Source(csv=str(path)), {}, ["text"])
    found = [item for _, piece in reader.slices(2) for item in piece.read()]
    assert [place for place, _ in found] == [f"data.csv line {line}" for line in (2, 5, 6, 7)]
    assert found[0][1] == {"text": "a\r\nb", "label": "0"}
    assert [str(row) for _, row in found[1:3]] == ["it has 1 cells, the header has 2", "it is not UTF-8"]
    assert found[3][1] == {"text": '5" disk', "label": "1"}


def test_jsonl_bad_lines_and_absent_keys(tmp_path: Path) -> None:
    path = tmp_path / "data.jsonl"
    path.write_text('{"text": "a", "label": 1}\n\n{"text": \n[1]\n{"text": "b"}\n')
    found = [item for _, piece in open_source(Source(jsonl=str(path)), {}, ["text"]).slices(2) for item in piece.read()]
    assert [place.split()[-1] for place, _ in found] == ["1", "3", "4", "5"]
    assert isinstance(found[1][1], BadRow)
    assert str(found[2][1]) == "it is a JSON list, not an object"
    assert found[3][1] == {"text": "b", "label": None}


@settings(max_examples=30, deadline=None)
@given(st.lists(st.integers(0, 9), min_size=1, max_size=4), st.integers(1, 4), st.integers(1, 7))
def test_parquet_slices_go_over_files_and_row_groups(
    tmp_path_factory: pytest.TempPathFactory, counts: list[int], group: int, size: int
) -> None:
    folder = tmp_path_factory.mktemp("parquet")
    values = list(range(sum(counts)))
    ends = np.cumsum(counts)
    for number, (end, count) in enumerate(zip(ends, counts, strict=True)):
        table = pa.table({"text": pa.array(values[end - count : end], pa.int64())})
        pq.write_table(table, folder / f"{number}.parquet", row_group_size=group)
    slices = [list(piece.read()) for _, piece in open_source(Source(parquet=str(folder)), {}, ["text"]).slices(size)]
    assert [row["text"] for piece in slices for _, row in piece] == values  # type: ignore[index]
    assert all(len(piece) == size for piece in slices[:-1])


def problems(source: dict[str, Any], columns: dict[str, str] | None = None) -> str:
    return "\n".join(check_source(Source.model_validate(source), columns or {}, ["image"]))


def test_problems_are_found_before_reading(tmp_path: Path) -> None:
    path = str(write_csv(tmp_path / "data.csv", ["picture", "label"], []))
    assert "no column 'image'" in problems({"csv": path})
    assert "it has picture, label" in problems({"csv": path})
    assert "no column 'pictur'; did you mean 'picture'?" in problems({"csv": path}, {"image": "pictur"})
    assert "role 'lable'" in problems({"csv": path}, {"image": "picture", "lable": "label"})
    assert "no column 'class'" in problems({"csv": path}, {"image": "picture", "label": "class"})
    assert problems({"csv": path}, {"image": "picture"}) == ""
    for kind in ("csv", "jsonl", "parquet", "arrays"):
        assert "does not exist" in problems({kind: f"{tmp_path}/absent"})
    assert "is no folder" in problems({"image_folder": f"{tmp_path}/absent"})
    assert "holds no images" in problems({"image_folder": str(tmp_path)})
    assert "holds no .parquet files" in problems({"parquet": str(tmp_path)})
    assert "is a folder" in problems({"jsonl": str(tmp_path)})
    for kind in ("parquet", "arrays", "jsonl"):
        assert "data.csv" in problems({kind: path})
    assert "did you mean 'mnist-5k'" in problems({"example": "mnist-5"})
    assert problems({"example": "mnist-5k"}) == ""


def test_both_splits_are_checked_at_once(tmp_path: Path) -> None:
    places = {name: str(write_csv(tmp_path / f"{name}.csv", ["x"], [])) for name in ("train", "test")}
    assert len(check_source(Source(csv=places), {}, ["image"])) == 2  # type: ignore[arg-type]


def test_arrays_that_cannot_be_used_are_refused(tmp_path: Path) -> None:
    images, labels = pictures()
    path = tmp_path / "data.npz"

    def refused(**arrays: Any) -> str:
        np.savez(path, **arrays)
        with pytest.raises(DataError) as error:
            list(open_source(Source(arrays=str(path)), {}, ["image"]).slices(4))
        return str(error.value)

    assert "Python objects" in refused(image=np.array([{}, None], object))
    assert "Fortran order" in refused(image=np.asfortranarray(images[..., 0]))
    assert "single value" in refused(image=np.float32(1))
    assert "image 10, label 9" in refused(image=images, label=np.array(labels[1:]))


def test_unknown_example_is_named() -> None:
    with pytest.raises(SpecError, match="uci-digits"):
        source_digest(Source(example="uci-digit"))
