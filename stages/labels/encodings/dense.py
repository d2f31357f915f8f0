"""Dense labels: every raw logit of a row, as float32, float16 or bfloat16.

bfloat16 is rounded to nearest even and kept as uint16 of its bits, since neither numpy nor Zarr has the type.
Encoding costs one pass over the logits.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from schemas.encodings import Dense
from schemas.errors import StoreError
from schemas.labels import FieldSchema
from stages.labels.decoded import DenseLabels
from stages.labels.encodings.base import Arrays, Codec

LOGITS = "logits"
STORED: dict[str, np.dtype[Any]] = {"float32": np.dtype("<f4"), "float16": np.dtype("<f2"), "bfloat16": np.dtype("<u2")}
LARGEST = {
    "float32": float(np.finfo(np.float32).max),
    "float16": 65504.0,
    "bfloat16": float(np.array(0x7F7F0000, np.uint32).view(np.float32)),
}
"""Largest absolute logit of each type."""


class DenseCodec(Codec):
    """All raw logits, rounded to nearest even in the stored type."""

    def __init__(self, encoding: Dense, classes: int) -> None:
        super().__init__(classes)
        self._dtype = encoding.dtype

    def fields(self) -> tuple[FieldSchema, ...]:
        stored = STORED[self._dtype]
        bits = ", the upper 16 bits of a float32" if self._dtype == "bfloat16" else ""
        return (
            FieldSchema(
                name=LOGITS,
                dtype=stored.name,
                shape=(self.classes,),
                bytes_per_row=self.classes * stored.itemsize,
                description=f"Raw logits by class (natural log scale, up to a constant per row){bits}.",
            ),
        )

    def encode(self, logits_NC: np.ndarray, counters_N4: NDArray[np.uint32]) -> dict[str, np.ndarray]:
        check_size(logits_NC, self._dtype, "set the encoding's `dtype` to float32 or bfloat16")
        if self._dtype == "bfloat16":
            bits = logits_NC.astype("<f4", copy=False).view("<u4")
            return {LOGITS: ((bits + 0x7FFF + ((bits >> 16) & 1)) >> 16).astype("<u2")}
        return {LOGITS: logits_NC.astype(STORED[self._dtype])}

    def decode(self, arrays: Arrays) -> DenseLabels:
        stored = arrays[LOGITS]
        if self._dtype == "bfloat16":
            return DenseLabels((stored.astype("<u4") << 16).view("<f4"))
        return DenseLabels(stored.astype("<f4"))


def check_size(logits: np.ndarray, dtype: str, mend: str) -> None:
    """Raise StoreError for a logit that is too large for a type."""
    largest = float(np.abs(logits).max(initial=0.0))
    if largest > LARGEST[dtype]:
        raise StoreError(f"a logit of size {largest:g} does not fit {dtype} (at most {LARGEST[dtype]:g}): {mend}")
