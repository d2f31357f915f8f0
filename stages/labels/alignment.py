"""Labels in the order of samples.

By shard digests: one comparison a shard, no bytes of either are read. Only where they differ is every sample looked for
by its id.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from schemas.errors import LabelsMissing, StoreError
from stages.labels.decoded import Decoded
from stages.labels.matching import ABSENT, OTHER, Matches, match

if TYPE_CHECKING:
    from stages.labels.reader import LabelSet

BLOCK_ROWS = 2**20
"""Samples that are looked through at a time."""


class Samples(Protocol):
    """What is needed of `stages.domains.reader.Samples` to know its rows."""

    @property
    def shards(self) -> Sequence[Any]: ...
    def sample_ids(self, shard: int) -> Sequence[str]: ...
    def content_ids(self, shard: int) -> np.ndarray: ...


class AlignedLabels:
    """A label set in the order of some samples that are packed another way than it is."""

    def __init__(self, labels: LabelSet, rows: np.ndarray) -> None:
        """`rows`: position in the set of each sample, int64."""
        self._labels, self._rows = labels, rows
        self.classes = labels.classes
        self.schema = labels.schema
        self.manifest = labels.manifest

    def samples_at(self, positions: np.ndarray) -> np.ndarray:
        """Which sample stands at each position of the set, -1 where none of them does. One pass over all samples."""
        order = np.argsort(positions, kind="stable")
        ordered, found = positions[order], np.full(len(positions), -1, np.int64)
        for begin in range(0, len(self._rows), BLOCK_ROWS):
            rows = self._rows[begin : begin + BLOCK_ROWS]
            places = np.minimum(np.searchsorted(ordered, rows), len(positions) - 1)
            same = ordered[places] == rows
            found[order[places[same]]] = np.flatnonzero(same) + begin
        return found

    def gather(
        self, positions: np.ndarray, view: int | np.ndarray = 0, extras: Collection[str] | None = None
    ) -> dict[str, np.ndarray]:
        """As `LabelSet.gather`, by positions of the samples."""
        return self._labels.gather(self._rows[positions], view, extras)

    def decode(self, stored: Mapping[str, np.ndarray]) -> Decoded:
        """As `LabelSet.decode`."""
        return self._labels.decode(stored)

    def logits(self, positions: np.ndarray, view: int | np.ndarray = 0) -> np.ndarray:
        """As `LabelSet.logits`, by positions of the samples."""
        return self.decode(self.gather(positions, view)).dense()


def align(labels: LabelSet, samples: Samples) -> LabelSet | AlignedLabels:
    """The labels in the order of the samples: the set itself where its units are the samples' shards.

    Else each sample is looked for by its id, and its content compared: one pass over both sides' ids in bounded memory
    (`matching`), and 8 bytes a sample, mapped from a temporary file where they are many. Raises LabelsMissing counting
    samples without a label, StoreError counting those whose content is another. Labels of other samples are passed
    over.
    """
    wanted = [shard.digest for shard in samples.shards]
    if wanted == [unit.shard_digest for unit in labels.units if unit.view == 0]:
        return labels
    total = sum(shard.rows for shard in samples.shards)
    found = find(labels, samples)
    name = labels.fingerprint[:12]
    if missing := found.counts[ABSENT]:
        raise LabelsMissing(
            f"{missing:,} of {total:,} samples have no label in set {name} "
            f"({first_ids(samples, found.first[ABSENT])}). Label them: `crossdistill run SPEC --only labels`, or take "
            "a set that speaks of all of them"
        )
    if differing := found.counts[OTHER]:
        raise StoreError(
            f"{differing:,} of {total:,} samples have other content than set {name} speaks of "
            f"({first_ids(samples, found.first[OTHER])}): they were changed since, or are read or prepared in another "
            "way. Set the task's and the domain's settings alike, or label them again"
        )
    return AlignedLabels(labels, found.rows)


def find(labels: LabelSet, samples: Samples) -> Matches:
    """Where a set holds each of some samples, by their ids; content is compared where both sides know it."""
    units, shards = range(len(labels.offsets) - 1), range(len(samples.shards))
    theirs = ((as_bytes(labels.sample_ids(unit)), labels.content_ids(unit)) for unit in units)
    ours = ((as_bytes(samples.sample_ids(shard)), samples.content_ids(shard)) for shard in shards)
    return match(theirs, ours, int(labels.offsets[-1]), sum(shard.rows for shard in samples.shards))


def positions_of(labels: LabelSet, ids: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(positions (N,) in a set of samples by their ids (N,), mask of those that it does not hold)."""
    held = ((as_bytes(labels.sample_ids(unit)), None) for unit in range(len(labels.offsets) - 1))
    rows = match(held, [(ids, None)], int(labels.offsets[-1]), len(ids)).rows
    return rows, rows == ABSENT


def as_bytes(ids: Sequence[str]) -> np.ndarray:
    """Ids (N,) as bytes of one width."""
    return np.array([str(item).encode() for item in ids], dtype=np.bytes_)


def first_ids(samples: Samples, rows: Sequence[int]) -> str:
    """The ids of some samples, for people."""
    offsets = np.cumsum([0, *(shard.rows for shard in samples.shards)])
    shards = (np.searchsorted(offsets, rows, side="right") - 1).tolist()
    ids = [str(samples.sample_ids(shard)[row - offsets[shard]]) for shard, row in zip(shards, rows, strict=True)]
    return "first: " + ", ".join(ascii(item)[1:-1] for item in ids)
