"""Tables as uncompressed Arrow IPC files with one record batch: one byte string for one content, and mappable."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa

from stages.tasks.base import Column


def encode(columns: dict[str, pa.Array]) -> bytes:
    """The columns as an IPC file."""
    batch = pa.RecordBatch.from_arrays(list(columns.values()), names=list(columns))
    sink = pa.BufferOutputStream()
    with pa.ipc.new_file(sink, batch.schema) as writer:
        writer.write_batch(batch)
    return bytes(sink.getvalue())


def decode(data: bytes) -> pa.RecordBatch:
    """The record batch of an IPC file in memory; no copy."""
    return pa.ipc.open_file(pa.BufferReader(data)).get_batch(0)


def open_mapped(path: Path) -> pa.RecordBatch:
    """The record batch of an IPC file on disk, mapped: pages are read when they are touched."""
    return pa.ipc.open_file(pa.memory_map(str(path))).get_batch(0)


def pack_column(values: list[bytes], column: Column) -> pa.Array:
    """Bytes of each row as an Arrow column: FixedSizeBinary for `raw`, LargeBinary (no 2 GB limit) otherwise."""
    if column.storage == "raw":
        return pa.FixedSizeBinaryArray.from_buffers(
            pa.binary(row_bytes(column)), len(values), [None, pa.py_buffer(b"".join(values))]
        )
    return pa.array(values, pa.large_binary())


def row_bytes(column: Column) -> int:
    """Bytes of one value of a `raw` column."""
    return int(np.prod(column.shape or (), dtype=np.int64)) * np.dtype(column.dtype).itemsize


def raw_values(array: pa.FixedSizeBinaryArray, column: Column) -> np.ndarray:
    """A `raw` column as an array of (rows, *shape), read-only, without a copy."""
    width = row_bytes(column)
    flat = np.frombuffer(array.buffers()[1], np.uint8, count=len(array) * width, offset=array.offset * width)
    return flat.view(np.dtype(column.dtype)).reshape(len(array), *(column.shape or ()))


def numbers(array: pa.Array) -> np.ndarray:
    """A column of numbers without nulls as a read-only array, without a copy."""
    values: np.ndarray = array.to_numpy(zero_copy_only=True)
    return values


def fixed_bytes(array: pa.FixedSizeBinaryArray) -> np.ndarray:
    """A FixedSizeBinary column as uint8 (rows, width), read-only, without a copy."""
    width = array.type.byte_width
    return raw_values(array, Column("raw", "uint8", (width,)))


def chunks(array: pa.Array) -> list[bytes]:
    """The values of a column as bytes, for a digest: without padding, and bounds where lengths differ."""
    buffers = array.buffers()
    if pa.types.is_fixed_size_binary(array.type) or pa.types.is_integer(array.type):
        width = array.type.byte_width
        return [memoryview(buffers[1])[array.offset * width : (array.offset + len(array)) * width].tobytes()]
    kind = np.int64 if pa.types.is_large_binary(array.type) else np.int32
    bounds = np.frombuffer(buffers[1], kind)[array.offset : array.offset + len(array) + 1].astype(np.int64)
    return [(bounds - bounds[0]).tobytes(), memoryview(buffers[2])[bounds[0] : bounds[-1]].tobytes()]
