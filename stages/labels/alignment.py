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

if TYPE_CHECKING:
    from stages.labels.reader import LabelSet

SHOWN = 5
"""Ids that an error shows."""


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
        found = np.full(len(positions), -1, np.int64)
        places = np.minimum(np.searchsorted(positions, self._rows, sorter=order), len(positions) - 1)
        same = positions[order][places] == self._rows
        found[order[places[same]]] = np.flatnonzero(same)
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

    Else each sample is looked for by its id, and its content compared (one pass over both sides' ids; about 50 bytes
    a row of memory). Raises LabelsMissing counting samples without a label, StoreError counting those whose content
    is another. Labels of other samples are passed over.
    """
    wanted = [shard.digest for shard in samples.shards]
    if wanted == [unit.shard_digest for unit in labels.units if unit.view == 0]:
        return labels
    total = sum(shard.rows for shard in samples.shards)
    if total == 0:
        return AlignedLabels(labels, np.zeros(0, np.int64))
    shards = range(len(wanted))
    ids = as_bytes([str(item) for shard in shards for item in samples.sample_ids(shard)])
    rows, missing = positions_of(labels, ids)
    name, label = labels.fingerprint[:12], "Label them: `crossdistill run SPEC --only labels`"
    if missing.any():
        raise LabelsMissing(
            f"{missing.sum():,} of {total:,} samples have no label in set {name} ({_first(ids[missing])}). {label}"
        )
    theirs = np.concatenate([labels.content_ids(unit) for unit in range(len(labels.offsets) - 1)])[rows]
    ours = np.concatenate([samples.content_ids(shard) for shard in shards])
    differing = (theirs != ours).any(axis=1) & theirs.any(axis=1)  # zeros: whoever imported them did not know
    if differing.any():
        raise StoreError(
            f"{differing.sum():,} of {total:,} samples have other content than set {name} speaks of "
            f"({_first(ids[differing])}). {label}"
        )
    return AlignedLabels(labels, rows.astype(np.int64))


def positions_of(labels: LabelSet, ids: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(positions (N,) in a set of samples by their ids (N,), mask of those that it does not hold)."""
    units = range(len(labels.offsets) - 1)
    held = as_bytes([item for unit in units for item in labels.sample_ids(unit)])
    width = max(ids.dtype.itemsize, held.dtype.itemsize, 1)
    ids, held = ids.astype(f"S{width}"), held.astype(f"S{width}")
    order = np.argsort(held, kind="stable")
    places = np.minimum(np.searchsorted(held, ids, sorter=order), max(len(held) - 1, 0))
    if not len(held):
        return places, np.ones(len(ids), bool)
    rows = order[places]
    return rows, held[rows] != ids


def as_bytes(ids: Sequence[str]) -> np.ndarray:
    """Ids (N,) as bytes of one width."""
    return np.array([item.encode() for item in ids], dtype=np.bytes_)


def _first(ids: np.ndarray) -> str:
    return "first: " + ", ".join(ascii(item.decode())[1:-1] for item in ids[:SHOWN].tolist())
