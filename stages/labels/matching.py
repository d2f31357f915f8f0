"""Rows of one side looked for among those of another by their ids, in bounded memory whatever the number of rows.

Both sides are dealt by a hash of the id into buckets, which lie in temporary files (TMPDIR) once there are more rows
than `IN_MEMORY`; buckets are matched one by one. A bucket keeps the order of its rows, so what it found is merged back
into the order of the side that asks, block by block. On disk meanwhile: 32 bytes and the id for each row of both sides.

Shapes: n rows of a chunk, N rows that are looked for.
"""

from __future__ import annotations

import math
import secrets
import tempfile
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from schemas.errors import PlaceError

IN_MEMORY = 2**19
"""Rows of both sides together that are matched without files."""
BUCKET_ROWS = 2**17
"""Rows of both sides in a bucket, about."""
BLOCK_ROWS = 2**17
"""Rows that are dealt, or merged back, at a time."""
SHOWN = 5
ABSENT, OTHER = -1, -2
"""Stand where a row is not held, or held with other content."""

Chunk = tuple[NDArray[np.bytes_], NDArray[np.uint8] | None]
"""Ids (n,) of any width, and content ids (n, 16); zeros, or None for all of them: not known."""
_Records = NDArray[np.void]
_FOUND = np.dtype([("at", "<i8"), ("row", "<i8")])


@dataclass
class Matches:
    """Where each row that was looked for is held."""

    rows: NDArray[np.int64]
    """(N,) the first row of the other side that has its id, `ABSENT` or `OTHER`; a mapped file where N is large."""
    counts: dict[int, int] = field(default_factory=lambda: {ABSENT: 0, OTHER: 0})
    first: dict[int, list[int]] = field(default_factory=lambda: {ABSENT: [], OTHER: []})
    """The first rows of either kind, at most `SHOWN`."""


def match(held: Iterable[Chunk], wanted: Iterable[Chunk], held_rows: int, wanted_rows: int) -> Matches:
    """Each row of `wanted` by its id among those of `held`; content is compared where both know it.

    Raises PlaceError if there is no room for the temporary files.
    """
    total = held_rows + wanted_rows
    if total <= IN_MEMORY:
        return _match(held, wanted, wanted_rows, 1, None)
    with tempfile.TemporaryDirectory(prefix="crossdistill-match-") as folder:
        try:
            return _match(held, wanted, wanted_rows, math.ceil(total / BUCKET_ROWS), Path(folder))
        except OSError as error:
            raise PlaceError(
                f"{total:,} rows are matched by id in files in {tempfile.gettempdir()}, which cannot be written "
                f"({error.strerror}): make room, or name another folder by TMPDIR"
            ) from None


def _match(
    held: Iterable[Chunk], wanted: Iterable[Chunk], wanted_rows: int, buckets: int, folder: Path | None
) -> Matches:
    key = secrets.randbits(64)  # nobody can choose ids that all fall into one bucket
    sides = [_Side(side, buckets, key, folder and folder / name) for name, side in (("held", held), ("wanted", wanted))]
    found: list[_Found] = []
    for bucket in range(buckets):
        theirs, ours = (side.bucket(bucket) for side in sides)
        path = None if folder is None else folder / f"found-{bucket}"
        found.append(_Found(ours["at"], _looked_up(theirs, ours), wanted_rows, path))
    answer = Matches(np.empty(wanted_rows if folder is None else 0, np.int64))
    with tempfile.TemporaryFile(dir=folder) as file:
        for number, begin in enumerate(range(0, wanted_rows, BLOCK_ROWS)):
            block = np.empty(min(BLOCK_ROWS, wanted_rows - begin), np.int64)
            for one in found:
                part = one.block(number)
                block[part["at"] - begin] = part["row"]
            for kind, first in answer.first.items():
                places = np.flatnonzero(block == kind)
                answer.counts[kind] += len(places)
                first += (places[: SHOWN - len(first)] + begin).tolist()
            if folder is None:
                answer.rows[begin : begin + len(block)] = block
            else:
                block.tofile(file)
        if folder is not None and wanted_rows:
            answer.rows = np.memmap(file, np.int64, "r", 0, (wanted_rows,))
    return answer


