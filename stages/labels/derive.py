"""Label sets made without a teacher: a smaller encoding of a set that exists.

An ordinary set in every way: planned, made unit by unit (memory is that of a unit), resumed by its receipts, safe with
two writers, adopted where it stands. Its units are keyed by the parent's root digest, which stands in its provenance.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from schemas.artifacts import Provenance
from schemas.canonical import digest, identity
from schemas.encodings import Dense, Encoding, LowRank
from schemas.errors import StoreError
from schemas.labels import LabelSchema, Receipt, SetManifest, SetPlan, UnitPlan
from stages.artifacts import package_version
from stages.labels.bases import basis_rows, make_basis
from stages.labels.builder import How, Said, UnitBuilder, exact_rows, hashes
from stages.labels.encodings import BOX, ITEMS, SCORE, check_schema, extras_of, label_schema
from stages.labels.reader import LabelSet
from stages.labels.sets import basis_key, check_rank, planned, write_set
from stages.labels.store import Store, fidelity_threshold, unit_key
from stages.places import Place
from stages.progress import Told

VERSION = 1
"""Counts in the keys of what is made here: raised when the same parent would give other bytes."""
BATCH = 4096
"""Samples that are encoded at once."""


def encode_set(labels: LabelSet, encoding: Encoding, place: Place, told: Told) -> SetManifest:
    """The same labels in another encoding, in the store at `place` (made if there is none).

    Fidelity is measured against the teacher's exact outputs, which the parent kept. Raises StoreError for a parent
    that does not hold a logit for every class, before anything is written.
    """
    parent = labels.schema
    if not isinstance(parent.encoding, (Dense, LowRank)):
        raise StoreError(
            f"label set {labels.fingerprint[:12]} is {parent.encoding.kind}, which does not hold every class: encode "
            "the dense set that it was made from, or ask its teacher again"
        )
    store = Store.find(place)
    how = {"stage": "encode", "version": VERSION}
    basis = None
    if isinstance(encoding, LowRank) and labels.rows:
        check_rank(encoding, len(labels.classes))
        store = store or Store.create(place)
        key = basis_key(labels.digest, how, labels.classes, encoding, labels.units[0].shard_digest)
        basis = make_basis(store.place, key, encoding.rank, lambda: _sampled(labels, basis_rows(encoding.rank)))
    schema = label_schema(labels.classes, encoding, parent.shape, basis=basis)
    schema = schema.model_copy(update={"fields": (*schema.fields, *extras_of(parent))})
    check_schema(schema, f"{encoding.kind} labels beside the fields of set {labels.fingerprint[:12]}")
    store = store or Store.create(place)
    plan = _plan(labels, schema, how)
    making = How(schema, "float32", BATCH, plan.fidelity_threshold, plan.fidelity_labels, basis)

    numbers = {unit.key: number for number, unit in enumerate(plan.units)}

    def write(unit: UnitPlan) -> Receipt:
        return _encoded(labels, numbers[unit.key], unit, making).write(store)

    return write_set(store, plan, write, labels.about(), told)


def _plan(labels: LabelSet, schema: LabelSchema, how: dict[str, Any]) -> SetPlan:
    views = labels.manifest.views
    units = tuple(
        UnitPlan(
            key=unit_key(labels.digest, how, schema, views, unit.view, unit.shard_digest),
            shard=unit.shard,
            shard_digest=unit.shard_digest,
            view=unit.view,
            rows=unit.receipt.rows,
        )
        for unit in labels.units
    )
    asked = {**how, "parent": labels.digest, "encoding": identity(schema.encoding)}
    task = labels.manifest.provenance.inputs.get("task")
    made = labels.manifest.provenance.code
    provenance = Provenance(package=package_version(), inputs=asked | ({"task": task} if task else {}), code=made)
    return planned(digest(asked), schema, units, provenance, views, parents=(labels.digest,))


def _encoded(labels: LabelSet, number: int, unit: UnitPlan, how: How) -> UnitBuilder:
    """One unit of the parent in the child's encoding."""
    builder = UnitBuilder(how, unit, labels.sample_ids(number), labels.content_ids(number))
    arrays, offsets = labels.mapped(number)
    measured, exact_MC = labels.exact(number)
    statistics = labels.units[number].receipt.statistics
    unmapped = statistics.unmapped_mass_sum / max(1, statistics.labels)
    given = {BOX, SCORE} | {field.name for field in extras_of(labels.schema)} - {"entropy", "margin"}
    first = 0
    for rows in builder.batches():
        part = labels.layout.cut(arrays, offsets, rows.start, rows.stop)
        logits_NC = labels.decode(part).dense()
        exact = np.searchsorted(measured, [first, first + len(logits_NC)])
        truth_NC = logits_NC.copy()
        truth_NC[measured[slice(*exact)] - first] = exact_MC[slice(*exact)]
        first += len(logits_NC)
        shape = how.schema.shape
        builder.add(
            rows,
            Said(
                logits_NC.reshape(rows.stop - rows.start, *shape.grid, -1) if shape.grid else logits_NC,
                items=np.asarray(part[ITEMS]) if shape.ragged else None,
                unmapped=np.full(len(logits_NC), unmapped),
                extras={name: values for name, values in part.items() if name in given},
                exact=truth_NC,
            ),
        )
    return builder


def _sampled(labels: LabelSet, rows: int) -> np.ndarray:
    """Logits (N, C) of some samples by hash, for a basis."""
    found = []
    threshold = fidelity_threshold(labels.rows, rows)
    for number in range(len(labels.offsets) - 1):
        keys = hashes(labels.sample_ids(number), np.ascontiguousarray(labels.content_ids(number)))
        chosen = np.flatnonzero(exact_rows(keys, threshold))
        arrays, offsets = labels.mapped(number)
        found.append(labels.decode(labels.layout.take(arrays, offsets, chosen)).dense())
    return np.concatenate(found)
