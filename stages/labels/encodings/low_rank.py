"""Low-rank labels: r numbers a row, and one basis per set that makes logits of them.

The basis is a principal component analysis of centred logits (a constant per row is no part of a distribution). A
teacher whose head is linear in d features has logits of rank d, so r = d is exact but for rounding. It is made once
from rows chosen by hash (`stages.labels.bases`) and stands in the store under its digest.

    codes    (r,) int8 or float16
    scale    () with int8 only: float16, the size of a step

Shapes: N labels, C classes, R rank.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from schemas.canonical import digest_bytes
from schemas.encodings import LowRank
from schemas.errors import StoreError
from schemas.labels import FieldSchema
from stages.labels.decoded import DenseLabels
from stages.labels.encodings.base import Arrays, Codec

CODES, SCALE = "codes", "scale"
_STEPS = 127
_LARGEST = 65_000.0
"""Largest number that is trusted to float16, below its 65,504."""


@dataclass(frozen=True)
class Basis:
    """What the units of a low-rank set share."""

    mean: NDArray[np.float32]
    """(C,) mean of the centred logits."""
    components: NDArray[np.float32]
    """(R, C): each an orthogonal direction times the deviation along it, so that codes are of one size."""

    @property
    def digest(self) -> str:
        """Content digest of its numbers."""
        return digest_bytes(self.mean.astype("<f4").tobytes(), self.components.astype("<f4").tobytes())


def fit_basis(logits_NC: np.ndarray, rank: int) -> Basis:
    """The basis of rank R that keeps most of the variance of centred logits (N, C), in float64.

    Signs are fixed by the largest entry of each direction. Directions without variance are zero.
    """
    wide = logits_NC.astype(np.float64)
    wide -= wide.mean(axis=1, keepdims=True)
    mean = wide.mean(axis=0)
    wide -= mean
    few = len(wide) < wide.shape[1]
    values, vectors = np.linalg.eigh((wide @ wide.T if few else wide.T @ wide) / max(1, len(wide)))
    values, vectors = values[::-1][:rank], vectors[:, ::-1][:, :rank].T
    if few:  # the directions of rows lead to those of classes, at the price of the smaller of the two
        vectors = vectors @ wide
        vectors /= np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-30)
    deviation = np.sqrt(np.clip(values, 0.0, None))
    deviation[deviation < 1e-6 * (deviation.max(initial=0.0) + np.abs(mean).max(initial=0.0))] = 0.0
    signs = np.sign(vectors[np.arange(len(vectors)), np.abs(vectors).argmax(axis=1)])
    components = np.zeros((rank, wide.shape[1]), np.float32)
    components[: len(vectors)] = vectors * (signs * deviation)[:, None]
    return Basis(mean.astype(np.float32), components)


class LowRankCodec(Codec):
    """Coordinates of centred logits in the set's basis."""

    def __init__(self, encoding: LowRank, classes: int, basis: Basis | None) -> None:
        super().__init__(classes)
        if encoding.rank > max(1, classes - 1):
            raise StoreError(f"rank {encoding.rank} is more than {classes} classes can have: set it to {classes - 1}")
        self._encoding, self._given = encoding, basis

    @property
    def _basis(self) -> Basis:
        if self._given is None:
            raise StoreError("low-rank labels cannot be read or written without their basis")
        return self._given

    def fields(self) -> tuple[FieldSchema, ...]:
        rank, int8 = self._encoding.rank, self._encoding.dtype == "int8"
        codes = FieldSchema(
            name=CODES,
            dtype=self._encoding.dtype,
            shape=(rank,),
            bytes_per_row=rank * (1 if int8 else 2),
            description="Coordinates in the set's basis" + (", in steps of `scale`." if int8 else "."),
        )
        scale = FieldSchema(name=SCALE, dtype="float16", bytes_per_row=2, description="Size of a step of the codes.")
        return (codes, scale) if int8 else (codes,)

    def encode(self, logits_NC: np.ndarray, counters_N4: NDArray[np.uint32]) -> dict[str, np.ndarray]:
        basis = self._basis
        wide = logits_NC.astype(np.float64)
        wide -= wide.mean(axis=1, keepdims=True)
        wide -= basis.mean
        components = basis.components.astype(np.float64)
        squared = (components**2).sum(axis=1)
        codes = wide @ (components / np.where(squared > 0, squared, 1.0)[:, None]).T
        if self._encoding.dtype == "float16":
            if np.abs(codes).max(initial=0.0) > _LARGEST:
                raise StoreError("a row lies too far from the basis for float16: label with a dense encoding")
            return {CODES: codes.astype("<f2")}
        step = np.abs(codes).max(axis=1, initial=0.0) / _STEPS
        if step.max(initial=0.0) > _LARGEST:
            raise StoreError("a row lies too far from the basis for int8: label with a dense encoding")
        scale = step.astype("<f2")
        scale = np.where(scale < step, np.nextafter(scale, np.float16(np.inf)), scale).astype("<f2")
        divisor = np.where(scale > 0, scale, 1).astype(np.float64)[:, None]
        return {CODES: np.clip(np.rint(codes / divisor), -_STEPS, _STEPS).astype("i1"), SCALE: scale}

    def decode(self, arrays: Arrays) -> DenseLabels:
        codes = arrays[CODES].astype(np.float32)
        if self._encoding.dtype == "int8":
            codes *= arrays[SCALE].astype(np.float32)[:, None]
        return DenseLabels(codes @ self._basis.components + self._basis.mean)
