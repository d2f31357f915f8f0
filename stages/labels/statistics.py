"""Statistics of labels as sums over rows, so that batches add up to units and units to sets.

Shapes: N labels, C classes. In float64, summed in the order of the rows. About 20 ns a logit.
"""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
from pydantic import ValidationError

from schemas.errors import StoreError
from schemas.labels import SetManifest, UnitStatistics
from stages.labels.decoded import Decoded, DenseLabels, SparseLabels, readable, smallest_temperature

TEMPERATURES = (1.0, 2.0, 4.0)
"""Temperatures at which fidelity is measured."""


def label_statistics(decoded: Decoded, classes: int, unmapped_N: np.ndarray) -> UnitStatistics:
    """What labels look like, as a reader decodes them; `unmapped_N` is the mass that a class map left out."""
    entropy, confidence = decoded.moments(smallest_temperature(decoded))
    top1 = decoded.top1()
    return UnitStatistics(
        labels=len(top1),
        top1_counts=tuple(np.bincount(top1, minlength=classes).tolist()),
        entropy_sum=_sum(entropy),
        confidence_sum=_sum(confidence),
        unmapped_mass_sum=_sum(unmapped_N),
    )


def fidelity(exact_NC: np.ndarray, decoded: Decoded) -> UnitStatistics:
    """How exact labels are: what is decoded of them against the teacher's float32 logits. Nats.

    full KL: sum over all classes of p (log p - log q), q being the declared decoding. Bucket KL: the same over kept
    classes and one bucket for all others; equal to the full one where every class is kept. Temperatures that the
    labels cannot be read at are left out.
    """
    if not len(exact_NC):
        return UnitStatistics()
    exact = DenseLabels(exact_NC)
    full, bucket = {}, {}
    for tau in (tau for tau in TEMPERATURES if readable(decoded, tau)):
        logp_NC, logq_NC = exact.log_probabilities(tau), decoded.log_probabilities(tau)
        full[f"{tau:g}"] = _sum(_divergence(logp_NC, logq_NC))
        match decoded:
            case DenseLabels():
                bucket[f"{tau:g}"] = full[f"{tau:g}"]
            case SparseLabels():
                bucket[f"{tau:g}"] = _sum(_bucket_divergence(logp_NC, decoded, tau))
    tau = smallest_temperature(decoded)
    error = np.abs(np.exp(exact.log_probabilities(tau)) - np.exp(decoded.log_probabilities(tau)))
    return UnitStatistics(
        fidelity_rows=len(exact_NC),
        full_kl_sums=full,
        bucket_kl_sums=bucket,
        top1_agreements=int((exact_NC.argmax(axis=1) == decoded.top1()).sum()),
        largest_error=float(error.max()),
    )


def merge(parts: Iterable[UnitStatistics]) -> UnitStatistics:
    """Statistics of all rows of the parts.

    Raises StoreError if they speak of different numbers of classes, or overflow.
    """
    items = list(parts)
    counts = [item.top1_counts for item in items if item.top1_counts]
    if len(lengths := {len(item) for item in counts}) > 1:
        raise StoreError(
            f"statistics of units speak of {' and '.join(map(str, sorted(lengths)))} classes: one is damaged"
        )
    try:
        return UnitStatistics(
            rows=sum(item.rows for item in items),
            labels=sum(item.labels for item in items),
            entries=sum(item.entries for item in items),
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
    except ValidationError as error:
        raise StoreError(f"statistics of units do not add up ({error.errors()[0]['msg']}): one is damaged") from None


def _divergence(logp: np.ndarray, logq: np.ndarray) -> np.ndarray:
    """KL(p || q) of each row; a class without probability adds nothing."""
    p = np.exp(logp)
    difference = np.where(p > 0, logp, 0.0) - np.where(p > 0, logq, 0.0)
    return np.asarray((p * difference).sum(axis=-1))


def _bucket_divergence(logp_NC: np.ndarray, decoded: SparseLabels, tau: float) -> np.ndarray:
    """KL over the kept classes and one bucket. The bucket's exact mass is summed from its classes, not from 1."""
    rows, columns = np.nonzero(decoded.ids >= 0)
    ids = decoded.ids[rows, columns]
    kept, tail_q = decoded.bucket_log_probabilities(tau)
    exact = np.full(kept.shape, -np.inf)
    exact[rows, columns] = logp_NC[rows, ids]
    rest = np.exp(logp_NC)
    rest[rows, ids] = 0.0
    with np.errstate(divide="ignore"):
        tail_p = np.log(rest.sum(axis=1))
    return _divergence(np.column_stack([exact, tail_p]), np.column_stack([kept, tail_q]))


def _merge_sums(sums: list[dict[str, float]]) -> dict[str, float]:
    names = dict.fromkeys(name for item in sums for name in item)
    return {name: sum(item.get(name, 0.0) for item in sums) for name in names}


def _sum(values: np.ndarray) -> float:
    """Sum of values that are at least 0 but for rounding."""
    return float(max(values.sum(dtype=np.float64), 0.0))


def label_bytes(manifest: SetManifest) -> int:
    """Bytes of a set's labels: all that its units hold but for ids and exact rows."""
    samples, statistics = manifest.rows * manifest.views.count, manifest.statistics
    cells = samples if manifest.label_schema.shape.kind == "pixel" else statistics.labels
    rows = {"sample": samples, "label": cells, "entry": statistics.entries}
    return sum(field.bytes_per_row * rows[field.per] for field in manifest.label_schema.fields)
