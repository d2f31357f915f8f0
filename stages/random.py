"""Random numbers that belong to a sample: a counter-based generator whose stream never changes.

Philox4x32-10 (Salmon et al., "Parallel Random Numbers: As Easy as 1, 2, 3", 2011), vectorised over samples in numpy:
about 0.2 µs a number. The counter is the sample's content id, the key a digest of what the numbers are for, so any
number of workers in any order draws the same. The tests hold it to the authors' known answers.

Shapes: N samples, D draws.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from schemas.canonical import digest

_MULTIPLY = (np.uint64(0xD2511F53), np.uint64(0xCD9E8D57))
_WEYL = (0x9E3779B9, 0xBB67AE85)
_LOW = np.uint64(0xFFFFFFFF)
_HALF = np.uint64(32)
_ROUNDS = 10


def philox(counters_N4: NDArray[np.uint32], key: int) -> NDArray[np.uint32]:
    """Four random words (N, 4) for each 128-bit counter (N, 4), under one 64-bit key."""
    c0, c1, c2, c3 = (counters_N4[:, word].astype(np.uint64) for word in range(4))
    k0, k1 = key & 0xFFFFFFFF, key >> 32
    for _ in range(_ROUNDS):
        one, other = _MULTIPLY[0] * c0, _MULTIPLY[1] * c2
        c0, c1, c2, c3 = (
            (other >> _HALF) ^ c1 ^ np.uint64(k0),
            other & _LOW,
            (one >> _HALF) ^ c3 ^ np.uint64(k1),
            one & _LOW,
        )
        k0, k1 = (k0 + _WEYL[0]) & 0xFFFFFFFF, (k1 + _WEYL[1]) & 0xFFFFFFFF
    return np.stack([c0, c1, c2, c3], axis=1).astype(np.uint32)


def uniform(counters_N4: NDArray[np.uint32], draws: int, *purpose: int | str) -> NDArray[np.float64]:
    """Numbers in [0, 1) of 32 bits, (N, D): those of each counter belong to it and to the purpose alone.

    The first D numbers do not depend on how many more are drawn.
    """
    blocks = [philox(counters_N4, int(digest([*purpose, block])[:16], 16)) for block in range(-(-draws // 4))]
    words = np.concatenate(blocks, axis=1)[:, :draws] if blocks else np.empty((len(counters_N4), 0), np.uint32)
    return words.astype(np.float64) / 2.0**32


def counters(content_ids: NDArray[np.uint8], items: NDArray[np.int64] | None = None) -> NDArray[np.uint32]:
    """Counters (N, 4) of content ids (N, 16), each with the number of a label within its sample."""
    words = np.ascontiguousarray(content_ids).view("<u4").astype(np.uint32)
    if items is not None:
        words[:, 3] ^= (items.astype(np.uint64) * np.uint64(_WEYL[0]) & _LOW).astype(np.uint32)
    return words


class Draws:
    """Random numbers of B rows by purpose: what an augmentation is drawn from. Each purpose is drawn once."""

    def __init__(self, make: Callable[[str, int], NDArray[np.float64]]) -> None:
        """`make(purpose, count)` gives numbers in [0, 1), (B, count)."""
        self._make = make
        self._known: dict[str, NDArray[np.float64]] = {}

    def __call__(self, purpose: str, count: int) -> NDArray[np.float64]:
        """The numbers (B, count) of a purpose, which always asks for as many."""
        if purpose not in self._known:
            self._known[purpose] = self._make(purpose, count)
        return self._known[purpose]

    def of(self, rows: NDArray[np.int64]) -> Draws:
        """Those of some of the rows."""
        return Draws(lambda purpose, count: self(purpose, count)[rows])


def step_draws(rng: np.random.Generator, rows: int) -> Draws:
    """Draws of the rows of a step, from the step's own generator, purpose after purpose."""
    return Draws(lambda purpose, count: rng.random((rows, count)))


def view_draws(content_ids: NDArray[np.uint8], seed: int, view: int) -> Draws:
    """Draws of the rows with these content ids (N, 16) in one view: a function of (seed, content id, view) alone."""
    words_N4 = counters(content_ids)
    return Draws(lambda purpose, count: uniform(words_N4, count, "view", seed, view, purpose))
