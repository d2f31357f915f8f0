"""Statistics of labels as sums over rows, so that batches add up to units and units to sets.

Shapes: B rows, C classes. In float64, summed in the order of the rows. About 20 ns a logit.
"""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np

from schemas.labels import UnitStatistics

TEMPERATURES = (1.0, 2.0, 4.0)
"""Temperatures at which fidelity is measured."""


def log_softmax(logits_BC: np.ndarray, temperature: float = 1.0) -> np.ndarray:
    """Log-probabilities (B, C) in float64, where no difference of float32 logits overflows."""
    centred = logits_BC.astype(np.float64) / temperature
    centred -= centred.max(axis=1, keepdims=True)
    centred -= np.log(np.exp(centred).sum(axis=1, keepdims=True))
    return centred


def label_statistics(decoded_BC: np.ndarray, unmapped_B: np.ndarray) -> UnitStatistics:
    """What labels look like, as a reader decodes them; `unmapped_B` is the mass that a class map left out."""
    logp = log_softmax(decoded_BC)
    p = np.exp(logp)
    top1 = decoded_BC.argmax(axis=1)
    return UnitStatistics(
        rows=len(decoded_BC),
        top1_counts=tuple(np.bincount(top1, minlength=decoded_BC.shape[1]).tolist()),
        entropy_sum=_sum(-(p * logp).sum(axis=1)),
        confidence_sum=_sum(p.max(axis=1)),
        unmapped_mass_sum=_sum(unmapped_B),
    )


def dense_fidelity(exact_BC: np.ndarray, decoded_BC: np.ndarray) -> UnitStatistics:
    """How exact labels are that keep every class: then bucket KL and full KL are one. Nats."""
    if not len(exact_BC):
        return UnitStatistics()
    sums = {}
    for temperature in TEMPERATURES:
        logp, logq = log_softmax(exact_BC, temperature), log_softmax(decoded_BC, temperature)
        sums[f"{temperature:g}"] = _sum((np.exp(logp) * (logp - logq)).sum(axis=1))
    return UnitStatistics(
        fidelity_rows=len(exact_BC),
        full_kl_sums=sums,
        bucket_kl_sums=sums,
        top1_agreements=int((exact_BC.argmax(axis=1) == decoded_BC.argmax(axis=1)).sum()),
        largest_error=float(np.abs(exact_BC.astype(np.float64) - decoded_BC).max()),
    )


def merge(parts: Iterable[UnitStatistics]) -> UnitStatistics:
    """Statistics of all rows of the parts."""
    items = list(parts)
    counts = [item.top1_counts for item in items if item.top1_counts]
    return UnitStatistics(
        rows=sum(item.rows for item in items),
        top1_counts=tuple(np.sum(counts, axis=0).tolist()) if counts else (),
        entropy_sum=sum(item.entropy_sum for item in items),
        confidence_sum=sum(item.confidence_sum for item in items),
        unmapped_mass_sum=sum(item.unmapped_mass_sum for item in items),
        fidelity_rows=sum(item.fidelity_rows for item in items),
        full_kl_sums=_merge_sums([item.full_kl_sums for item in items]),
        bucket_kl_sums=_merge_sums([item.bucket_kl_sums for item in items]),
        top1_agreements=sum(item.top1_agreements for item in items),
        largest_error=max((item.largest_error for item in items), default=0.0),
    )


def _merge_sums(sums: list[dict[str, float]]) -> dict[str, float]:
    names = dict.fromkeys(name for item in sums for name in item)
    return {name: sum(item.get(name, 0.0) for item in sums) for name in names}


def _sum(values: np.ndarray) -> float:
    """Sum of values that are at least 0 but for rounding."""
    return float(max(values.sum(dtype=np.float64), 0.0))
