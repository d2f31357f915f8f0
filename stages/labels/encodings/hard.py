"""Hard labels: the most likely class, and its probability at temperature 1. A few bytes a label.

Decoded as that class and a tail with the rest, spread evenly: so any temperature above 1 has a meaning too.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from schemas.encodings import Hard
from schemas.labels import FieldSchema
from stages.labels.decoded import SparseLabels, log_sum_exp
from stages.labels.encodings.base import Arrays, Codec, narrowest

CLASS, CONFIDENCE = "class", "confidence"
_MOST = 1.0 - 2.0**-13
"""What a confidence that float16 rounds to 1 is taken for: no class is impossible."""


class HardCodec(Codec):
    """The first of the largest logits, and its probability as float16."""

    def __init__(self, encoding: Hard, classes: int) -> None:
        super().__init__(classes)
        self._id_type = narrowest(classes - 1)

    def fields(self) -> tuple[FieldSchema, ...]:
        return (
            FieldSchema(
                name=CLASS,
                dtype=self._id_type.name,
                bytes_per_row=self._id_type.itemsize,
                description="Number of the most likely class.",
            ),
            FieldSchema(
                name=CONFIDENCE,
                dtype="float16",
                bytes_per_row=2,
                description="Its probability at temperature 1, from 0 to 1.",
            ),
        )

    def encode(self, logits_NC: np.ndarray, counters_N4: NDArray[np.uint32]) -> dict[str, np.ndarray]:
        top = logits_NC.argmax(axis=1)
        log_confidence = logits_NC[np.arange(len(top)), top] - log_sum_exp(logits_NC)
        return {CLASS: top.astype(self._id_type), CONFIDENCE: np.exp(log_confidence).astype("<f2")}

    def decode(self, arrays: Arrays) -> SparseLabels:
        most = 1.0 if self.classes == 1 else _MOST
        confidence = np.clip(arrays[CONFIDENCE].astype(np.float64), 1.0 / self.classes, most)
        with np.errstate(divide="ignore"):
            kept, tail = np.log(confidence), np.log1p(-confidence)
        return SparseLabels(
            self.classes,
            arrays[CLASS].astype(np.int64)[:, None],
            kept.astype("<f4")[:, None],
            tail.astype("<f4")[:, None],
            (1.0,),
        )