class _Side:
    """The rows of one side in buckets by the hash of their ids, each in the order that they came in."""

    def __init__(self, chunks: Iterable[Chunk], buckets: int, key: int, folder: Path | None) -> None:
        self._folder = folder
        self._kept: list[list[_Records]] = [[] for _ in range(buckets)]
        self._segments: list[list[tuple[np.dtype[np.void], int]]] = [[] for _ in range(buckets)]
        if folder is not None:
            folder.mkdir()
        for records in _gathered(_records(chunks, key)):
            bucket_n = (records["hash"] % np.uint64(buckets)).astype(np.uint32)
            order = np.argsort(bucket_n, kind="stable")
            ends = np.searchsorted(bucket_n[order], np.arange(buckets), side="right").tolist()
            dealt = records[order]
            for bucket, (begin, end) in enumerate(zip([0, *ends[:-1]], ends, strict=True)):
                if begin < end:
                    self._put(bucket, dealt[begin:end])

    def _put(self, bucket: int, records: _Records) -> None:
        if self._folder is None:
            self._kept[bucket].append(records)
            return
        self._segments[bucket].append((records.dtype, len(records)))
        with (self._folder / str(bucket)).open("ab") as file:
            records.tofile(file)

    def bucket(self, bucket: int) -> _Records:
        """The rows of one bucket; its file is gone then."""
        if self._folder is None or not self._segments[bucket]:
            return np.concatenate(self._kept[bucket] or [np.empty(0, _dtype(1))])
        path = self._folder / str(bucket)
        with path.open("rb") as file:
            parts = [np.fromfile(file, dtype, rows) for dtype, rows in self._segments[bucket]]
        path.unlink()
        return np.concatenate(parts)


class _Found:
    """What the rows of one bucket are, in rising order of the rows that were looked for."""

    def __init__(self, at: NDArray[np.int64], row: NDArray[np.int64], wanted_rows: int, path: Path | None) -> None:
        found = np.empty(len(at), _FOUND)
        found["at"], found["row"] = at, row
        edges = np.arange(0, wanted_rows + BLOCK_ROWS, BLOCK_ROWS)
        self._ends, self._path = np.searchsorted(at, edges), path
        self._found = found if path is None else None
        if path is not None:
            found.tofile(path)

    def block(self, number: int) -> _Records:
        """Those within one block of the answer."""
        begin, end = self._ends[number : number + 2].tolist()
        if self._found is not None:
            return self._found[begin:end]
        assert self._path is not None
        return np.fromfile(self._path, _FOUND, end - begin, offset=begin * _FOUND.itemsize)


def _dtype(width: int) -> np.dtype[np.void]:
    return np.dtype([("hash", "<u8"), ("at", "<i8"), ("content", "u1", (16,)), ("id", f"S{width}")])


def _records(chunks: Iterable[Chunk], key: int) -> Iterator[_Records]:
    """Chunks as records: hash of the id, number of the row, content, id."""
    at = 0
    for ids, content in chunks:
        records = np.zeros(len(ids), _dtype(max(8, -(-ids.dtype.itemsize // 8) * 8)))
        records["id"], records["at"] = ids, np.arange(at, at + len(ids))
        records["hash"] = hashes(records["id"], key)
        if content is not None:
            records["content"] = content
        at += len(ids)
        yield records


def _gathered(parts: Iterable[_Records]) -> Iterator[_Records]:
    """Records in lots of at least `BLOCK_ROWS`, so that buckets are not written row by row."""
    waiting: list[_Records] = []
    for part in parts:
        waiting.append(part)
        if sum(map(len, waiting)) >= BLOCK_ROWS:
            yield np.concatenate(waiting)
            waiting = []
    if waiting:
        yield np.concatenate(waiting)


def hashes(ids: NDArray[np.bytes_], key: int) -> NDArray[np.uint64]:
    """uint64 (n,): equal for equal ids, whatever they are padded to; their width is a multiple of 8 bytes.

    A sum of 64-bit words times random odd numbers (multilinear hashing), mixed: zero words count nothing.
    """
    words = np.ascontiguousarray(ids).view("<u8").reshape(len(ids), ids.dtype.itemsize // 8)
    factors = np.random.Philox(key=key).random_raw(words.shape[1]) | np.uint64(1)
    found: NDArray[np.uint64] = (words * factors).sum(axis=1, dtype=np.uint64)
    found ^= found >> np.uint64(32)
    found *= np.uint64(0x9E3779B97F4A7C15)
    found ^= found >> np.uint64(29)
    return found


def _looked_up(held: _Records, wanted: _Records) -> NDArray[np.int64]:
    """(rows of `wanted`,) the number of the first row of `held` with its id, `ABSENT` or `OTHER`."""
    order = np.argsort(held["hash"], kind="stable")
    hashes_, ours = held["hash"][order], np.ascontiguousarray(wanted["hash"])
    place = np.searchsorted(hashes_, ours)
    found = np.full(len(wanted), ABSENT, np.int64)
    open_ = np.arange(len(wanted))
    while True:  # more than once only where two ids share a hash
        open_ = open_[place[open_] < len(hashes_)]
        open_ = open_[hashes_[place[open_]] == ours[open_]]
        if not len(open_):
            return found
        rows = order[place[open_]]
        same = held["id"][rows] == wanted["id"][open_]
        one, two = held["content"][rows], wanted["content"][open_]
        other = (one != two).any(axis=1) & one.any(axis=1) & two.any(axis=1)
        found[open_[same]] = np.where(other, OTHER, held["at"][rows])[same]
        open_ = open_[~same]
        place[open_] += 1
