"""Label sets as tables: Arrow, pandas and Ray Data, one row a sample, as stored.

Columns: `sample_id`, `content_id` (16 bytes), then the fields of the label schema: a list where a sample has several
numbers, lists of lists where it has several labels or labels have several entries. Costs one copy of a unit.
"""

from __future__ import annotations

from functools import lru_cache, partial
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa

from schemas.artifacts import LabelSetRef
from schemas.spec import Storage
from stages.labels.encodings import ITEMS, KEPT
from stages.places import Place

if TYPE_CHECKING:
    import ray.data

    from stages.labels.reader import LabelSet


def unit_table(labels: LabelSet, unit: int) -> pa.Table:
    """The samples of one unit."""
    arrays, offsets = labels.mapped(unit)
    content = np.ascontiguousarray(labels.content_ids(unit))
    columns: dict[str, pa.Array] = {
        "sample_id": pa.array(labels.sample_ids(unit), pa.string()),
        "content_id": pa.FixedSizeBinaryArray.from_buffers(pa.binary(16), len(content), [None, pa.py_buffer(content)]),
    }
    cells = labels.layout.cells
    for name, field in labels.layout.fields.items():
        if name in (ITEMS, KEPT):
            continue  # lists know their lengths
        column = _rows(arrays[name])
        if field.per == "entry":
            column = _lists(column, offsets.entries)
            if cells > 1:
                column = pa.FixedSizeListArray.from_arrays(column, cells)
        if field.per != "sample":
            column = column if offsets.labels is None else _lists(column, offsets.labels)
        columns[name] = column
    return pa.table(columns)


def to_arrow(labels: LabelSet, view: int = 0) -> pa.Table:
    """All samples of one view, in order."""
    first, _ = labels.unit_at(0, view)
    count = len(labels.offsets) - 1
    return pa.concat_tables([unit_table(labels, unit) for unit in range(first, first + count)])


def to_ray(labels: LabelSet, view: int = 0) -> ray.data.Dataset:
    """A Ray dataset of one view that reads a unit a task, wherever the task runs. No label is read here."""
    import ray.data

    first, _ = labels.unit_at(0, view)
    units = range(first, first + len(labels.offsets) - 1)
    place = labels.store.place
    ref = LabelSetRef(uri=place.uri, fingerprint=labels.fingerprint, digest=labels.digest)
    asked = ray.data.from_items([{"unit": unit} for unit in units], override_num_blocks=len(units))
    read: Any = partial(_read, ref=ref, storage=place.storage)
    return asked.map_batches(read, batch_size=1, batch_format="numpy")


def _read(asked: dict[str, np.ndarray], ref: LabelSetRef, storage: Storage) -> pa.Table:
    return unit_table(_opened(ref, storage), int(asked["unit"][0]))


@lru_cache(maxsize=4)
def _opened(ref: LabelSetRef, storage: Storage) -> LabelSet:
    from stages.labels.reader import LabelSet

    return LabelSet.open_ref(Place(ref.uri, storage), ref)


def _rows(values: np.ndarray) -> pa.Array:
    """An array of as many rows; rows of several numbers become lists of a fixed size."""
    column = pa.array(np.ascontiguousarray(values).reshape(-1))
    for size in reversed(values.shape[1:]):
        column = pa.FixedSizeListArray.from_arrays(column, size)
    return column


def _lists(column: pa.Array, starts: np.ndarray | None) -> pa.Array:
    return pa.LargeListArray.from_arrays(pa.array(starts, pa.int64()), column)
