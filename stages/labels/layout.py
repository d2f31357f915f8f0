"""How the arrays of labels hang together: samples, their labels, and the entries of these.

Most labels have one row a sample in every array. Tokens and boxes lie one after another, counted by `items`; entries
of encodings that keep more of one label than of another lie one after another, counted by `kept`. Offsets are worked
out from the counts once per unit (8 bytes a label).

Shapes: B samples, N labels of them, E entries of these.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from schemas.errors import StoreError
from schemas.labels import LabelSchema, LabelShape
from stages.labels.encodings import ITEMS, KEPT

Arrays = Mapping[str, np.ndarray]
Index = NDArray[np.int64]


@dataclass(frozen=True)
class Offsets:
    """Where the labels of each sample and the entries of each label begin; none where every row has as many."""

    labels: Index | None
    """(B + 1)."""
    entries: Index | None
    """(N + 1)."""


class Layout:
    """The arrays of a label schema."""

    def __init__(self, schema: LabelSchema) -> None:
        self.fields = {field.name: field for field in schema.fields}
        self.names = tuple(self.fields)
        self.ragged_labels = schema.shape.ragged
        self.ragged_entries = KEPT in self.fields
        self.plain = not (self.ragged_labels or self.ragged_entries)
        """Whether every array has one row a sample."""
        self.cells = math.prod(schema.shape.grid)
        """Labels of a sample that has a fixed number of them."""
        self._grid = schema.shape.grid

    def offsets(self, arrays: Arrays) -> Offsets:
        """Where labels and entries begin in some samples' arrays."""
        return Offsets(
            starts(arrays[ITEMS]) if self.ragged_labels else None,
            starts(arrays[KEPT].ravel()) if self.ragged_entries else None,
        )

    def check(self, arrays: Arrays, samples: int, where: str) -> None:
        """Raise StoreError if an array has another type, shape or length than the samples' number and counts ask.

        Some arrays may be left out, but for those that count others.
        """
        for name, found in arrays.items():
            field = self.fields[name]
            if (found.shape[1:], found.dtype.name) != (field.shape, field.dtype):
                raise StoreError(
                    f"{where}/{name} holds {found.dtype.name} of shape {found.shape[1:]}, "
                    f"not {field.dtype} {field.shape}"
                )
        labels = int(arrays[ITEMS].sum(dtype=np.int64)) if self.ragged_labels else samples
        entries = int(arrays[KEPT].sum(dtype=np.int64)) if self.ragged_entries else 0
        for name, found in arrays.items():
            rows = {"sample": samples, "label": labels, "entry": entries}[self.fields[name].per]
            if len(found) != rows:
                raise StoreError(f"{where}/{name} has {len(found)} rows, {rows} are needed")

    def take(self, arrays: Arrays, offsets: Offsets, samples: Index) -> dict[str, np.ndarray]:
        """The arrays (all or some of them) of some samples (B,), in their order, copied."""
        labels = samples if offsets.labels is None else ranges(offsets.labels, samples)
        entries = labels
        if offsets.entries is not None:
            cells = (labels[:, None] * self.cells + np.arange(self.cells)).ravel() if self._grid else labels
            entries = ranges(offsets.entries, cells)
        rows = {"sample": samples, "label": labels, "entry": entries}
        return {name: values.take(rows[self.fields[name].per], axis=0) for name, values in arrays.items()}

    def cut(self, arrays: Arrays, offsets: Offsets, begin: int, end: int) -> dict[str, np.ndarray]:
        """The arrays of the samples from `begin` to `end`, as they lie."""
        labels = (begin, end) if offsets.labels is None else (int(offsets.labels[begin]), int(offsets.labels[end]))
        entries = labels
        if offsets.entries is not None:
            entries = (int(offsets.entries[labels[0] * self.cells]), int(offsets.entries[labels[1] * self.cells]))
        rows = {"sample": slice(begin, end), "label": slice(*labels), "entry": slice(*entries)}
        return {name: arrays[name][rows[field.per]] for name, field in self.fields.items()}

    def flat(self, arrays: Arrays) -> dict[str, np.ndarray]:
        """The arrays with one row a label where they are of labels (a grid's cells one after another)."""
        if not self._grid:
            return dict(arrays)
        cut = len(self._grid)
        return {
            name: values.reshape(-1, *values.shape[1 + cut :]) if self.fields[name].per == "label" else values
            for name, values in arrays.items()
        }

    def join(self, parts: Iterable[Arrays], into: dict[str, np.ndarray] | None = None) -> dict[str, np.ndarray]:
        """The arrays of several lots of samples as one. At least one part.

        `into` keeps the memory of the answer for the next call: new memory costs more than what is copied into it.
        """
        items = list(parts)
        if into is None:
            return {name: np.concatenate([part[name] for part in items]) for name in items[0]}
        answer = {}
        for name in self.names:
            rows = sum(len(part[name]) for part in items)
            if name not in into or len(into[name]) < rows:
                into[name] = np.empty((rows, *items[0][name].shape[1:]), items[0][name].dtype)
            answer[name] = np.concatenate([part[name] for part in items], out=into[name][:rows])
        return answer


def labels_of(arrays: Arrays, shape: LabelShape, samples: int) -> Index:
    """How many labels each of some samples has (B,)."""
    return arrays[ITEMS].astype(np.int64) if shape.ragged else np.full(samples, math.prod(shape.grid))


def starts(counts: np.ndarray) -> Index:
    """Where each of some lists that lie one after another begins, and at the end where the last one ends."""
    return np.concatenate([[0], np.cumsum(counts, dtype=np.int64)])


def ranges(offsets: Index, rows: Index) -> Index:
    """Places of all members of the lists `rows`, in order: offsets[r], offsets[r] + 1, … of each."""
    begin = offsets[rows]
    counts = offsets[rows + 1] - begin
    ends = np.cumsum(counts)
    return np.repeat(begin - ends + counts, counts) + np.arange(int(ends[-1]) if len(ends) else 0)
