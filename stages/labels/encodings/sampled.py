"""Sampled labels: classes drawn from the teacher's distribution, with how often each came.

With n draws a class that came c times has weight c / n, whose expectation is its probability: unlike the k largest,
the labels are unbiased (Random Sampling Knowledge Distillation, Anshumann et al. 2025, arXiv:2503.16870, eq. 5, with
the teacher's own distribution as the proposal). Draws belong to the sample's content (`stages.random`).

Decoded with half a draw for all classes that never came, so that every row is a distribution over all of them and a
divergence from it is finite; losses match the weights themselves (`SparseLabels.target_log_probabilities`).

Shapes: N labels, C classes, D draws, E entries of all labels.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from schemas.encodings import Sampled
from schemas.labels import FieldSchema
from stages.labels.decoded import ABSENT, DenseLabels, SparseLabels
from stages.labels.encodings.base import KEPT, Arrays, Codec, narrowest, padded
from stages.random import uniform

IDS, COUNTS = "ids", "counts"
UNSEEN = 0.5
"""Draws that all classes which never came count for together."""


class SampledCodec(Codec):
    """Distinct classes of n draws, the most frequent first, and their counts."""

    def __init__(self, encoding: Sampled, classes: int) -> None:
        super().__init__(classes)
        self._encoding = encoding
        self._id_type, self._count_type = narrowest(classes - 1), narrowest(encoding.draws)

    def fields(self) -> tuple[FieldSchema, ...]:
        kept = narrowest(min(self.classes, self._encoding.draws))
        return (
            FieldSchema(
                name=IDS,
                dtype=self._id_type.name,
                bytes_per_row=self._id_type.itemsize,
                description="Drawn classes, most frequent first.",
                per="entry",
            ),
            FieldSchema(
                name=COUNTS,
                dtype=self._count_type.name,
                bytes_per_row=self._count_type.itemsize,
                description=f"How often each came in {self._encoding.draws} draws.",
                per="entry",
            ),
            FieldSchema(name=KEPT, dtype=kept.name, bytes_per_row=kept.itemsize, description="Distinct classes drawn."),
        )

    def encode(self, logits_NC: np.ndarray, counters_N4: NDArray[np.uint32]) -> dict[str, np.ndarray]:
        rows, draws = len(logits_NC), self._encoding.draws
        cumulated_NC = np.exp(DenseLabels(logits_NC).log_probabilities(self._encoding.temperature)).cumsum(axis=1)
        at_ND = uniform(counters_N4, draws, "sampled", self._encoding.seed) * cumulated_NC[:, -1:]
        drawn = [np.searchsorted(cumulated_NC[row], at_ND[row], side="right") for row in range(rows)]
        flat = np.concatenate(drawn) if rows else np.empty(0, np.int64)
        flat = np.minimum(flat, self.classes - 1) + np.repeat(np.arange(rows), draws) * self.classes
        pairs, counts = np.unique(flat, return_counts=True)
        owners, ids = np.divmod(pairs, self.classes)
        order = np.lexsort((ids, -counts, owners))
        return {
            IDS: ids[order].astype(self._id_type),
            COUNTS: counts[order].astype(self._count_type),
            KEPT: np.bincount(owners, minlength=rows).astype(narrowest(min(self.classes, draws))),
        }

    def decode(self, arrays: Arrays) -> SparseLabels:
        ids_NK = padded(arrays[IDS], arrays[KEPT], ABSENT)
        counts_NK = padded(arrays[COUNTS], arrays[KEPT], 0).astype(np.float64)
        every = arrays[KEPT].astype(np.int64) == self.classes
        tau = self._encoding.temperature
        with np.errstate(divide="ignore"):
            logits_NK = (np.log(counts_NK / self._encoding.draws) * tau).astype("<f4")
            tail = np.where(every, -np.inf, np.log(UNSEEN / self._encoding.draws)).astype("<f4")
        return SparseLabels(self.classes, ids_NK, logits_NK, tail[:, None], (tau,), tempered=False)
