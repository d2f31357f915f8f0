"""A unit in the making: what a teacher says, batch by batch, as arrays to write and statistics of them.

Holds the unit as stored; float32 outputs live for a batch, but for those of the rows that fidelity is measured on.

Shapes: B samples of a batch, N labels of them (N = B but for tokens, pixels and boxes), C classes, M measured labels.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from schemas.canonical import digest_bytes
from schemas.encodings import Encoding
from schemas.errors import DataError, ModelError
from schemas.labels import LAYOUT, LabelSchema, Receipt, UnitPlan, UnitStatistics, Views
from stages.labels.decoded import DenseLabels
from stages.labels.encodings import ITEMS, KEPT, Basis, codec_of
from stages.labels.layout import Layout
from stages.labels.statistics import fidelity, label_statistics, merge
from stages.labels.store import FIDELITY_SCALE, Store
from stages.labels.unit import (
    CONTENT_ID,
    FIDELITY_ITEM,
    FIDELITY_LOGITS,
    FIDELITY_POSITION,
    SAMPLE_ID,
    encode_ids,
    ids_digest,
    write_unit,
)
from stages.places import new_attempt
from stages.random import counters, uniform

AT_ONCE = 2**22
"""Logits that are encoded at once: what bounds the memory of large vocabularies and grids."""


@dataclass(frozen=True)
class How:
    """What all units of a set have in common."""

    schema: LabelSchema
    precision: str = "float32"
    batch_size: int = 256
    fidelity_threshold: int = FIDELITY_SCALE
    fidelity_labels: int = 1
    basis: Basis | None = None
    views: Views = field(default_factory=Views)


@dataclass(frozen=True)
class Said:
    """What is said about B samples."""

    logits: np.ndarray
    """Float32 (B, C); (B, rows, columns, C) for a grid; (N, C) for tokens and boxes."""
    items: np.ndarray | None = None
    """Labels of each sample (B,), for tokens and boxes only."""
    unmapped: np.ndarray | None = None
    """Probability (N,) on classes that a class map leaves out; none: 0."""
    extras: Mapping[str, np.ndarray] = field(default_factory=dict)
    """The schema's fields that neither the encoding nor the logits give (features; box and score)."""
    exact: np.ndarray | None = None
    """Float32 (N, C) that fidelity is measured against, where the logits are themselves read from stored labels."""


