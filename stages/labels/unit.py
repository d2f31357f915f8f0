"""One unit on disk: a Zarr v3 group that any Zarr library opens, and that this module also maps.

    zarr.json                        the group; its attributes name the unit and its encoding
    logits/...                       the encoding's arrays, (N, ...) each
    content_id/...                   uint8 (N, 16)
    sample_id/...                    uint8 (N, W): UTF-8, padded with zero bytes to the longest
    fidelity_position/...            int32 (M,): rows whose exact outputs are kept
    fidelity_logits/...              float32 (M, C): those outputs
 N rows, M of them exact. Each array is one uncompressed Zarr shard of whole-row chunks, empty chunks written,
so its rows lie contiguous in one file; where, says the shard's index. An array of no rows has no file.
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import zarr

from schemas.artifacts import ObjectInfo
from schemas.canonical import digest_bytes
from schemas.errors import DataError, StoreError
from stages.places import Place, checksum_file

CHUNK_BYTES = 256 * 1024
"""Size that an inner chunk stays below, a single row excepted."""
CONTENT_ID, SAMPLE_ID = "content_id", "sample_id"
FIDELITY_POSITION, FIDELITY_ITEM, FIDELITY_LOGITS = "fidelity_position", "fidelity_item", "fidelity_logits"
_LITTLE = {"name": "bytes", "configuration": {"endian": "little"}}
_BYTES = {"name": "bytes"}
_TYPES = frozenset({"int8", "uint8", "uint16", "int32", "uint32", "float16", "float32"})
_NO_CHUNK = 2**64 - 1


def data_file(name: str, dimensions: int) -> str:
    """File of an array's rows, below the unit's attempt."""
    return "/".join([name, "c", *["0"] * dimensions])


def encode_ids(sample_ids: Sequence[str]) -> np.ndarray:
    """Sample ids as uint8 (N, W). Raises DataError for an id with a zero character, which padding would eat."""
    for sample_id in sample_ids:
        if "\0" in sample_id:
            raise DataError(f"the sample id {sample_id!r} has a zero character: give it another id")
    padded = np.array([sample_id.encode() for sample_id in sample_ids], dtype=np.bytes_)
    width = max(padded.dtype.itemsize, 1)
    return padded.astype(f"S{width}").view(np.uint8).reshape(len(padded), width)


def decode_ids(stored: np.ndarray) -> list[str]:
    """Sample ids of a unit."""
    padded = np.ascontiguousarray(stored).view(f"S{stored.shape[1]}").ravel()
    return [value.decode() for value in padded.tolist()]


def ids_digest(sample_ids: Sequence[str], content_ids: np.ndarray) -> str:
    """blake2b-128 over the sample ids and content ids of a unit, in order."""
    return digest_bytes(np.ascontiguousarray(content_ids).tobytes(), *(item.encode() for item in sample_ids))


def write_unit(
    place: Place, folder: str, arrays: Mapping[str, np.ndarray], attributes: dict[str, Any]
) -> tuple[ObjectInfo, ...]:
    """Write arrays as one Zarr group below an attempt's own folder; its files, by name, once they are on disk."""
    with place.writing(folder) as path:
        group = zarr.create_group(store=path, zarr_format=3, attributes=attributes)
        for name, data in arrays.items():
            _write_array(group, name, data)
        return tuple(settled(path))


def _write_array(group: zarr.Group, name: str, data: np.ndarray) -> None:
    rows, shape = len(data), data.shape[1:]
    row_bytes = data.dtype.itemsize * math.prod(shape)
    chunks = max(1, math.ceil(rows * row_bytes / CHUNK_BYTES))
    chunk_rows = max(1, math.ceil(rows / chunks))
    array = group.create_array(
        name,
        shape=data.shape,
        dtype=data.dtype,
        chunks=(chunk_rows, *shape),
        shards=(max(1, math.ceil(rows / chunk_rows)) * chunk_rows, *shape),
        compressors=None,
        filters=None,
        fill_value=0,
        config={"write_empty_chunks": True},
    )
    if rows:
        array[...] = data


