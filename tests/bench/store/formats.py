"""How others keep a teacher's distribution, as plain functions: what is decoded, and its bytes.

Each keeps log-probabilities at temperature 1, as the projects do that store them, and is read at another temperature
by dividing them by it. Ids count ceil(log2 C) bits where a format packs them, else 16.

Shapes: N rows, C classes, K kept, E exact ones.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from stages.labels.decoded import log_sum_exp
from stages.labels.encodings.top_k import largest


@dataclass(frozen=True)
class Format:
    """One format of others."""

    name: str
    """What it is."""
    bytes_per_row: int
    """Bytes of one row, ids included."""
    logp: np.ndarray
    """Decoded log-probabilities (N, C) at temperature 1; minus infinity for what it forgot."""


def renormalised(logp_NC: np.ndarray, k: int) -> Format:
    """The k largest, the rest forgotten: they are renormalised, and every other class has no probability."""
    ids_NK, kept_NK = _largest(logp_NC, k)
    whole = np.full(logp_NC.shape, -np.inf)
    np.put_along_axis(whole, ids_NK, _half(kept_NK), axis=1)
    return Format(f"top-{k}, renormalised", 4 * k, whole - log_sum_exp(whole)[:, None])


def uniform_rest(logp_NC: np.ndarray, k: int) -> Format:
    """The k largest, and what is missing to 1 spread evenly over the others."""
    ids_NK, kept_NK = _largest(logp_NC, k)
    return Format(f"top-{k}, uniform rest", 4 * k, _with_rest(ids_NK, _half(kept_NK), logp_NC.shape[1]))


def polynomial(logp_NC: np.ndarray, k: int, exact: int = 8) -> Format:
    """In the manner of DistillKit: ids packed in bits; the first few values in 16 bits, the others a polynomial of
    their rank (1, x, x**2, sqrt x) with 16-bit coefficients; the rest spread evenly."""
    ids_NK, kept_NK = _largest(logp_NC, k)
    rank = np.arange(k - exact, dtype=np.float64) / max(1, k - exact)
    terms = np.stack([np.ones_like(rank), rank, rank**2, np.sqrt(rank)])
    solved, *_ = np.linalg.lstsq(terms.T, kept_NK[:, exact:].T, rcond=None)
    values = np.concatenate([_half(kept_NK[:, :exact]), _half(solved.T) @ terms], axis=1)
    size = math.ceil(k * math.ceil(math.log2(logp_NC.shape[1])) / 8) + 2 * exact + 2 * len(terms)
    return Format(f"top-{k}, polynomial (DistillKit-like)", size, _with_rest(ids_NK, values, logp_NC.shape[1]))


def half_dense(logp_NC: np.ndarray) -> Format:
    """Every class in float16."""
    return Format("dense float16", 2 * logp_NC.shape[1], _half(logp_NC))


def tempered(logp_NC: np.ndarray, tau: float) -> np.ndarray:
    """Log-probabilities (N, C) at another temperature."""
    softened = logp_NC / tau
    return np.asarray(softened - log_sum_exp(softened)[:, None])


def divergence(logp_NC: np.ndarray, logq_NC: np.ndarray) -> float:
    """Mean KL(p || q) in nats; infinite where q has no probability and p has."""
    with np.errstate(invalid="ignore"):
        terms = np.where(np.isneginf(logp_NC), 0.0, np.exp(logp_NC) * (logp_NC - logq_NC))
    return float(terms.sum(axis=1).mean())


def _largest(logp_NC: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
    ids_NK = largest(logp_NC, k)
    return ids_NK, np.take_along_axis(logp_NC, ids_NK, axis=1)


def _with_rest(ids_NK: np.ndarray, kept_NK: np.ndarray, classes: int) -> np.ndarray:
    """Kept log-probabilities, scaled down where they add up to more than 1, and the rest spread evenly."""
    over = np.maximum(log_sum_exp(kept_NK), math.log(1 - 1e-6))
    kept_NK = kept_NK - np.where(log_sum_exp(kept_NK) > math.log(1 - 1e-6), over - math.log(1 - 1e-6), 0.0)[:, None]
    rest = np.log1p(-np.exp(log_sum_exp(kept_NK))) - math.log(max(1, classes - kept_NK.shape[1]))
    whole = np.repeat(rest[:, None], classes, axis=1)
    np.put_along_axis(whole, ids_NK, kept_NK, axis=1)
    return whole


def _half(values: np.ndarray) -> np.ndarray:
    return values.astype(np.float16).astype(np.float64)