class UnitBuilder:
    """The arrays of one unit. `add` is called in the order of the rows, then `finish` once."""

    def __init__(self, how: How, unit: UnitPlan, sample_ids: list[str], content_ids: np.ndarray) -> None:
        if not len(sample_ids) == len(content_ids) == unit.rows:
            raise DataError(f"shard '{unit.shard}' has {len(sample_ids)} rows, {unit.rows} are planned: plan again")
        self._how, self._unit, self._sample_ids = how, unit, sample_ids
        self._content_ids = np.ascontiguousarray(content_ids)
        self._classes = len(how.schema.classes)
        self._codec = codec_of(how.schema.encoding, self._classes, how.basis)
        self._layout = Layout(how.schema)
        self._hashes = hashes(sample_ids, self._content_ids)
        self._measured = exact_rows(self._hashes, how.fidelity_threshold)
        self._parts: dict[str, list[np.ndarray]] = {name: [] for name in self._layout.names}
        self._exact: list[tuple[np.ndarray, np.ndarray, np.ndarray]] = []
        self._statistics: list[UnitStatistics] = [UnitStatistics(rows=unit.rows)]

    def batches(self) -> list[slice]:
        """Rows of each batch; the last one may be short."""
        rows, size = self._unit.rows, self._how.batch_size
        return [slice(start, min(start + size, rows)) for start in range(0, rows, size)]

    def add(self, rows: slice, said: Said) -> None:
        """Encode what is said about some rows. Raises ModelError for outputs that are not finite or do not fit."""
        logits_NC, items_B = self._checked(rows, said)
        owner_N = np.repeat(np.arange(rows.start, rows.stop), items_B)
        item_N = np.arange(len(owner_N)) - np.repeat(np.cumsum(items_B) - items_B, items_B)
        unmapped_N = np.zeros(len(owner_N)) if said.unmapped is None else said.unmapped.reshape(-1)
        self._check_finite(owner_N, logits_NC)
        if self._layout.ragged_labels:
            self._parts[ITEMS].append(items_B.astype("<u4"))
        chosen_N = self._chosen(owner_N, item_N)
        exact_NC = logits_NC if said.exact is None else said.exact
        size = max(1, AT_ONCE // self._classes)
        for start in range(0, len(owner_N), size):
            part = slice(start, start + size)
            self._encode(owner_N[part], item_N[part], logits_NC[part], exact_NC[part], unmapped_N[part], chosen_N[part])
        for name, values in said.extras.items():
            stored = self._layout.fields[name]
            with np.errstate(over="ignore"):  # what does not fit is infinite, and said so
                kept = np.ascontiguousarray(values, dtype=stored.dtype).reshape(-1, *stored.shape)
            if not np.isfinite(kept).all():
                raise ModelError(
                    f"the teacher's {name} for shard '{self._unit.shard}' are not finite as {stored.dtype}: store them "
                    "as float32, or check the teacher"
                )
            self._parts[name].append(kept)

    def write(self, store: Store) -> Receipt:
        """Write the unit as a new attempt; the receipt that makes it exist is to be committed."""
        arrays, statistics = self.finish()
        encoding = self._how.schema.encoding
        return write_arrays(store, self._unit, encoding, self._sample_ids, self._content_ids, arrays, statistics)

    def finish(self) -> tuple[dict[str, np.ndarray], UnitStatistics]:
        """Arrays to write, and their statistics."""
        fields = self._layout.fields
        arrays = {
            name: np.concatenate([np.empty((0, *self._flat_shape(name)), field.dtype), *self._parts[name]])
            for name, field in fields.items()
        }
        arrays = {
            name: values.reshape(-1, *fields[name].shape) if fields[name].per == "label" else values
            for name, values in arrays.items()
        }
        self._layout.check(arrays, self._unit.rows, f"unit {self._unit.key}")
        owner, item, logits = (
            (np.concatenate(column) for column in zip(*self._exact, strict=True))
            if self._exact
            else (np.empty(0), np.empty(0), np.empty((0, self._classes)))
        )
        beside = {
            FIDELITY_POSITION: owner.astype("<i4"),
            FIDELITY_LOGITS: logits.astype("<f4", copy=False),
        }
        if self._how.schema.shape.kind != "sample":
            beside[FIDELITY_ITEM] = item.astype("<i4")
        entries = int(arrays[KEPT].sum(dtype=np.int64)) if KEPT in arrays else 0
        return arrays | beside, merge([*self._statistics, UnitStatistics(entries=entries)])

    def _encode(
        self,
        owner_N: np.ndarray,
        item_N: np.ndarray,
        logits_NC: np.ndarray,
        exact_NC: np.ndarray,
        unmapped_N: np.ndarray,
        chosen_N: np.ndarray,
    ) -> None:
        """Encode some labels, and measure those that are chosen for it."""
        encoded = self._codec.encode(logits_NC, counters(self._hashes[owner_N], item_N))
        decoded = self._codec.decode(encoded)
        self._statistics.append(label_statistics(decoded, self._classes, unmapped_N))
        for name, values in (encoded | difficulty(logits_NC, self._layout.names)).items():
            self._parts[name].append(values)
        chosen = np.flatnonzero(chosen_N)
        if len(chosen):
            self._exact.append((owner_N[chosen], item_N[chosen], exact_NC[chosen]))
            self._statistics.append(fidelity(exact_NC[chosen], decoded.rows(chosen)))

    def _chosen(self, owner_N: np.ndarray, item_N: np.ndarray) -> np.ndarray:
        """Mask of the labels that are measured: of each measured sample the first few by hash."""
        chosen_N: np.ndarray = self._measured[owner_N]
        if self._how.schema.shape.kind == "sample":
            return chosen_N
        among = np.flatnonzero(chosen_N)
        owner = owner_N[among]
        drawn = uniform(counters(self._hashes[owner], item_N[among]), 1, "fidelity")[:, 0]
        order = np.lexsort((drawn, owner))
        begins = np.flatnonzero(np.r_[True, owner[order][1:] != owner[order][:-1]]) if len(order) else order
        place = np.arange(len(order)) - np.repeat(begins, np.diff(np.r_[begins, len(order)]))
        chosen_N[among[order[place >= self._how.fidelity_labels]]] = False
        return chosen_N

    def _flat_shape(self, name: str) -> tuple[int, ...]:
        """Shape of one label's row of an array (a cell of a grid)."""
        stored = self._layout.fields[name]
        return stored.shape[len(self._how.schema.shape.grid) :] if stored.per == "label" else stored.shape

    def _checked(self, rows: slice, said: Said) -> tuple[np.ndarray, np.ndarray]:
        """(logits (N, C), labels of each sample (B,))."""
        shape, samples = self._how.schema.shape, rows.stop - rows.start
        if foreign := sorted(set(said.extras) - set(self._parts)):
            raise ModelError(f"the teacher says {', '.join(foreign)}, which the label schema does not hold")
        if shape.ragged:
            items = np.asarray(said.items if said.items is not None else (), np.int64)
            if (
                items.shape != (samples,)
                or items.min(initial=0) < 0
                or said.logits.shape != (items.sum(), self._classes)
            ):
                raise ModelError(
                    f"the teacher gave {said.logits.shape} logits for {items.sum()} {shape.kind}s of {samples} samples "
                    f"and {self._classes} classes"
                )
            return said.logits, items
        expected = (samples, *shape.grid, self._classes)
        if said.logits.shape != expected:
            raise ModelError(
                f"the teacher gave outputs of shape {said.logits.shape} for {samples} samples of {self._classes} "
                f"classes: its model must return one logit per class and {shape.kind}"
            )
        return said.logits.reshape(-1, self._classes), np.full(samples, self._layout.cells)

    def _check_finite(self, owner_N: np.ndarray, logits_NC: np.ndarray) -> None:
        finite = np.isfinite(logits_NC).all(axis=1)
        if not finite.all():
            bad = int(owner_N[finite.argmin()])
            raise ModelError(
                f"the teacher's output for sample {self._sample_ids[bad]!r} (row {bad} of shard "
                f"'{self._unit.shard}') is not finite: check the teacher, or label with `precision: float32`"
            )


def write_arrays(
    store: Store,
    unit: UnitPlan,
    encoding: Encoding,
    sample_ids: Sequence[str],
    content_ids: np.ndarray,
    arrays: Mapping[str, np.ndarray],
    statistics: UnitStatistics,
) -> Receipt:
    """Write a unit's arrays and ids as a new attempt; the receipt that makes it exist is to be committed."""
    attempt = new_attempt()
    objects = write_unit(
        store.place,
        store.unit_folder(unit.key, attempt),
        {**arrays, CONTENT_ID: content_ids, SAMPLE_ID: encode_ids(sample_ids)},
        {"crossdistill": {"layout": LAYOUT, "unit": unit.key, "encoding": encoding.dump()}},
    )
    return Receipt(
        key=unit.key,
        attempt=attempt,
        rows=unit.rows,
        ids_digest=ids_digest(sample_ids, content_ids),
        objects=objects,
        statistics=statistics,
    )


def hashes(sample_ids: Sequence[str], content_ids: np.ndarray) -> np.ndarray:
    """What draws by hash go by, uint8 (N, 16): the content id, or where it is not known (zeros) that of the name."""
    unknown = np.flatnonzero(~content_ids.any(axis=1))
    if not len(unknown):
        return content_ids
    answer = content_ids.copy()
    for row in unknown.tolist():
        answer[row] = np.frombuffer(bytes.fromhex(digest_bytes(sample_ids[row].encode())), np.uint8)
    return answer


def exact_rows(content_ids: np.ndarray, threshold: int) -> np.ndarray:
    """Mask (N,) of the samples that are measured: the first 32 bits of the content id lie below the threshold."""
    if threshold >= FIDELITY_SCALE:
        return np.ones(len(content_ids), bool)
    bits = np.ascontiguousarray(content_ids[:, :4]).view("<u4").ravel()
    mask: np.ndarray = bits < threshold
    return mask


def difficulty(logits_NC: np.ndarray, names: tuple[str, ...]) -> dict[str, np.ndarray]:
    """How hard each label (N,) is by the teacher's own word, at temperature 1: those of the measures that are named.

    entropy in nats; margin between the two largest probabilities (1 where there is one class).
    """
    wanted = [name for name in ("entropy", "margin") if name in names]
    if not wanted:
        return {}
    logp = DenseLabels(logits_NC).log_probabilities()
    p = np.exp(logp)
    two = np.partition(p, -2, axis=1)[:, -2:] if p.shape[1] > 1 else np.column_stack([np.zeros(len(p)), p])
    every = {"entropy": -(p * np.where(p > 0, logp, 0.0)).sum(axis=1), "margin": two[:, 1] - two[:, 0]}
    return {name: every[name].astype("<f4") for name in wanted}
