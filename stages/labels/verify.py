"""Is a label set whole? Every document against every other, and every object by name, size and, if asked, by its bytes.

Shallow: three documents, one listing a unit. Deep: all bytes (about 1 s per GB), ids, receipts, and the fidelity worked
out again from the exact rows.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import numpy as np

from schemas.errors import ContractError, PlaceError, StoreError
from schemas.labels import SetPlan, UnitStatistics
from stages.artifacts import read_document
from stages.labels.publish import plan_of
from stages.labels.reader import LabelSet
from stages.labels.statistics import fidelity
from stages.labels.unit import CONTENT_ID, SAMPLE_ID
from stages.places import checksum
from stages.progress import Told

UNITS_AT_ONCE = 8
TOLERANCE = 1e-4
"""Relative difference of recomputed fidelity: sums of float64 over decoded float32 on another machine."""


def verify(labels: LabelSet, deep: bool = False, told: Told | None = None) -> list[str]:
    """One sentence per fault of a set that could be opened; none if it is whole.

    Opening has compared set.json, the index and the root digest already (it raises).
    """
    problems = [*_documents(labels)]
    with ThreadPoolExecutor(UNITS_AT_ONCE, "verify") as pool:
        checks = pool.map(lambda number: list(_unit(labels, number, deep)), range(len(labels.units)))
        for done, found in enumerate(checks, 1):
            problems += found
            if told is not None:
                told(done, len(labels.units))
    if deep and not problems:
        for number in range(len(labels.units)):
            problems += _content(labels, number)
    return problems


def _documents(labels: LabelSet) -> Iterator[str]:
    """Faults of what lies beside the manifest."""
    place, folder = labels.store.place, labels.store.set_folder(labels.fingerprint)
    seen = labels.manifest.origin.seen
    known = {"set.json", "plan.json", labels.manifest.index.name, *(() if seen is None else (seen.object.name,))}
    for name in sorted({item.split("/")[0] for item in (place / folder).stats()} - known):
        yield f"{place.uri}/{folder}/{name} belongs to no set"
    try:
        labels.seen()
    except StoreError as error:
        yield str(error)
    try:
        plan = read_document(place, f"{folder}/plan.json", SetPlan, "labels")
        if plan is None:
            yield f"{place.uri}/{folder}/plan.json is missing: readers do not need it, copies are made without it"
        elif plan != plan_of(labels):
            yield f"{place.uri}/{folder}/plan.json plans another set: it was edited"
    except (StoreError, ContractError) as error:
        yield str(error)


def _unit(labels: LabelSet, number: int, deep: bool) -> Iterator[str]:
    """Faults of one unit's objects."""
    receipt, store = labels.units[number].receipt, labels.store
    folder = store.unit_folder(receipt.key, receipt.attempt)
    where = f"{store.place.uri}/{folder}"
    found = (store.place / folder).stats()
    listed = {item.name: item for item in receipt.objects}
    for name in sorted(found.keys() - listed.keys()):
        yield f"{where}/{name} is listed in no receipt"
    for name, item in listed.items():
        if name not in found:
            yield f"{where}/{name} is missing"
        elif found[name].size != item.size:
            yield f"{where}/{name} has {found[name].size} bytes, its receipt says {item.size}"
        elif deep and checksum(store.place.read(f"{folder}/{name}")) != item.checksum:
            yield f"{where}/{name} is damaged: its checksum is another"
    if not deep:
        return
    try:
        own = store.receipt(receipt.key)
        if own is None:
            yield f"{store.place.uri}/units/{receipt.key}/receipt.json is missing: readers do not need it, writers do"
        elif own != receipt:
            yield f"{store.place.uri}/units/{receipt.key}/receipt.json is not the one that the set lists"
    except (StoreError, ContractError, PlaceError) as error:
        yield str(error)


def _content(labels: LabelSet, number: int) -> Iterator[str]:
    """Faults of what whole objects say."""
    receipt = labels.units[number].receipt
    where = f"{labels.store.place.uri}/{labels.store.unit_folder(receipt.key, receipt.attempt)}"
    try:
        labels.check_ids(number)
        places, exact_MC = labels.exact(number)
        decoded = labels.decode(labels.read(number))
        again = fidelity(exact_MC, decoded.rows(places.astype(np.int64)))
    except StoreError as error:
        yield str(error)
        return
    except (IndexError, UnicodeDecodeError) as error:
        yield f"{where}: {SAMPLE_ID}, {CONTENT_ID} or its exact rows speak of rows that it has not ({error})"
        return
    if not _alike(again, receipt.statistics):
        yield f"{where}: its fidelity, worked out again, is not what its receipt says: one of them was edited"


def _alike(again: UnitStatistics, told: UnitStatistics) -> bool:
    """Whether two measurements are of the same labels."""
    sums = [(again.full_kl_sums, told.full_kl_sums), (again.bucket_kl_sums, told.bucket_kl_sums)]
    counts = (again.fidelity_rows, again.top1_agreements) == (told.fidelity_rows, told.top1_agreements)
    return counts and all(
        one.keys() == other.keys()
        and all(math.isclose(one[tau], other[tau], rel_tol=TOLERANCE, abs_tol=1e-6) for tau in one)
        for one, other in sums
    )
