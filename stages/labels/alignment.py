"""Whether labels and samples speak of the same rows in the same order.
 By shard digests: one comparison per shard, no bytes of either are read. Only where they differ are ids
compared, to say what is missing.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from schemas.errors import LabelsMissing, StoreError

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


def check_aligned(labels: LabelSet, samples: Samples) -> None:
    """Raise unless the units are those of the samples' shards, in order.

    LabelsMissing counts samples without a label; StoreError counts those whose content is another, or says
    that the same samples are packed another way.
    """
    wanted = [shard.digest for shard in samples.shards]
    held = [unit.shard_digest for unit in labels.units]
    if wanted == held:
        return
    name, label = labels.fingerprint[:12], "Label them: `crossdistill run SPEC --only labels`"
    known = {sample_id: content for number in _others(held, wanted) for sample_id, content in _held_ids(labels, number)}
    missing: list[str] = []
    differing: list[str] = []
    for number in _others(wanted, held):
        contents = samples.content_ids(number)
        for row, sample_id in enumerate(samples.sample_ids(number)):
            content = known.get(str(sample_id))
            if content is None:
                missing.append(str(sample_id))
            elif content != contents[row].tobytes():
                differing.append(str(sample_id))
    total = sum(shard.rows for shard in samples.shards)
    if missing:
        raise LabelsMissing(
            f"{len(missing):,} of {total:,} samples have no label in set {name} ({_first(missing)}). {label}"
        )
    if differing:
        raise StoreError(
            f"{len(differing):,} of {total:,} samples have other content than set {name} speaks of "
            f"({_first(differing)}). {label}"
        )
    raise StoreError(f"set {name} holds {labels.rows:,} labels in another order than these {total:,} samples. {label}")


def _others(items: Sequence[str], others: Sequence[str]) -> list[int]:
    """Numbers of the items that are not among the others."""
    known = set(others)
    return [number for number, item in enumerate(items) if item not in known]


def _held_ids(labels: LabelSet, unit: int) -> Iterator[tuple[str, bytes]]:
    contents = labels.content_ids(unit)
    for row, sample_id in enumerate(labels.sample_ids(unit)):
        yield sample_id, contents[row].tobytes()


def _first(ids: list[str]) -> str:
    return "first: " + ", ".join(ascii(item)[1:-1] for item in ids[:SHOWN])
