"""What an encoding is: float32 logits to the arrays of a unit, and back.

Some encodings keep a number of entries that differs from label to label. Their entries lie one after another in
arrays that say so (`per: entry`), and the array `kept` counts those of each label.

Shapes: N labels, C classes, E entries of all labels, K entries of the longest.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from schemas.labels import FieldSchema
from stages.labels.decoded import ABSENT, Decoded

KEPT = "kept"
"""Array that counts the entries of each label."""
Arrays = Mapping[str, np.ndarray]


class Codec(ABC):
    """One way to keep labels over C classes. Pure: equal logits give equal bytes, on any host."""

    def __init__(self, classes: int) -> None:
        self.classes = classes

    @abstractmethod
    def fields(self) -> tuple[FieldSchema, ...]:
        """The arrays that it makes, with their exact bytes."""

    @abstractmethod
    def encode(self, logits_NC: np.ndarray, counters_N4: NDArray[np.uint32]) -> dict[str, np.ndarray]:
        """Finite float32 logits (N, C) as arrays of N labels. Raises StoreError if a value does not fit.

        `counters_N4` are `stages.random` counters of the labels, for encodings that draw.
        """

    @abstractmethod
    def decode(self, arrays: Arrays) -> Decoded:
        """What arrays of N labels say."""


def narrowest(largest: int) -> np.dtype[np.unsignedinteger]:
    """The narrowest unsigned integer that holds 0 to `largest`, little-endian."""
    return next(np.dtype(kind) for kind in ("u1", "<u2", "<u4") if largest <= np.iinfo(kind).max)


def padded(flat: np.ndarray, counts_N: np.ndarray, fill: float) -> np.ndarray:
    """Entries (E,) of N labels, one after another, as (N, K) filled up on the right."""
    counts = counts_N.astype(np.int64)
    longest = int(counts.max(initial=1))
    whole = np.full((len(counts), longest), fill, flat.dtype if fill != ABSENT else np.int64)
    whole[np.arange(longest) < counts[:, None]] = flat
    return whole
