"""Packing: a slice of the source becomes one shard of samples, in a worker.

What comes out depends on the slice alone, so that shards made here, in a worker or again after a kill have the
same bytes. What needs the whole domain (occurrences of duplicates, class numbers) is settled in `ingest`.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pyarrow as pa

from schemas.artifacts import ObjectInfo
from schemas.canonical import DIGEST_BYTES, digest_bytes
from stages.domains import ipc
from stages.domains.sources.base import SAMPLE_ID, RowSlice
from stages.places import Place, checksum
from stages.tasks.base import BadRow, Column, Sample, Task, is_empty
from stages.truth import UNKNOWN, Truth, as_truth

SAMPLES_FILE = "samples-{:05d}.arrow"
TRUTH_FILE = "truth-{:05d}.arrow"


@dataclass(frozen=True)
class Job:
    """What every shard of a domain has in common; goes to the workers."""

    task: Task
    prepare: Any
    """The task's settings for bringing samples into form, validated."""
    folder: Place
    """Folder of the attempt."""
    kept: Place
    """Folder of packed slices, which outlive the attempt."""
    known: frozenset[int]
    """Slices that stand there."""
    classes: tuple[str, ...] | None
    """Given classes; none: they are collected from the labels."""
    columns: Mapping[str, Column]
    """How the domain's values are stored, as its first good row is."""

    def read(self, packed: PackedShard) -> pa.RecordBatch:
        """The samples of a shard, wherever they are by now."""
        folder = self.kept / packed.where if packed.where else self.folder
        return ipc.decode(folder.read(SAMPLES_FILE.format(packed.number)))


@dataclass(frozen=True)
class BadEntry:
    """A row that cannot be used, and its place."""

    place: str
    problem: str


@dataclass
class PackedShard:
    """What became of one slice: its samples are written, its truth is not."""

    number: int
    rows: int = 0
    bad: list[BadEntry] = field(default_factory=list)
    samples: ObjectInfo | None = None
    digest: str = ""
    content_ids: np.ndarray = field(default_factory=lambda: np.empty((0, DIGEST_BYTES), np.uint8))
    """uint8 (rows, 16)."""
    id_hashes: np.ndarray | None = None
    """uint8 (rows, 16): hashes of given sample ids, to find doubles; none where ids are made here."""
    classes: tuple[str, ...] = ()
    """Names that `truth` counts in."""
    truth: Truth = field(default_factory=lambda: np.empty(0, np.int32))
    """int32 (rows,): numbers in `classes`, or UNKNOWN; of a task whose truth is bytes, these."""
    sums: dict[str, float] = field(default_factory=dict)
    """Sum by role over all values (raw) or over lengths in bytes (encoded)."""
    where: str = ""
    """Folder of its files below that of packed slices; empty: they are the attempt's own."""


class _Truth:
    """Labels of a slice as numbers: of the given classes, or of names in order of appearance; or as bytes."""

    def __init__(self, task: Task, classes: tuple[str, ...] | None) -> None:
        self._task, self._given = task, classes
        self._numbers: dict[str, int] = {}

    def of(self, label: Any) -> int | bytes:
        """Raises BadRow for a label out of the classes."""
        if is_empty(label):
            return UNKNOWN
        if self._task.coded:
            return self._task.code_truth(label)
        if self._given is not None:
            return self._task.pack_truth(label, self._given)
        return self._numbers.setdefault(self._task.class_name(label), len(self._numbers))

    @property
    def classes(self) -> tuple[str, ...]:
        return tuple(self._numbers) if self._given is None else self._given


def pack_row(task: Task, prepare: Any, row: Mapping[str, Any]) -> Sample:
    """The sample of one row. Raises BadRow."""
    for role in task.roles:
        if is_empty(row.get(role)) and (role in row or role not in task.optional):
            raise BadRow(f"'{role}' has no value")
    if SAMPLE_ID in row and is_empty(row[SAMPLE_ID]):
        raise BadRow(f"'{SAMPLE_ID}' has no value")
    return task.pack(row, prepare)


