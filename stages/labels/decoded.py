"""What stored labels say: distributions over all classes, whatever was kept of them.

Two forms. `DenseLabels` hold a logit for every class. `SparseLabels` hold some classes and, for some temperatures,
the log-sum-exp of all others (the tail); a reader renormalises over decoded values and tail, so every row is a
distribution. Its tail is one bucket, or spread evenly over the classes not kept: that is the declared decoding.

Shapes: N labels, C classes, K kept classes of the longest row, T temperatures. tau: temperature, no unit.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from schemas.errors import StoreError

Floats = NDArray[np.float32]
Wide = NDArray[np.float64]
ABSENT = -1
"""Stands in `ids` where a row keeps fewer classes than the longest one."""


def log_sum_exp(values: NDArray[np.floating]) -> Wide:
    """log of the sum of exp over the last axis, in float64; minus infinity where all are, or there are none."""
    if not values.shape[-1]:
        return np.full(values.shape[:-1], -np.inf)
    wide = values.astype(np.float64)
    top = wide.max(axis=-1, keepdims=True)
    top = np.where(np.isfinite(top), top, 0.0)
    with np.errstate(divide="ignore"):
        return np.asarray(np.log(np.exp(wide - top).sum(axis=-1)) + top[..., 0])


def check_temperature(tau: float, temperatures: tuple[float, ...], tempered: bool) -> None:
    """Raise StoreError if labels with tails at these temperatures cannot be read at tau.

    `tempered`: any above the smallest will do; else only those declared.
    """
    declared = ", ".join(f"{item:g}" for item in temperatures)
    if not tempered and tau not in temperatures:
        raise StoreError(
            f"temperature {tau:g} cannot be read from labels that were drawn at {declared}: use that, or "
            "label with another encoding"
        )
    if tau < temperatures[0]:
        raise StoreError(
            f"temperature {tau:g} lies below the smallest that the labels are made for ({declared}): use a higher one, "
            "or make them with it among the encoding's `temperatures`"
        )


@dataclass(frozen=True)
class DenseLabels:
    """A logit for every class."""

    logits: Floats
    """(N, C), up to a constant per row."""

    def rows(self, rows: NDArray[np.int64]) -> DenseLabels:
        """Some of the labels."""
        return DenseLabels(self.logits[rows])

    def calibrated(self, t: float) -> DenseLabels:
        """The labels whose distribution at any tau is that of these at t * tau."""
        return DenseLabels(self.logits / np.float32(t))

    def check(self, tau: float) -> None:
        """Every temperature will do."""

    def log_probabilities(self, tau: float = 1.0) -> Wide:
        """(N, C), softened by tau."""
        centred = self.logits.astype(np.float64) / tau
        centred -= log_sum_exp(centred)[:, None]
        return centred

    def dense(self) -> Floats:
        """Logits (N, C)."""
        return self.logits

    def top1(self) -> NDArray[np.int64]:
        """Most likely class (N,), the first of equal ones."""
        return np.asarray(self.logits.argmax(axis=1), np.int64)

    def moments(self, tau: float) -> tuple[Wide, Wide]:
        """(entropy in nats, largest probability) of each row (N,)."""
        logp = self.log_probabilities(tau)
        p = np.exp(logp)
        return -(p * np.where(p > 0, logp, 0.0)).sum(axis=1), p.max(axis=1, initial=0.0)


@dataclass(frozen=True)
class SparseLabels:
    """Some classes of each row, and what is known of all others together."""

    classes: int
    """C."""
    ids: NDArray[np.int64]
    """Kept classes (N, K), the most likely first; `ABSENT` fills up shorter rows."""
    logits: Floats
    """Their logits (N, K), minus infinity where absent."""
    tails: Floats
    """(N, T) log of the sum of exp(logit / tau) over the classes not kept, per declared temperature."""
    temperatures: tuple[float, ...]
    """The declared temperatures, rising."""
    tempered: bool = True
    """Whether temperatures above the smallest declared one may be asked for; else only the declared."""

    def rows(self, rows: NDArray[np.int64]) -> SparseLabels:
        """Some of the labels."""
        return replace(self, ids=self.ids[rows], logits=self.logits[rows], tails=self.tails[rows])

    def calibrated(self, t: float) -> SparseLabels:
        """The labels whose distribution at any tau is that of these at t * tau; declared temperatures move along."""
        moved = tuple(tau / t for tau in self.temperatures)
        return replace(self, logits=self.logits / np.float32(t), temperatures=moved)

    @property
    def kept(self) -> NDArray[np.int64]:
        """Number of kept classes per row (N,)."""
        return np.asarray((self.ids != ABSENT).sum(axis=1), np.int64)

    def check(self, tau: float) -> None:
        """Raise StoreError for a temperature that these labels cannot be read at."""
        check_temperature(tau, self.temperatures, self.tempered)

    def tail(self, tau: float) -> Wide:
        """log of the sum of exp(logit / tau) over the classes not kept (N,); minus infinity where all are kept.

        Linear in 1 / tau between declared temperatures, and towards log(number of classes not kept) at 1 / tau = 0:
        from above, since the function is convex. Raises StoreError like `check`.
        """
        self.check(tau)
        for number, known in enumerate(self.temperatures):
            if tau == known:
                return self.tails[:, number].astype(np.float64)
        above = next((number for number, known in enumerate(self.temperatures) if known > tau), None)
        low = len(self.temperatures) - 1 if above is None else above - 1
        near = self.tails[:, low].astype(np.float64)
        with np.errstate(divide="ignore", invalid="ignore"):
            far = np.log((self.classes - self.kept).astype(np.float64)) if above is None else self.tails[:, above]
            far_beta = 0.0 if above is None else 1.0 / self.temperatures[above]
            share = (1.0 / tau - far_beta) / (1.0 / self.temperatures[low] - far_beta)
            return np.where(np.isneginf(near), -np.inf, share * near + (1.0 - share) * far)

    def bucket_log_probabilities(self, tau: float = 1.0) -> tuple[Wide, Wide]:
        """(of the kept classes (N, K), of all others together (N,)): one distribution a row."""
        kept, tail = self.logits.astype(np.float64) / tau, self.tail(tau)
        whole = np.logaddexp(log_sum_exp(kept), tail)
        return kept - whole[:, None], tail - whole

    def target_log_probabilities(self, tau: float = 1.0) -> tuple[Wide, Wide]:
        """The same as what a loss is to match: of drawn classes their unbiased weights, and no tail."""
        if self.tempered:
            return self.bucket_log_probabilities(tau)
        self.check(tau)
        return self.logits.astype(np.float64) / tau, np.full(len(self.ids), -np.inf)

    def log_probabilities(self, tau: float = 1.0) -> Wide:
        """(N, C), softened by tau, the tail spread evenly over the classes not kept."""
        kept, tail = self.bucket_log_probabilities(tau)
        rest = self.classes - self.kept
        each = np.where(rest > 0, tail - np.log(np.maximum(rest, 1)), 0.0)
        whole = np.repeat(each[:, None], self.classes, axis=1)
        rows, columns = np.nonzero(self.ids != ABSENT)
        whole[rows, self.ids[rows, columns]] = kept[rows, columns]
        return whole

    def dense(self) -> Floats:
        """Logits (N, C) at the smallest declared temperature: its log-probabilities times it."""
        tau = self.temperatures[0]
        return np.asarray(self.log_probabilities(tau) * tau, np.float32)

    def top1(self) -> NDArray[np.int64]:
        """Most likely class (N,)."""
        return self.ids[:, 0]

    def moments(self, tau: float) -> tuple[Wide, Wide]:
        """(entropy in nats, largest probability) of each row (N,), the tail spread evenly."""
        kept, tail = self.bucket_log_probabilities(tau)
        rest = np.maximum(self.classes - self.kept, 1)
        p, p_tail = np.exp(kept), np.exp(tail)
        entropy = -(p * np.where(p > 0, kept, 0.0)).sum(axis=1)
        entropy -= p_tail * np.where(p_tail > 0, tail - np.log(rest), 0.0)
        return entropy, np.maximum(p.max(axis=1, initial=0.0), p_tail / rest)


Decoded = DenseLabels | SparseLabels


def smallest_temperature(decoded: Decoded) -> float:
    """The temperature at which labels are described: 1 if they can be read there, else the smallest declared."""
    match decoded:
        case DenseLabels():
            return 1.0
        case SparseLabels(temperatures=temperatures, tempered=tempered):
            return 1.0 if 1.0 in temperatures or (tempered and temperatures[0] < 1.0) else temperatures[0]


def readable(decoded: Decoded, tau: float) -> bool:
    """Whether labels can be read at a temperature."""
    try:
        decoded.check(tau)
    except StoreError:
        return False
    return math.isfinite(tau)
