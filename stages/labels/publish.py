"""Copying a label set from one store to another: publishing, and pulling.

In the order in which a set is made: the plan, what units share, units each under a new attempt's name with its receipt
last, then index and `set.json`. So a copy can be interrupted, repeated and raced like labelling. Every object is
verified as it is read, and its size as it lies in the target. The root digest is the same; what the target has already
is not copied again.
"""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

from schemas.errors import StoreError
from schemas.labels import SetManifest, SetPlan, UnitPlan
from stages.labels.bases import read_basis, write_basis
from stages.labels.reader import LabelSet
from stages.labels.store import IndexedUnit, Store, fidelity_labels, fidelity_threshold
from stages.labels.unit import settled
from stages.places import Place, new_attempt
from stages.progress import Told

UNITS_AT_ONCE = 4


def copy_set(source: LabelSet, place: Place, told: Told | None = None) -> SetManifest:
    """The set in the store at `place` (made if there is none); `told` is called with units done and in all.

    Raises StoreError if an object of the source is damaged, or the target holds other labels under the same keys.
    """
    target = Store.find(place) or Store.create(place)
    fingerprint = source.fingerprint
    known = target.manifest(fingerprint)
    if known is not None and known.digest == source.digest:
        return known
    if known is not None:
        raise StoreError(
            f"{place.uri} has another set under fingerprint {fingerprint} (root digest {known.digest}, not "
            f"{source.digest}): publish to another store"
        )
    plan = plan_of(source)
    target.commit_plan(plan)
    if source.schema.basis is not None:
        write_basis(place, read_basis(source.store.place, source.schema.basis))
    with ThreadPoolExecutor(UNITS_AT_ONCE, "copy") as pool:
        copies = [pool.submit(_copy_unit, source, unit, target) for unit in source.units]
        try:
            for done, copy in enumerate(copies, 1):
                copy.result()
                if told is not None:
                    told(done, len(copies))
        finally:
            pool.shutdown(wait=True, cancel_futures=True)
    receipts = target.receipts(plan)
    return target.commit_set(plan, receipts, source.about())


def plan_of(labels: LabelSet) -> SetPlan:
    """The plan that a finished set was made by, as its manifest and index tell it."""
    manifest, units = labels.manifest, labels.units
    rows = sum(unit.receipt.rows for unit in units)
    return SetPlan(
        fingerprint=manifest.fingerprint,
        label_schema=manifest.label_schema,
        views=manifest.views,
        units=tuple(
            UnitPlan(
                key=unit.receipt.key,
                shard=unit.shard,
                shard_digest=unit.shard_digest,
                view=unit.view,
                rows=unit.receipt.rows,
            )
            for unit in units
        ),
        fidelity_threshold=fidelity_threshold(rows),
        fidelity_labels=fidelity_labels(manifest.label_schema, rows),
        provenance=manifest.provenance,
        parents=manifest.parents,
    )


def _copy_unit(source: LabelSet, unit: IndexedUnit, target: Store) -> None:
    receipt, place = unit.receipt, source.store.place
    there = target.receipt(receipt.key)
    if there is None:
        attempt = new_attempt()
        folder = target.unit_folder(receipt.key, attempt)
        with target.place.writing(folder) as path:
            for item in receipt.objects:
                name = f"{source.store.unit_folder(receipt.key, receipt.attempt)}/{item.name}"
                copy = path / item.name
                copy.parent.mkdir(parents=True, exist_ok=True)
                try:
                    place.download(name, copy)
                except FileNotFoundError:
                    raise StoreError(f"{place.uri}/{name} is missing: nothing was published of this unit") from None
            found = {item.name: item for item in settled(path)}
            for item in receipt.objects:
                if found.get(item.name) != item:
                    name = f"{source.store.unit_folder(receipt.key, receipt.attempt)}/{item.name}"
                    raise StoreError(f"{place.uri}/{name} is damaged: nothing was published of this unit")
        sizes = {name: stat.size for name, stat in (target.place / folder).stats().items()}
        if sizes != {item.name: item.size for item in receipt.objects}:
            raise StoreError(f"{target.place.uri}/{folder} did not arrive whole: publish again")
        there = target.commit_unit(receipt.model_copy(update={"attempt": attempt}))
    if sorted((item.name, item.checksum) for item in there.objects) != sorted(
        (item.name, item.checksum) for item in receipt.objects
    ):
        raise StoreError(
            f"{target.place.uri} holds other labels under the key of unit {receipt.key}: the teacher was asked twice "
            "and did not say the same to the bit. Publish to another store"
        )