def pack_slice(job: Job, number: int, split: int | None, piece: RowSlice) -> PackedShard:
    """Read, check and pack a slice, and write its samples file. Memory: the slice, packed, about three times."""
    values: dict[str, list[bytes]] = {role: [] for role in job.columns}
    content: list[bytes] = []
    given_ids: list[str] | None = None
    labels: list[int | bytes] = []
    truth = _Truth(job.task, job.classes)
    packed = PackedShard(number)
    for place, row in piece.read():
        try:
            if isinstance(row, BadRow):
                raise row
            sample = pack_row(job.task, job.prepare, row)
            _check_columns(sample.columns, job.columns)
            label = truth.of(job.task.label(row))
        except BadRow as error:
            packed.bad.append(BadEntry(place, str(error)))
            continue
        for role, value in sample.values.items():
            values[role].append(value)
        content.append(hashlib.blake2b(sample.content, digest_size=DIGEST_BYTES).digest())
        labels.append(label)
        if SAMPLE_ID in row:
            given_ids = [] if given_ids is None else given_ids
            given_ids.append(str(row[SAMPLE_ID]))
    packed.rows = len(content)
    packed.truth, packed.classes = as_truth(labels, job.task.coded), truth.classes
    if content:
        packed.content_ids = np.frombuffer(b"".join(content), np.uint8).reshape(-1, DIGEST_BYTES)
        if given_ids is not None:
            packed.id_hashes = hashed(given_ids)
        columns = {role: ipc.pack_column(values[role], column) for role, column in job.columns.items()}
        packed.sums = {role: _sum(columns[role], column) for role, column in job.columns.items()}
        ids = given_ids or made_ids(packed.content_ids, occurrences(packed.content_ids))
        _write(job, packed, _head(ids, packed.content_ids, split) | columns)
    return packed


def renumber(job: Job, packed: PackedShard, occurrence: np.ndarray) -> PackedShard:
    """Write a shard again, among the attempt's own, with ids that count the occurrences in earlier shards too."""
    batch = job.read(packed)
    columns = dict(zip(batch.schema.names, batch.columns, strict=True))
    columns[SAMPLE_ID] = pa.array(made_ids(packed.content_ids, occurrence), pa.string())
    _write(job, packed, columns)
    packed.where = ""
    return packed


def hashed(sample_ids: Iterable[str]) -> np.ndarray:
    """Hashes of given ids, uint8 (rows, 16)."""
    found = (hashlib.blake2b(name.encode(), digest_size=DIGEST_BYTES).digest() for name in sample_ids)
    return np.frombuffer(b"".join(found), np.uint8).reshape(-1, DIGEST_BYTES)


def made_ids(content_ids: np.ndarray, occurrence: np.ndarray) -> list[str]:
    """`CONTENT_ID-OCCURRENCE` of each row, for sources without ids."""
    return [f"{row.tobytes().hex()}-{count}" for row, count in zip(content_ids, occurrence, strict=True)]


def occurrences(keys: np.ndarray) -> np.ndarray:
    """How many earlier rows have the same key, for keys uint8 (rows, 16): int64 (rows,). Sorts once."""
    halves = np.ascontiguousarray(keys).view(np.uint64).reshape(-1, 2)
    order = np.lexsort((halves[:, 1], halves[:, 0]))
    ordered = halves[order]
    starts = np.flatnonzero(np.r_[True, (ordered[1:] != ordered[:-1]).any(axis=1)])[: len(order)]
    sizes = np.diff(np.r_[starts, len(order)])
    count = np.empty(len(order), np.int64)
    count[order] = np.arange(len(order)) - np.repeat(starts, sizes)
    return count


def _head(ids: list[str], content_ids: np.ndarray, split: int | None) -> dict[str, pa.Array]:
    head = {
        SAMPLE_ID: pa.array(ids, pa.string()),
        "content_id": ipc.pack_column([row.tobytes() for row in content_ids], Column("raw", "uint8", (DIGEST_BYTES,))),
    }
    return head if split is None else head | {"split": pa.array(np.full(len(ids), split, np.int8))}


def _write(job: Job, packed: PackedShard, columns: dict[str, pa.Array]) -> None:
    name = SAMPLES_FILE.format(packed.number)
    data = ipc.encode(columns)
    job.folder.put(name, data)
    packed.samples = ObjectInfo(name=name, size=len(data), checksum=checksum(data))
    packed.digest = _content_digest(columns)


def _content_digest(columns: dict[str, pa.Array]) -> str:
    """Digest of the values, whatever the form of the file."""
    return digest_bytes(*(chunk for name, array in columns.items() for chunk in (name.encode(), *ipc.chunks(array))))


def _sum(array: pa.Array, column: Column) -> float:
    if column.storage == "raw":
        values = ipc.raw_values(array, column)
        return float(values.sum(dtype=np.float64)) if values.dtype.kind in "biuf" else 0.0
    return float(array.nbytes)


def _check_columns(found: Mapping[str, Column], expected: Mapping[str, Column]) -> None:
    for role in sorted(found.keys() | expected.keys()):
        if found.get(role) != expected.get(role):
            is_, first = _shown(found.get(role)), _shown(expected.get(role))
            raise BadRow(f"'{role}' is {is_}, in the domain's first row it is {first}")


def _shown(column: Column | None) -> str:
    if column is None:
        return "missing"
    return column.storage if column.shape is None else f"{column.dtype} of shape {column.shape}"
