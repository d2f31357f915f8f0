"""The format of a unit: pinned by bytes, open to any Zarr library, refused when rows would not be where they should."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import zarr
from hypothesis import given
from hypothesis import strategies as st

from schemas.errors import DataError, StoreError
from stages.labels import unit
from stages.labels.unit import decode_ids, encode_ids, map_array, write_unit
from stages.places import Place


def mapped(folder: Path, name: str, dimensions: int = 2) -> np.ndarray:
    path = folder / unit.data_file(name, dimensions)
    return map_array((folder / name / "zarr.json").read_bytes(), path if path.exists() else None, f"unit/{name}")


@pytest.mark.parametrize("rows", [1, 2, 7, 1000])
@pytest.mark.parametrize("dtype", ["float16", "float32", "uint16", "uint8", "int32"])
def test_mapped_rows_are_those_that_zarr_reads(
    tmp_path: Path, rows: int, dtype: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(unit, "CHUNK_BYTES", 100)
    data = (np.random.default_rng(0).integers(0, 200, size=(rows, 5))).astype(dtype)
    data[rows // 3 : rows // 2] = 0  # whole chunks of zeros are written too
    write_unit(Place(str(tmp_path)), "a", {"x": data}, {})
    assert np.array_equal(mapped(tmp_path / "a", "x"), data)
    opened = zarr.open_array(tmp_path / "a" / "x", mode="r")
    assert opened.dtype == data.dtype
    assert np.array_equal(opened[:], data)


def test_zeros_and_nothing_are_kept(tmp_path: Path) -> None:
    arrays = {"zeros": np.zeros((9, 3), "f2"), "none": np.zeros((0, 3), "f4")}
    objects = {item.name: item.size for item in write_unit(Place(str(tmp_path)), "a", arrays, {"who": "me"})}
    assert objects["zeros/c/0/0"] == 9 * 6 + 20
    assert "none/c/0/0" not in objects
    assert mapped(tmp_path / "a", "zeros").shape == (9, 3)
    assert mapped(tmp_path / "a", "none").shape == (0, 3)
    group: Any = zarr.open_group(tmp_path / "a", mode="r")
    assert dict(group.attrs) == {"who": "me"}
    assert group["none"].shape == (0, 3)


def test_written_elsewhere_than_on_disk() -> None:
    place = Place("memory://unit-test")
    objects = write_unit(place, "a", {"x": np.arange(6, dtype="i4")}, {})
    assert [item.name for item in objects] == ["x/c/0", "x/zarr.json", "zarr.json"]
    assert tuple(place.objects("a")) == objects


@pytest.mark.parametrize("rows", [3, 8])
def test_rows_that_are_not_in_order_are_refused(tmp_path: Path, rows: int) -> None:
    """By default zarr leaves out chunks of zeros, and every later row moves."""
    data = np.ones((8, 4), "f4")
    data[:rows] = 0
    group = zarr.create_group(store=tmp_path, zarr_format=3)
    array = group.create_array("x", shape=(8, 4), dtype="f4", chunks=(1, 4), shards=(8, 4), compressors=None)
    array[...] = data
    with pytest.raises(StoreError, match="unit/x"):
        mapped(tmp_path, "x")


@pytest.mark.parametrize(
    "options",
    [
        {"chunks": (2, 4), "shards": (4, 4)},
        {"chunks": (2, 2), "shards": (8, 4)},
        {"chunks": (8, 4)},
        {"chunks": (8, 4), "shards": (8, 4), "compressors": "auto"},
    ],
)
def test_other_layouts_are_refused(tmp_path: Path, options: dict[str, Any]) -> None:
    group = zarr.create_group(store=tmp_path, zarr_format=3)
    settings: dict[str, Any] = {"compressors": None, "config": {"write_empty_chunks": True}, **options}
    group.create_array("x", shape=(8, 4), dtype="f4", **settings)[...] = 1
    with pytest.raises(StoreError, match="unit/x is n"):
        mapped(tmp_path, "x")


@given(
    st.recursive(
        st.none() | st.integers() | st.text(max_size=5),
        lambda item: st.lists(item) | st.dictionaries(st.text(max_size=5), item),
    )
)
def test_foreign_metadata_is_refused(value: object) -> None:
    with pytest.raises(StoreError, match="unit/x"):
        map_array(json.dumps(value).encode(), None, "unit/x")


@given(st.lists(st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"])), min_size=1, max_size=20))
def test_ids_come_back(ids: list[str]) -> None:
    assert decode_ids(encode_ids(ids)) == ids


def test_an_id_that_padding_would_eat_is_refused() -> None:
    with pytest.raises(DataError, match="zero character"):
        encode_ids(["a", "b\0"])
