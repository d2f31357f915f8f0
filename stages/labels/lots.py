"""Which samples a fused set speaks of, in the lots that become its units, and where each parent holds them.

Costs nothing where parents are packed as the samples are; else both sides' ids are read and matched in bounded
memory. What is kept is 8 bytes a sample and parent.

Shapes: N samples, P parents.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from schemas.canonical import digest_bytes
from schemas.errors import LabelsMissing, StoreError
from schemas.labels import Ids
from stages.labels.alignment import Samples, find, first_ids
from stages.labels.matching import ABSENT, OTHER, SHOWN
from stages.labels.reader import LabelSet

Rows = NDArray[np.int64]


@dataclass(frozen=True)
class Lot:
    """The samples of one unit."""

    of: Samples
    """Where their ids stand."""
    shard: int
    """The shard there."""
    name: str
    digest: str
    kept: Rows | None
    """Which rows of the shard; None for all."""
    rows: Rows
    """(P, N): position of each sample in each parent, or `ABSENT`."""

    def sample_ids(self) -> list[str]:
        ids = [str(item) for item in self.of.sample_ids(self.shard)]
        return ids if self.kept is None else [ids[row] for row in self.kept.tolist()]

    def content_ids(self) -> NDArray[np.uint8]:
        found = np.ascontiguousarray(self.of.content_ids(self.shard))
        return found if self.kept is None else found[self.kept]


@dataclass(frozen=True)
class _Shard:
    name: str
    digest: str
    rows: int


class _OfSet:
    """The samples that a label set speaks of, as those of a domain."""

    def __init__(self, labels: LabelSet) -> None:
        self.labels = labels
        units = [unit for unit in labels.units if unit.view == 0]
        self.shards = [_Shard(unit.shard, unit.shard_digest, unit.receipt.rows) for unit in units]

    def sample_ids(self, shard: int) -> list[str]:
        return self.labels.sample_ids(shard)

    def content_ids(self, shard: int) -> np.ndarray:
        return self.labels.content_ids(shard)


def lots_of_samples(samples: Samples, parents: Sequence[LabelSet], ids: Ids) -> list[Lot]:
    """One lot a packed shard. Raises LabelsMissing unless all samples have labels of every parent, or of any."""
    rows = _positions(samples, parents)
    lacking = (rows == ABSENT).all(axis=0) if ids == "union" else (rows == ABSENT).any(axis=0)
    if lacking.any():
        first = first_ids(samples, np.flatnonzero(lacking)[:SHOWN].tolist())
        none = "any" if ids == "union" else "each"
        raise LabelsMissing(
            f"{lacking.sum():,} of {len(lacking):,} samples have no label in {none} of the sets to be fused "
            f"({first}). Label them, or fuse the union (`ids: union`) of sets that cover them together"
        )
    return list(_cut(samples, rows, np.ones(rows.shape[1], bool), ""))


def lots_of_parents(parents: Sequence[LabelSet], ids: Ids) -> list[Lot]:
    """The samples of the first parent that count; on a union then those of the second that are new, and so on."""
    lots: list[Lot] = []
    for number, parent in enumerate(parents if ids == "union" else parents[:1]):
        samples = _OfSet(parent)
        rows = _positions(samples, parents)
        keep = (rows[:number] == ABSENT).all(axis=0) if number else np.ones(rows.shape[1], bool)
        if ids == "intersection":
            keep &= (rows != ABSENT).all(axis=0)
        lots += _cut(samples, rows, keep, f"{number}-" if number else "")
    if not lots:
        sizes = " and ".join(f"{parent.rows:,}" for parent in parents)
        raise StoreError(f"the sets have no sample in common ({sizes} samples): fuse their union, or other sets")
    return lots


def _cut(samples: Samples, rows: Rows, keep: NDArray[np.bool_], prefix: str) -> list[Lot]:
    """Some samples in lots, those of a shard together."""
    lots, first = [], 0
    for number, shard in enumerate(samples.shards):
        here = slice(first, first + shard.rows)
        first += shard.rows
        kept = np.flatnonzero(keep[here])
        if not len(kept):
            continue
        if len(kept) == shard.rows:
            lots.append(Lot(samples, number, prefix + shard.name, shard.digest, None, rows[:, here]))
        else:
            part = digest_bytes(shard.digest.encode(), kept.astype("<i8").tobytes())
            lots.append(Lot(samples, number, prefix + shard.name, part, kept, rows[:, here][:, kept]))
    return lots


def _positions(samples: Samples, parents: Sequence[LabelSet]) -> Rows:
    """(P, N): where each parent holds each sample, or `ABSENT`. Raises StoreError counting samples of other content.

    By shard digests where they are equal; else by sample id, and content is compared where both know it.
    """
    wanted = [shard.digest for shard in samples.shards]
    total = sum(shard.rows for shard in samples.shards)
    aligned = [wanted == [unit.shard_digest for unit in parent.units if unit.view == 0] for parent in parents]
    answer = np.tile(np.arange(total, dtype=np.int64), (len(parents), 1))
    if all(aligned) or not total:
        return answer
    for number, parent in enumerate(parents):
        if aligned[number]:
            continue
        found = find(parent, samples)
        if differing := found.counts[OTHER]:
            raise StoreError(
                f"{differing:,} of {total:,} samples have other content than set {parent.fingerprint[:12]} speaks of "
                f"({first_ids(samples, found.first[OTHER])}): fuse sets over the same samples"
            )
        answer[number] = found.rows
    return answer
