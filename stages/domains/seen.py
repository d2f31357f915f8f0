"""What a model has learned from, or was chosen by: so that it is judged on none of that, by whoever holds its labels.

A sorted list of 64-bit hashes, the first 8 bytes of each content id, each once: 8 bytes a row, in a `.npy` file that
travels with the teacher and with its labels. An exact list rather than a filter: one that errs once in a million is 3.6
bytes a row, and would refuse every tenth set for nothing at 100,000 test rows; here that chance is N * M / 2**64 for N
seen and M test rows (5e-9 at a million of the first). It holds no truth, and tells of a row only whoever has it.

Shapes: N rows.
"""

from __future__ import annotations

import io
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from schemas.artifacts import HeldOut, ObjectInfo, SeenInfo
from schemas.errors import DataError, StoreError
from stages.context import Context
from stages.domains.reader import TEST, Samples, read_split
from stages.places import checksum

SEEN_FILE = "seen.npy"
SHOWN = 5


@dataclass(frozen=True)
class Seen:
    """The rows that somebody learned from, as far as it is known."""

    keys: NDArray[np.uint64]
    """Sorted, each once."""
    whole: bool
    """Whether that is all of them."""

    def to_bytes(self) -> bytes:
        """As a file."""
        sink = io.BytesIO()
        np.save(sink, self.keys.astype("<u8"), allow_pickle=False)
        return sink.getvalue()

    def info(self, name: str) -> SeenInfo:
        """What refers to the file."""
        data = self.to_bytes()
        item = ObjectInfo(name=name, size=len(data), checksum=checksum(data))
        return SeenInfo(object=item, rows=len(self.keys), whole=self.whole)

    @classmethod
    def load(cls, data: bytes | None, info: SeenInfo, where: str) -> Seen:
        """From a file. Raises StoreError naming it if it is missing or not the one that is referred to."""
        if data is None or (len(data), checksum(data)) != (info.object.size, info.object.checksum):
            what = "missing" if data is None else "damaged"
            raise StoreError(f"{where} is {what}: it says which rows a teacher was trained on")
        try:
            keys = np.load(io.BytesIO(data), allow_pickle=False)
        except (ValueError, EOFError):
            keys = np.empty(0)
        if keys.dtype != np.uint64 or keys.shape != (info.rows,) or (keys[1:] <= keys[:-1]).any():
            raise StoreError(f"{where} is no list of rows that a teacher was trained on: its numbers do not rise")
        return cls(keys, info.whole)


def seen_keys(content_ids: NDArray[np.uint8]) -> NDArray[np.uint64]:
    """The first 8 bytes of content ids (N, 16), as they stand in hexadecimal, as a number each (N,)."""
    return np.ascontiguousarray(content_ids[:, :8]).view(">u8").ravel().astype(np.uint64)


def together(parts: Iterable[Seen | None]) -> Seen | None:
    """What several have learned from; None where nobody says anything."""
    items = list(parts)
    known = [item for item in items if item is not None]
    if not known:
        return None
    keys = np.unique(np.concatenate([item.keys for item in known]))
    return Seen(keys, len(known) == len(items) and all(item.whole for item in known))


def seen_rows(samples: Samples, positions: NDArray[np.int64]) -> Seen:
    """Some rows of a domain (N,)."""
    return Seen(np.unique(seen_keys(samples.content_ids_at(positions))), whole=True)


def check_unseen(seen: Seen, samples: Samples, split: NDArray[np.int8], who: str, domain: str = "") -> None:
    """Raise DataError, counting them, if test rows of a domain are among those that somebody learned from."""
    test = np.flatnonzero(split == TEST)
    if not len(test) or not len(seen.keys):
        return
    keys = seen_keys(samples.content_ids_at(test))
    places = np.minimum(np.searchsorted(seen.keys, keys), len(seen.keys) - 1)
    hit = test[seen.keys[places] == keys]
    if not len(hit):
        return
    shard = np.searchsorted(samples.offsets, hit[:SHOWN], side="right") - 1
    first = [samples.sample_ids(int(s))[int(row - samples.offsets[s])] for s, row in zip(shard, hit, strict=False)]
    of = f" of '{domain}'" if domain else ""
    raise DataError(
        f"{len(hit):,} of the {len(test):,} test rows{of} are among the {len(seen.keys):,} that {who} was trained on "
        f"(first: {', '.join(ascii(name)[1:-1] for name in first)}): figures on them would say nothing. Split the "
        "domain so that they are no test rows, or take a teacher that has not seen them"
    )


def check_held_out(context: Context, seen: Seen | None, held_out: Iterable[HeldOut], who: str) -> None:
    """`check_unseen` for some domains, as far as it is known what somebody learned from."""
    if seen is None:
        return
    for held in held_out:
        samples = Samples.open(context.place(held.samples), held.samples)
        check_unseen(seen, samples, read_split(context.place(held.split), held.split), who, held.name)
