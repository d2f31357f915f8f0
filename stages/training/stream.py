"""The order of rows in training: a stateless two-level shuffle, and the endless steps that run over it.

Everything here is a pure function of its arguments: no state is kept, so that a training resumes in the
middle of an epoch from one integer, and any number of readers sees one stream. Random bits come from
numpy's Philox, whose raw stream is fixed by its algorithm; golden values in the tests pin the order.

An epoch costs one sort within windows (0.1 s per million rows) and 8 bytes a row.

Shapes: N rows of the stream, B rows of a step.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from schemas.canonical import digest
from schemas.errors import DataError

Positions = NDArray[np.int64]


def rng(seed: int, *counters: int | str) -> np.random.Generator:
    """Random numbers that belong to (seed, counters) alone: a step, an epoch, a purpose. About 20 µs."""
    return np.random.Generator(np.random.Philox(key=_key(seed, *counters)))


def _key(seed: int, *counters: int | str) -> int:
    return int(digest([seed, *counters]), 16)


def shuffled(
    positions: Positions, offsets: Positions, bytes_per_row: float, window_bytes: int, seed: int, epoch: int
) -> Positions:
    """`positions` (N,) in the order of one epoch: shards permuted, cut into windows, rows permuted within.

    `positions` are sorted rows of a domain whose shards begin at `offsets` (shards + 1). Reading the answer
    in order touches at most `window_bytes` of samples at a time, whatever the size of the domain: a window
    holds floor(window_bytes / bytes_per_row) rows, at least one.
    """
    bits = np.random.Philox(key=_key(seed, "shuffle", epoch))
    bounds = np.searchsorted(positions, offsets)
    shards = _permuted(bits, offsets)
    parts = [positions[bounds[shard] : bounds[shard + 1]] for shard in shards]
    ordered = np.concatenate(parts) if parts else positions
    rows = max(1, int(window_bytes // bytes_per_row))
    windows = np.arange(len(ordered)) // rows
    return ordered[np.lexsort((bits.random_raw(len(ordered)), windows))]


def shard_order(offsets: Positions, seed: int, epoch: int) -> Positions:
    """The shards in the order in which `shuffled` comes to their rows."""
    return _permuted(np.random.Philox(key=_key(seed, "shuffle", epoch)), offsets)


def _permuted(bits: np.random.Philox, offsets: Positions) -> Positions:
    return np.argsort(bits.random_raw(len(offsets) - 1), kind="stable")


@dataclass(frozen=True)
class Window:
    """The rows that are shuffled among one another."""

    first: int
    """Rows of the epoch before it."""
    pieces: tuple[tuple[int, int], ...]
    """Its rows as ranges (begin, end) of positions, each within one shard."""
    order: Positions
    """(rows,) which of its rows, counted through the pieces, comes when."""


def windows(offsets: Positions, rows: int, seed: int, epoch: int, first: int = 0) -> Iterator[Window]:
    """`shuffled` over all rows, window by window of `rows` rows, from the one that holds row `first` of the epoch on.

    Costs one sort of a window where `shuffled` sorts the epoch, and no memory beyond the window.
    """
    bits = np.random.Philox(key=_key(seed, "shuffle", epoch))
    shards = _permuted(bits, offsets)
    lengths = np.diff(offsets)[shards]
    ends = np.cumsum(lengths)
    total = int(offsets[-1])
    skipped = min(first, total) // rows * rows
    bits.random_raw(skipped, output=False)
    for begin in range(skipped, total, rows):
        end = min(begin + rows, total)
        pieces = []
        for number in range(np.searchsorted(ends, begin, side="right"), np.searchsorted(ends, end, side="left") + 1):
            shard, before = int(offsets[shards[number]]), int(ends[number] - lengths[number])
            if lengths[number]:
                pieces.append((shard + max(begin - before, 0), shard + min(end, int(ends[number])) - before))
        yield Window(begin, tuple(pieces), np.argsort(bits.random_raw(end - begin), kind="stable"))


@dataclass(frozen=True)
class Rows:
    """The rows of one step."""

    epoch: int
    """Epoch of the step, from 0."""
    positions: Positions
    """(B,) rows of the domain."""
    weights: NDArray[np.float32]
    """(B,) 1, or 0 for the rows that fill up the last batch of an epoch."""


@dataclass(frozen=True)
class RowStream:
    """Endless steps of B rows over some rows of a domain: every row once per epoch with weight 1."""

    positions: Positions
    """(N,) sorted rows of the domain."""
    offsets: Positions
    """(shards + 1) first row of each shard, and the number of rows."""
    bytes_per_row: float
    """Mean size of a packed sample."""
    batch_size: int
    window_bytes: int
    seed: int
    _kept: dict[int, Positions] = field(default_factory=dict, init=False, repr=False, compare=False)

    @cached_property
    def steps_per_epoch(self) -> int:
        """Steps in which every row comes once; 1 where there are no rows."""
        return max(1, -(-len(self.positions) // self.batch_size))

    def at(self, step: int) -> Rows:
        """Rows of a step, from 0. The order of the step's epoch is kept until another epoch is asked for.

        Raises DataError if there are no rows.
        """
        if not len(self.positions):
            raise DataError("the train split has no rows to learn from: give it a larger share in `split`")
        epoch, index = divmod(step, self.steps_per_epoch)
        order = self._order(epoch)
        rows = order[index * self.batch_size : (index + 1) * self.batch_size]
        weights = np.zeros(self.batch_size, dtype=np.float32)
        weights[: len(rows)] = 1.0
        fill = np.resize(order, self.batch_size - len(rows))
        return Rows(epoch, np.concatenate([rows, fill]), weights)

    def _order(self, epoch: int) -> Positions:
        if epoch not in self._kept:
            self._kept.clear()
            self._kept[epoch] = shuffled(
                self.positions, self.offsets, self.bytes_per_row, self.window_bytes, self.seed, epoch
            )
        return self._kept[epoch]
