"""The index of a set: its receipts in one Parquet file, in the order of the domain's shards.

About 150 bytes a unit, compressed. Any Parquet library opens it.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from schemas.errors import StoreError
from schemas.labels import Receipt
from stages.labels.store import IndexedUnit

_OBJECT = pa.struct([("name", pa.string()), ("size", pa.int64()), ("checksum", pa.string())])
SCHEMA = pa.schema(
    [
        pa.field("key", pa.string(), nullable=False),
        pa.field("shard", pa.string(), nullable=False),
        pa.field("shard_digest", pa.string(), nullable=False),
        pa.field("view", pa.int32(), nullable=False),
        pa.field("rows", pa.int64(), nullable=False),
        pa.field("ids_digest", pa.string(), nullable=False),
        pa.field("attempt", pa.string(), nullable=False),
        pa.field("objects", pa.list_(_OBJECT), nullable=False),
        pa.field("statistics", pa.string(), nullable=False),
    ]
)


def to_parquet(units: Sequence[IndexedUnit]) -> bytes:
    """The index file of a set."""
    rows: list[dict[str, Any]] = []
    for unit in units:
        receipt = unit.receipt.dump()
        del receipt["version"]
        statistics = json.dumps(receipt.pop("statistics"), sort_keys=True)
        place = {"shard": unit.shard, "shard_digest": unit.shard_digest, "view": unit.view}
        rows.append({**receipt, **place, "statistics": statistics})
    sink = pa.BufferOutputStream()
    pq.write_table(
        pa.Table.from_pylist(rows, schema=SCHEMA),
        sink,
        compression="zstd",
        use_dictionary=False,
        write_statistics=False,
        write_page_checksum=True,
    )
    data: bytes = sink.getvalue().to_pybytes()
    return data


def from_parquet(data: bytes, where: str) -> list[IndexedUnit]:
    """The units of an index file. Raises StoreError naming `where` if it is no such file."""
    try:
        # In this thread: a pool that starts as the process ends makes Arrow abort it.
        table = pq.ParquetFile(pa.BufferReader(data), pre_buffer=False).read(use_threads=False)
        if not table.schema.equals(SCHEMA):
            raise StoreError(f"{where} is no index of a label set: its columns are {table.schema.names}")
        return [_unit(row, where) for row in table.to_pylist()]
    except (pa.ArrowException, ValueError) as error:
        raise StoreError(f"{where} cannot be read as an index of a label set: {error}") from None


def _unit(row: dict[str, Any], where: str) -> IndexedUnit:
    shard, shard_digest, view = (row.pop(name) for name in ("shard", "shard_digest", "view"))
    value = {**row, "version": Receipt.VERSION, "statistics": json.loads(row["statistics"])}
    return IndexedUnit(shard, shard_digest, view, Receipt.parse(value, f"{where}, unit {row['key']}"))
