"""Where two label sets differ: agreement and divergence over the samples that both speak of, and the worst of them.

Bounded in memory by a batch, but for ids and one figure a sample. Nothing is written.

Shapes: N common samples, B of a batch, C classes.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from schemas.errors import StoreError
from stages.classes import class_columns
from stages.labels.alignment import as_bytes, positions_of
from stages.labels.reader import LabelSet

BATCH = 4096
WORST = 10
"""Samples that are shown."""


@dataclass(frozen=True)
class ClassDifference:
    """The samples that the first set gives to one class."""

    name: str
    samples: int
    agreement: float
    """Share of them that the second set gives to the same class."""
    kl: float
    """Mean KL (first || second), nats."""


@dataclass(frozen=True)
class Difference:
    """What two sets say about the same samples."""

    temperature: float
    common: int
    """Samples that both speak of."""
    only_first: int
    only_second: int
    other_content: int
    """Common ids whose content differs, where both know it; they are compared all the same."""
    agreement: float
    """Share of equal most likely classes."""
    kl: float
    """Mean KL (first || second), nats."""
    kl_back: float
    """Mean KL (second || first), nats."""
    classes: tuple[ClassDifference, ...]
    worst: tuple[tuple[str, float], ...]
    """Ids that differ most, with the sum of both KL."""

    def dump(self) -> dict[str, Any]:
        """As plain values."""
        return asdict(self)


def diff_sets(first: LabelSet, second: LabelSet, temperature: float = 1.0) -> Difference:
    """Compare view 0 of two sets by sample id. Raises StoreError where there is nothing to compare.

    Classes in another order are put in the first set's. A KL is infinite where one set excludes what the other allows.
    """
    for labels in (first, second):
        if labels.schema.shape.kind != "sample":
            raise StoreError(
                f"label set {labels.fingerprint[:12]} has labels per {labels.schema.shape.kind}, and only those per "
                "sample are compared"
            )
    names = (f"label set {second.fingerprint[:12]}", f"set {first.fingerprint[:12]}")
    columns = class_columns(second.classes, first.classes, *names)
    units = range(len(first.offsets) - 1)
    ids = as_bytes([item for unit in units for item in first.sample_ids(unit)])
    theirs, missing = positions_of(second, ids)
    ours = np.flatnonzero(~missing)
    if not len(ours):
        raise StoreError(f"the sets have no sample in common ({first.rows:,} and {second.rows:,} samples)")
    theirs = theirs[ours]
    kl, back, top, same = _compared(first, second, ours, theirs, columns, temperature)
    classes = []
    for number, name in enumerate(first.classes):
        rows = top == number
        if rows.any():
            classes.append(ClassDifference(name, int(rows.sum()), float(same[rows].mean()), float(kl[rows].mean())))
    worst = np.argsort(-(kl + back), kind="stable")[:WORST]
    return Difference(
        temperature=temperature,
        common=len(ours),
        only_first=int(missing.sum()),
        only_second=second.rows - len(ours),
        other_content=_other_content(first, second, ours, theirs),
        agreement=float(same.mean()),
        kl=float(kl.mean()),
        kl_back=float(back.mean()),
        classes=tuple(classes),
        worst=tuple((ids[ours[row]].decode(), float(kl[row] + back[row])) for row in worst),
    )


def _compared(
    first: LabelSet,
    second: LabelSet,
    ours: np.ndarray,
    theirs: np.ndarray,
    columns: np.ndarray | None,
    temperature: float,
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """(KL, KL back, most likely class of the first set, whether the second has the same), each (N,)."""
    parts = []
    for start in range(0, len(ours), BATCH):
        rows = slice(start, start + BATCH)
        p = first.decode(first.gather(ours[rows])).log_probabilities(temperature).astype(np.float64)
        q = second.decode(second.gather(theirs[rows])).log_probabilities(temperature).astype(np.float64)
        q = q if columns is None else q[:, columns]
        parts.append((_kl(p, q), _kl(q, p), p.argmax(axis=1), p.argmax(axis=1) == q.argmax(axis=1)))
    kl, back, top, same = (np.concatenate(column) for column in zip(*parts, strict=True))
    return kl, back, top, same


def _kl(p: np.ndarray, q: np.ndarray) -> np.ndarray:
    """KL (p || q) (B,) of log-probabilities (B, C); classes without mass in p add nothing."""
    with np.errstate(invalid="ignore"):
        terms = np.where(np.isneginf(p), 0.0, np.exp(p) * (p - q))
    return np.asarray(np.maximum(terms.sum(axis=1), 0.0))


def _other_content(first: LabelSet, second: LabelSet, ours: np.ndarray, theirs: np.ndarray) -> int:
    one, other = (
        np.concatenate([labels.content_ids(unit) for unit in range(len(labels.offsets) - 1)])[rows]
        for labels, rows in ((first, ours), (second, theirs))
    )
    known = one.any(axis=1) & other.any(axis=1)
    return int(((one != other).any(axis=1) & known).sum())
