"""A team's own outputs as a full label set: arrays, Parquet or safetensors, with ids and class names.

Files are mapped or read by row groups: memory is that of a unit, whatever the size of the files. Two passes: the first
checks ids and digests what is there, the second writes units, so a fault leaves nothing behind. Nothing is unpickled.

Shapes: N samples, C classes.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, Protocol

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from safetensors import SafetensorError, safe_open

from schemas.artifacts import Provenance
from schemas.canonical import digest, digest_bytes, identity
from schemas.encodings import Encoding, LowRank
from schemas.errors import DataError
from schemas.labels import Receipt, SetManifest, UnitPlan, Views
from stages.artifacts import package_version
from stages.labels.bases import basis_rows, make_basis
from stages.labels.builder import How, Said, UnitBuilder
from stages.labels.encodings import label_schema
from stages.labels.export import METADATA
from stages.labels.sets import check_rank, planned, write_set
from stages.labels.store import About, Store, unit_key
from stages.places import Place
from stages.progress import Told

VERSION = 1
UNIT_ROWS = 16_384
"""Samples of a unit."""
SMALLEST = 1e-30
"""Probabilities below this are taken for it: a logit is finite."""
Are = Literal["logits", "probabilities"]


class Rows(Protocol):
    """Outputs and ids in a file, by row."""

    classes: list[str] | None
    """Names of the columns, where the file has them."""

    def __len__(self) -> int: ...
    def read(self, begin: int, end: int) -> np.ndarray:
        """Numbers of some rows (B, C)."""

    def ids(self) -> list[str] | None:
        """Sample ids, where the file has them."""

    def content_ids(self) -> np.ndarray | None:
        """Content ids uint8 (N, 16), where the file has them; zeros where it does not know one."""


def import_set(
    path: Path,
    place: Place,
    encoding: Encoding,
    classes: Sequence[str] | None = None,
    ids: Sequence[str] | None = None,
    are: Are = "logits",
    told: Told | None = None,
) -> SetManifest:
    """The outputs of a file as a set in the store at `place` (made if there is none); the same file, the same set.

    Ids come from the file, or are given. Content ids that the file does not hold are zero, which says that they are not
    known: such samples are aligned by sample id alone. Raises DataError naming file and row of what cannot be used,
    before anything is written.
    """
    rows = _open(path)
    names = list(classes) if classes is not None else rows.classes
    if names is None:
        raise DataError(f"{path} does not name its classes: give them with --classes (a file with one name a line)")
    sample_ids = list(ids) if ids is not None else rows.ids()
    if sample_ids is None:
        raise DataError(f"{path} holds no ids of its {len(rows):,} samples: give them with --ids (one a line)")
    _check_names(path, names, sample_ids, len(rows))
    known = rows.content_ids()
    content_ids = np.zeros((len(rows), 16), np.uint8) if known is None else known
    shards = _shards(path, rows, tuple(names), sample_ids, content_ids, are)

    how = {"stage": "import", "version": VERSION}
    said_by = digest({"import": [shard.digest for shard in shards], "classes": names, "are": are})
    basis = None
    if isinstance(encoding, LowRank) and shards:
        check_rank(encoding, len(names))
        step = max(1, len(rows) // basis_rows(encoding.rank))
        key = digest({"who": said_by, "rank": encoding.rank})

        def some() -> np.ndarray:
            return np.concatenate([_logits(rows, path, are, row, row + 1) for row in range(0, len(rows), step)])

        basis = make_basis(Store.create(place).place, key, encoding.rank, some)
    schema = label_schema(tuple(names), encoding, basis=basis)
    store = Store.find(place) or Store.create(place)
    units = tuple(
        UnitPlan(
            key=unit_key(said_by, how, schema, Views(), 0, shard.digest),
            shard=shard.name,
            shard_digest=shard.digest,
            view=0,
            rows=shard.end - shard.begin,
        )
        for shard in shards
    )
    asked = {**how, "outputs": said_by, "encoding": identity(encoding)}
    provenance = Provenance(package=package_version(), inputs=asked, code={})
    plan = planned(digest(asked), schema, units, provenance, Views())
    making = How(schema, "float32", 4096, plan.fidelity_threshold, plan.fidelity_labels, basis)
    where = {unit.key: shard for unit, shard in zip(units, shards, strict=True)}

    def write(unit: UnitPlan) -> Receipt:
        shard = where[unit.key]
        lot = slice(shard.begin, shard.end)
        builder = UnitBuilder(making, unit, sample_ids[lot], content_ids[lot])
        for part in builder.batches():
            builder.add(part, Said(_logits(rows, path, are, shard.begin + part.start, shard.begin + part.stop)))
        return builder.write(store)

    return write_set(store, plan, write, About(said_by, digest(sorted(sample_ids))), told)


@dataclass(frozen=True)
class _Shard:
    name: str
    digest: str
    begin: int
    end: int


def _shards(
    path: Path, rows: Rows, classes: tuple[str, ...], ids: list[str], content_ids: np.ndarray, are: Are
) -> list[_Shard]:
    """The rows in lots, every number looked at."""
    found = []
    for number, begin in enumerate(range(0, len(rows), UNIT_ROWS)):
        end = min(begin + UNIT_ROWS, len(rows))
        logits = _logits(rows, path, are, begin, end)
        if logits.shape[1:] != (len(classes),):
            raise DataError(f"{path} has {logits.shape[1]} numbers a row, and there are {len(classes)} class names")
        names = ("\0".join(item).encode() for item in (ids[begin:end], classes))
        content = digest_bytes(logits.tobytes(), *names, content_ids[begin:end].tobytes())
        found.append(_Shard(f"import-{number:05d}", content, begin, end))
    return found


def _logits(rows: Rows, path: Path, are: Are, begin: int, end: int) -> np.ndarray:
    """Logits (B, C), float32. Raises DataError for numbers that can be none."""
    values = np.asarray(rows.read(begin, end))
    if values.ndim != 2 or values.dtype.kind not in "fiu":
        raise DataError(f"{path} holds {values.dtype} numbers of shape {values.shape}, not one row of numbers a sample")
    with np.errstate(over="ignore"):
        values = np.ascontiguousarray(values, np.float32)
    _refuse(path, begin, ~np.isfinite(values).all(axis=1), "a number that is not finite in float32")
    if are == "logits":
        return values
    _refuse(path, begin, np.any(values < 0, axis=1), "a negative probability")
    _refuse(
        path, begin, np.abs(values.sum(axis=1, keepdims=True) - 1)[:, 0] > 1e-2, "probabilities that do not add up to 1"
    )
    return np.asarray(np.log(np.maximum(values, SMALLEST)), np.float32)


def _refuse(path: Path, begin: int, wrong: np.ndarray, what: str) -> None:
    if wrong.any():
        raise DataError(f"{path}: row {begin + int(wrong.argmax()):,} (counted from 0) has {what}")


def _check_names(path: Path, classes: list[str], ids: list[str], rows: int) -> None:
    for what, names in (("class", classes), ("sample id", ids)):
        if len(set(names)) < len(names):
            seen: set[str] = set()
            twice = next(name for name in names if name in seen or seen.add(name))  # type: ignore[func-returns-value]
            raise DataError(f"{path}: the {what} {twice!r} stands there twice: each has one name of its own")
    if len(ids) != rows:
        raise DataError(f"{path} has {rows:,} rows, and there are {len(ids):,} ids: give one a row")
    if rows == 0 or not classes:
        raise DataError(f"{path} has {rows} rows of {len(classes)} classes: there is nothing to import")


# --- files ---------------------------------------------------------------------------------------------------


def _open(path: Path) -> Rows:
    readers: dict[str, Callable[[Path], Rows]] = {
        ".npy": _open_npy,
        ".parquet": _Table,
        ".safetensors": _open_safetensors,
    }
    if path.suffix not in readers:
        raise DataError(f"{path} is none of {', '.join(readers)}: save the outputs as one of them")
    try:
        return readers[path.suffix](path)
    except DataError:
        raise
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror or error}") from None
    except (ValueError, pa.ArrowException, SafetensorError, EOFError) as error:
        raise DataError(f"{path} cannot be read: {error}") from None


@dataclass
class _Array:
    values: np.ndarray
    names: list[str] | None = None
    classes: list[str] | None = None

    def __len__(self) -> int:
        return len(self.values)

    def read(self, begin: int, end: int) -> np.ndarray:
        return self.values[begin:end]

    def ids(self) -> list[str] | None:
        return self.names

    def content_ids(self) -> np.ndarray | None:
        return None


def _open_npy(path: Path) -> Rows:
    values = np.load(path, mmap_mode="r", allow_pickle=False)
    if not isinstance(values, np.ndarray) or values.ndim != 2:
        raise DataError(f"{path} holds no table of one row a sample and one column a class")
    return _Array(values)


def _open_safetensors(path: Path) -> Rows:
    """Tensor `logits` (N, C); `ids` (N, W) uint8 where they are there; class names in the metadata, a line each."""
    with safe_open(path, "numpy") as file:
        if "logits" not in file.keys():  # noqa: SIM118 (no mapping)
            raise DataError(f"{path} has no tensor 'logits' (it has {', '.join(file.keys()) or 'none'})")
        values = file.get_tensor("logits")
        ids = file.get_tensor("ids") if "ids" in file.keys() else None  # noqa: SIM118
        classes = (file.metadata() or {}).get("classes")
    if values.ndim != 2:
        raise DataError(f"{path}: 'logits' has shape {values.shape}, not one row a sample and one column a class")
    names = None
    if ids is not None:
        if ids.ndim != 2 or ids.dtype != np.uint8:
            raise DataError(f"{path}: 'ids' are uint8 of one row a sample, padded with zeros, not {ids.dtype}")
        names = [bytes(row).rstrip(b"\0").decode() for row in ids]
    return _Array(values, names, classes.split("\n") if classes else None)


class _Table:
    """A Parquet file: `sample_id`, and lists in `logits` or `probabilities`, or one column a class; `content_id` where
    it is known (16 bytes, or as many in hexadecimal). One row group is in memory."""

    def __init__(self, path: Path) -> None:
        self.path, self.file = path, pq.ParquetFile(path, pre_buffer=False)
        names = self.file.schema_arrow.names
        if "sample_id" not in names:
            raise DataError(f"{path} has no column 'sample_id' (it has {', '.join(names[:8])})")
        lists = [name for name in ("logits", "probabilities") if name in names]
        self.lists = bool(lists)
        self.columns = lists[:1] or [name for name in names if name not in ("sample_id", "content_id")]
        groups = [self.file.metadata.row_group(n).num_rows for n in range(self.file.metadata.num_row_groups)]
        self.starts = np.cumsum([0, *groups])
        self._kept: tuple[int, np.ndarray] = (-1, np.empty(0))
        self.classes = self._told() if lists else self.columns

    def _told(self) -> list[str] | None:
        """Class names in the metadata of a file that `labels export` wrote."""
        told = (self.file.schema_arrow.metadata or {}).get(METADATA)
        head = json.loads(told) if told else {}
        known = head.get("classes") if isinstance(head, dict) else None
        if known is not None and not (isinstance(known, list) and all(isinstance(name, str) for name in known)):
            raise DataError(f"{self.path}: its metadata hold no list of class names: give them with --classes")
        return known

    def __len__(self) -> int:
        return int(self.starts[-1])

    def ids(self) -> list[str] | None:
        column = self.file.read(["sample_id"], use_threads=False)["sample_id"]
        if column.null_count:
            raise DataError(f"{self.path}: column 'sample_id' has {column.null_count} empty cells")
        return [item if isinstance(item, str) else str(item) for item in column.to_pylist()]

    def content_ids(self) -> np.ndarray | None:
        if "content_id" not in self.file.schema_arrow.names:
            return None
        column = self.file.read(["content_id"], use_threads=False)["content_id"].to_pylist()
        found = np.zeros((len(column), 16), np.uint8)
        for row, item in enumerate(column):
            if item is None:
                continue
            value = bytes.fromhex(item) if isinstance(item, str) and re.fullmatch("[0-9a-fA-F]{32}", item) else item
            if not isinstance(value, bytes) or len(value) != 16:
                raise DataError(
                    f"{self.path}: row {row:,} (counted from 0) has {str(item)[:40]!r} in column 'content_id', not 16 "
                    "bytes or 32 hexadecimal digits"
                )
            found[row] = np.frombuffer(value, np.uint8)
        return found

    def read(self, begin: int, end: int) -> np.ndarray:
        first = int(np.searchsorted(self.starts, begin, side="right")) - 1
        last = int(np.searchsorted(self.starts, end, side="left"))
        parts = []
        for group in range(first, last):
            here = int(self.starts[group])
            parts.append(self._group(group)[max(begin - here, 0) : end - here])
        return np.concatenate(parts)

    def _group(self, number: int) -> np.ndarray:
        if self._kept[0] != number:
            table = self.file.read_row_group(number, self.columns, use_threads=False)
            self._kept = (number, self._numbers(table, int(self.starts[number])))
        return self._kept[1]

    def _numbers(self, table: pa.Table, first: int) -> np.ndarray:
        columns = [table[name].combine_chunks() for name in self.columns]
        if any(column.null_count for column in columns):
            raise DataError(f"{self.path} has empty cells among rows {first:,} to {first + len(table):,}")
        if not self.lists:
            return np.stack([np.asarray(column) for column in columns], axis=1)
        (column,) = columns
        if not (pa.types.is_list(column.type) or pa.types.is_large_list(column.type)):
            if not pa.types.is_fixed_size_list(column.type):
                raise DataError(f"{self.path}: column '{self.columns[0]}' holds {column.type}, not lists of numbers")
            return np.asarray(column.flatten()).reshape(len(column), -1)
        lengths = np.asarray(column.value_lengths())
        _refuse(self.path, first, lengths != lengths[:1], f"another number of logits than row {first:,}")
        return np.asarray(column.flatten()).reshape(len(column), -1)
