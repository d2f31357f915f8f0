"""A shuffled epoch of labels as stored, at memory speed: a window is read in the order of the disk, and its rows are
handed out in the order of the shuffle, while a thread reads the next window.

The order is that of `stages.training.stream.shuffled`, a pure function of (seed, epoch): no reader keeps a state, any
number of ranks splits one stream, and an epoch goes on from one integer. Units in object storage are on their way to
the node's cache before their window is read. Memory: two windows, whatever the size of the set. On one core, 140 bytes
a row: 60 ns a row go into the order, 30 into reading, the rest into handing out (`make bench-store` measures it).
"""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from stages.cache import Ahead
from stages.labels.layout import Layout, Offsets
from stages.training.stream import Window, shard_order, windows

if TYPE_CHECKING:
    from stages.labels.reader import LabelSet

WINDOW_BYTES = 16 * 2**20
"""Labels that are shuffled among one another, unless asked otherwise."""
POSITION = "position"
"""The array of a batch that says which samples it speaks of."""

Batch = dict[str, np.ndarray]


@dataclass(frozen=True)
class Epoch:
    """The steps of one rank over one epoch of a label set. Raises ValueError for numbers that make no sense."""

    labels: LabelSet
    batch_size: int
    """Rows of a step, over all ranks."""
    seed: int = 0
    epoch: int = 0
    rank: int = 0
    world_size: int = 1
    view: int = 0
    window_bytes: int = WINDOW_BYTES

    def __post_init__(self) -> None:
        if self.batch_size < 1 or self.window_bytes < 1:
            raise ValueError(f"a batch of {self.batch_size} rows or a window of {self.window_bytes} bytes is none")
        if not 0 <= self.rank < self.world_size:
            raise ValueError(f"ranks run from 0 to {self.world_size - 1}, not {self.rank}")
        if not 0 <= self.view < self.labels.manifest.views.count:
            raise ValueError(f"views run from 0 to {self.labels.manifest.views.count - 1}, not {self.view}")

    def __len__(self) -> int:
        """Steps of the epoch, as many for every rank."""
        return -(-self.labels.rows // self.batch_size)

    def steps(self, start: int = 0, every: int = 1) -> Iterator[Batch]:
        """The batches of steps start, start + every, …: arrays as stored (B, …), and `position` (B,) int64.

        The arrays are the caller's own. B is this rank's part of the step: the parts of a step differ by one row at
        most, and in an epoch every sample comes once; so the last step's parts are smaller, or empty.
        """
        if not 0 <= start <= len(self) or every < 1:
            raise ValueError(f"an epoch of {len(self)} steps cannot be read from step {start} on by {every}")
        step, pending = start, None
        for window in self._windows(self._part(start)[0] if start < len(self) else self.labels.rows):
            while step < len(self):
                begin, end = self._part(step)
                if begin < window.end or begin == end:
                    taken = window.take(max(begin, window.first), min(end, window.end))
                    pending = taken if pending is None else window.join([pending, taken])
                if end > window.end:
                    break
                if pending is not None:
                    yield pending
                step, pending = step + every, None

    def _part(self, step: int) -> tuple[int, int]:
        """This rank's rows of a step, counted through the epoch."""
        first = step * self.batch_size
        rows = min(self.batch_size, self.labels.rows - first)
        return first + rows * self.rank // self.world_size, first + rows * (self.rank + 1) // self.world_size

    def _windows(self, first: int) -> Iterator[_Read]:
        """The windows that hold row `first` of the epoch and those after it, each read while the last is used."""
        labels = self.labels
        rows = max(1, int(self.window_bytes // max(labels.bytes_per_row, 1)))
        asked = windows(labels.offsets, rows, self.seed, self.epoch, first)
        kept: list[Batch] = [{}, {}]
        with Ahead(self._units(first // rows * rows), labels.coming) as coming, ThreadPoolExecutor(1) as ahead:
            making: Future[_Read] | None = None
            for number, window in enumerate(asked):
                made, making = making, ahead.submit(self._read, window, kept[number % 2], coming)
                if made is not None:
                    yield made.result()
            if making is not None:
                yield making.result()

    def _units(self, first: int) -> list[int]:
        """The units that hold row `first` of the epoch and those after it, in the order of the shuffle."""
        offsets = self.labels.offsets
        shards = shard_order(offsets, self.seed, self.epoch)
        rows = np.diff(offsets)[shards]
        wanted = shards[(np.cumsum(rows) > first) & (rows > 0)]
        found: list[int] = (wanted + self.view * (len(offsets) - 1)).tolist()
        return found

    def _read(self, window: Window, buffers: Batch, coming: Ahead) -> _Read:
        """A window's labels, in the order of the disk."""
        layout, parts = self.labels.layout, []
        for begin, end in window.pieces:
            unit, first = self.labels.unit_at(begin, self.view)
            coming.reach(unit)
            arrays, offsets = self.labels.mapped(unit)
            parts.append(layout.cut(arrays, offsets, begin - first, end - first))
        arrays = layout.join(parts, buffers if layout.plain else None)
        positions = np.concatenate([np.arange(begin, end) for begin, end in window.pieces])
        return _Read(layout, arrays, layout.offsets(arrays), positions, window.order, window.first)


@dataclass(frozen=True)
class _Read:
    """A window in memory; rows are counted through the epoch."""

    layout: Layout
    arrays: Batch
    offsets: Offsets
    positions: np.ndarray
    order: np.ndarray
    first: int

    @property
    def end(self) -> int:
        return self.first + len(self.order)

    def take(self, begin: int, end: int) -> Batch:
        """Rows begin to end of the epoch, copied."""
        rows = self.order[begin - self.first : end - self.first]
        return {**self.layout.take(self.arrays, self.offsets, rows), POSITION: self.positions.take(rows)}

    def join(self, parts: list[Batch]) -> Batch:
        """Rows of this window behind those of the one before it."""
        return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
