"""Top-k labels: the largest logits of a row, and for each declared temperature the log-sum-exp of all others.

    ids      (k,) the kept classes, most likely first, in the narrowest integer that holds their number
    values   (k,) their logits: float16, or uint8 steps between the row's smallest and largest kept one
    affine   (2,) with uint8 only: the smallest, and the size of a step, float16
    tail     (T,) float32, of the exact logits
    kept     () with `mass` only: how many classes this row keeps; ids and values are then `per: entry`

Among equal logits the first classes are kept, so bytes depend on no sort. Encoding costs one partition and a few
passes over the logits.

Shapes: N labels, C classes, K kept, E entries of all labels, T temperatures.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from schemas.encodings import TopK
from schemas.labels import FieldSchema
from stages.labels.decoded import ABSENT, SparseLabels
from stages.labels.encodings.base import KEPT, Arrays, Codec, narrowest, padded
from stages.labels.encodings.dense import check_size

IDS, VALUES, AFFINE, TAIL = "ids", "values", "affine", "tail"
_STEPS = 255


class TopKCodec(Codec):
    """The k largest raw logits, or the fewest that hold a mass, and the tails."""

    def __init__(self, encoding: TopK, classes: int) -> None:
        super().__init__(classes)
        self._encoding = encoding
        self._most = min(encoding.k or classes, classes)
        self._ragged = encoding.mass is not None
        self._id_type = narrowest(classes - 1)

    def fields(self) -> tuple[FieldSchema, ...]:
        per, shape = ("entry", ()) if self._ragged else ("label", (self._most,))
        entries = 1 if self._ragged else self._most
        quantised = self._encoding.values == "uint8"
        size, tails = (1 if quantised else 2), len(self._encoding.temperatures)
        declared = ", ".join(f"{tau:g}" for tau in self._encoding.temperatures)
        made = [
            _field(
                IDS, self._id_type.name, shape, entries * self._id_type.itemsize, "Kept classes, likeliest first.", per
            ),
            _field(
                VALUES,
                self._encoding.values,
                shape,
                entries * size,
                "Steps above the smallest kept logit." if quantised else "Their raw logits (natural log scale).",
                per,
            ),
            _field(
                TAIL, "float32", (tails,), 4 * tails, f"log sum exp(logit/T) of the classes not kept, T = {declared}."
            ),
        ]
        if quantised:
            made.append(_field(AFFINE, "float16", (2,), 4, "Smallest kept logit, and the size of a step."))
        if self._ragged:
            kept = narrowest(self._most)
            made.append(_field(KEPT, kept.name, (), kept.itemsize, "How many classes are kept."))
        return tuple(made)

    def encode(self, logits_NC: np.ndarray, counters_N4: NDArray[np.uint32]) -> dict[str, np.ndarray]:
        check_size(logits_NC, "float16", "label with a dense encoding in float32 or bfloat16")
        ids_NK = largest(logits_NC, self._most)
        values_NK = np.take_along_axis(logits_NC, ids_NK, axis=1)
        kept_N = self._kept(logits_NC, values_NK)
        mask_NK = np.arange(self._most) < kept_N[:, None]
        arrays = {IDS: ids_NK.astype(self._id_type), TAIL: self._tails(logits_NC, ids_NK, mask_NK)}
        if self._encoding.values == "uint8":
            arrays[VALUES], arrays[AFFINE] = quantise(values_NK, mask_NK)
        else:
            arrays[VALUES] = values_NK.astype("<f2")
        if self._ragged:
            arrays[KEPT] = kept_N.astype(narrowest(self._most))
            arrays |= {name: arrays[name][mask_NK] for name in (IDS, VALUES)}
        return arrays

    def decode(self, arrays: Arrays) -> SparseLabels:
        ids, values = arrays[IDS], arrays[VALUES]
        if self._ragged:
            ids_NK = padded(ids, arrays[KEPT], ABSENT)
            values_NK = padded(values, arrays[KEPT], 0)
        else:
            ids_NK, values_NK = ids.astype(np.int64), values
        logits_NK = values_NK.astype("<f4")
        if self._encoding.values == "uint8":
            affine = arrays[AFFINE].astype("<f4")
            logits_NK = affine[:, :1] + affine[:, 1:] * logits_NK
        if self._ragged:
            logits_NK[ids_NK == ABSENT] = -np.inf
        return SparseLabels(self.classes, ids_NK, logits_NK, arrays[TAIL].astype("<f4"), self._encoding.temperatures)

    def _kept(self, logits_NC: np.ndarray, values_NK: np.ndarray) -> NDArray[np.int64]:
        """How many of its largest classes each label keeps (N,): the fewest that hold the mass, at least one."""
        if self._encoding.mass is None:
            return np.full(len(logits_NC), self._most)
        top = values_NK[:, :1].astype(np.float64)
        whole = np.exp(logits_NC - top).sum(axis=1, dtype=np.float64)
        held = np.cumsum(np.exp(values_NK - top), axis=1) / whole[:, None]
        short = (held < self._encoding.mass - 1e-12).sum(axis=1)
        return np.asarray(np.minimum(short + 1, self._most), np.int64)

    def _tails(self, logits_NC: np.ndarray, ids_NK: np.ndarray, mask_NK: np.ndarray) -> np.ndarray:
        """(N, T); the kept classes are taken out before summing, since 1 - sum would cancel."""
        rest_NC = logits_NC.astype(np.float32)
        rows, columns = np.nonzero(mask_NK)
        rest_NC[rows, ids_NK[rows, columns]] = -np.inf
        top_N = rest_NC.max(axis=1)
        base_N = np.where(np.isfinite(top_N), top_N, 0.0).astype(np.float32)
        rest_NC -= base_N[:, None]
        tails = np.empty((len(logits_NC), len(self._encoding.temperatures)), "<f4")
        with np.errstate(divide="ignore"):
            for number, tau in enumerate(self._encoding.temperatures):
                total = np.exp(rest_NC / np.float32(tau)).sum(axis=1, dtype=np.float64)
                tails[:, number] = np.log(total) + base_N / tau
        return tails


def largest(logits_NC: np.ndarray, k: int) -> NDArray[np.int64]:
    """The k largest classes (N, k), largest first; among equal ones the first."""
    rows, classes = logits_NC.shape
    if k == classes:
        ids_NK = np.broadcast_to(np.arange(classes), (rows, classes))
    else:
        bound_N1 = np.partition(logits_NC, classes - k, axis=1)[:, classes - k, None]
        above = logits_NC > bound_N1
        equal = logits_NC == bound_N1
        missing_N1 = k - above.sum(axis=1, keepdims=True)
        if (equal.sum(axis=1, keepdims=True) > missing_N1).any():
            equal &= np.cumsum(equal, axis=1) <= missing_N1
        ids_NK = np.nonzero(above | equal)[1].reshape(rows, k)
    order = np.argsort(-np.take_along_axis(logits_NC, ids_NK, axis=1), axis=1, kind="stable")
    ordered: NDArray[np.int64] = np.take_along_axis(ids_NK, order, axis=1)
    return ordered


def quantise(values_NK: np.ndarray, mask_NK: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(steps (N, K) uint8, affine (N, 2) float16): each value to the nearest of 256 levels of its row.

    Levels are worked out from the affine numbers as stored, so rounding these costs nothing.
    """
    low = np.where(mask_NK, values_NK, np.inf).min(axis=1)
    stored_low = low.astype("<f2")
    stored_low = np.where(stored_low > low, np.nextafter(stored_low, np.float16(-np.inf)), stored_low)
    span = (values_NK[:, 0] - stored_low.astype(np.float32)) / _STEPS
    step = span.astype("<f2")
    step = np.where(step < span, np.nextafter(step, np.float16(np.inf)), step)
    affine = np.stack([stored_low, step], axis=1).astype("<f2")
    wide = np.where(affine[:, 1:] > 0, affine[:, 1:], 1).astype(np.float32)
    steps = np.rint((values_NK - affine[:, :1].astype(np.float32)) / wide)
    return np.clip(steps, 0, _STEPS).astype("u1"), affine


def _field(name: str, dtype: str, shape: tuple[int, ...], size: int, text: str, per: str = "label") -> FieldSchema:
    return FieldSchema.model_validate(
        {"name": name, "dtype": dtype, "shape": shape, "bytes_per_row": size, "description": text, "per": per}
    )