def settled(path: Path) -> list[ObjectInfo]:
    """Every file below a folder with its size and checksum, flushed to disk with the folders that name it."""
    found = []
    for entry in sorted([path, *path.rglob("*")]):
        handle = os.open(entry, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)
        if entry.is_file():
            size, checksum = checksum_file(entry)
            found.append(ObjectInfo(name=entry.relative_to(path).as_posix(), size=size, checksum=checksum))
    return sorted(found, key=lambda item: item.name)


def array_shape(metadata: bytes, where: str) -> tuple[tuple[int, ...], np.dtype[Any], int]:
    """(shape, type, rows of a chunk) of an array from its `zarr.json`.

    Raises StoreError naming `where` if rows would not lie contiguous in one file.
    """
    try:
        value = json.loads(metadata)
        shape = tuple(int(size) for size in value["shape"])
        dtype = np.dtype(value["data_type"] if value["data_type"] in _TYPES else None)
        shard = value["chunk_grid"]["configuration"]["chunk_shape"]
        (codec,) = value["codecs"]
        inner = codec["configuration"]
        chunk = inner["chunk_shape"]
        fit = (
            value["zarr_format"] == 3
            and value["node_type"] == "array"
            and value["data_type"] in _TYPES
            and min(shape) >= 0
            and codec["name"] == "sharding_indexed"
            and inner["codecs"] in ([_LITTLE], [_BYTES])
            and inner["index_codecs"] == [_LITTLE, {"name": "crc32c"}]
            and inner.get("index_location", "end") == "end"
            and list(shape[1:]) == shard[1:] == chunk[1:]
            and shard[0] == max(1, math.ceil(shape[0] / chunk[0])) * chunk[0]
        )
    except (ValueError, TypeError, LookupError, AttributeError, ArithmeticError) as error:
        raise StoreError(f"{where} is no array of this store: {error!r}. Label again with --force labels") from None
    if not fit:
        raise StoreError(f"{where} is not one uncompressed shard of whole-row chunks, as this store keeps it")
    return shape, dtype, int(chunk[0])


def map_array(metadata: bytes, path: Path | None, where: str) -> np.ndarray:
    """The rows of an array, mapped read-only; `path` is the local file of its one shard, None if it has no
    rows.

    Two small reads. Raises StoreError naming `where` if a chunk is missing, moved or of another size.
    """
    shape, dtype, chunk_rows = array_shape(metadata, where)
    if not shape[0]:
        return np.empty(shape, dtype)
    if path is None:
        raise StoreError(f"{where} has {shape[0]} rows and no file: label again with --force labels")
    chunks = math.ceil(shape[0] / chunk_rows)
    chunk_bytes = chunk_rows * dtype.itemsize * math.prod(shape[1:])
    size, index_bytes = path.stat().st_size, 16 * chunks + 4
    if size != chunks * chunk_bytes + index_bytes:
        raise StoreError(
            f"{where} has {size} bytes, {chunks * chunk_bytes + index_bytes} are needed for {shape[0]} rows: "
            "label again with --force labels"
        )
    with path.open("rb") as file:
        file.seek(-index_bytes, os.SEEK_END)
        index = np.frombuffer(file.read(16 * chunks), "<u8").reshape(chunks, 2)
    expected = chunk_bytes * np.arange(chunks, dtype=np.uint64)
    if not (np.array_equal(index[:, 0], expected) and (index[:, 1] == chunk_bytes).all()):
        lost = int((index[:, 0] == _NO_CHUNK).sum())
        raise StoreError(
            f"{where} has {lost} chunks left out and others moved, so its rows are not in order: "
            "label again with --force labels"
        )
    return np.asarray(np.memmap(path, dtype, "r", 0, shape))
