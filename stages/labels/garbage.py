"""What a store can lose: attempts that lost, sets that somebody takes away, and units that no set needs.

Safe beside live writers: an attempt whose unit has another's receipt can never win. Units that no finished set and
no plan lists are removed only when told (`unreachable`), since a writer may be about to adopt them; so are attempts
without a receipt (`unfinished`), which may be somebody's work.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from schemas.errors import ContractError, StoreError
from schemas.labels import SetPlan
from stages.artifacts import read_document
from stages.labels.index import from_parquet
from stages.labels.store import Store
from stages.places import Place


@dataclass
class Garbage:
    """What was found, and removed unless it was a dry run."""

    attempts: list[str] = field(default_factory=list)
    """Folders of attempts that lost, or that nobody finished."""
    units: list[str] = field(default_factory=list)
    """Folders of units that nothing lists."""
    bytes: int = 0
    """Size of all that."""
    kept: list[str] = field(default_factory=list)
    """Sentences on what could not be judged, and was kept."""


def collect(store: Store, dry_run: bool = False, unfinished: bool = False, unreachable: bool = False) -> Garbage:
    """Remove what a store does not need. One listing of the store and one small read a unit and set.

    `unfinished` also takes what a killed process left while it wrote a document.
    """
    place, found = store.place, Garbage()
    sizes = {name: stat.size for name, stat in place.stats().items()}
    units = _attempts(place, sizes)  # before the plans: a unit whose plan came later is not judged
    listed, planned = _listed(store, found)
    blind = bool(found.kept)
    for name in sizes:
        if unfinished and name.rpartition("/")[2].startswith(".tmp-"):
            _remove(store, name, found.attempts, found, sizes, dry_run)
    for key, attempts in sorted(units.items()):
        try:
            receipt = store.receipt(key)
        except (StoreError, ContractError) as error:
            found.kept.append(str(error))
            continue
        if unreachable and not blind and key not in listed and key not in planned:
            if not dry_run:
                place.remove(f"units/{key}/receipt.json")
            _remove(store, f"units/{key}", found.units, found, sizes, dry_run)
            continue
        safe = {*listed.get(key, ()), *(() if receipt is None else (receipt.attempt,))}
        if receipt is None and not unfinished:
            continue
        if blind and key not in listed:
            continue
        for attempt in sorted(attempts - safe):
            _remove(store, f"units/{key}/{attempt}", found.attempts, found, sizes, dry_run)
    return found


def remove_set(store: Store, fingerprint: str) -> None:
    """Take a set away: `set.json` first, so that no reader finds half a set. Its units stay until they are collected.

    Raises StoreError if a tag still means it.
    """
    from stages.labels.tags import all_tags

    names = [name for name, (_, tag) in all_tags(store.place).items() if tag.fingerprint == fingerprint]
    if names:
        raise StoreError(f"label set {fingerprint} is tagged {', '.join(names)}: give the tag to another set first")
    folder = store.set_folder(fingerprint)
    store.place.remove(f"{folder}/set.json")
    store.place.remove(folder)


def _listed(store: Store, found: Garbage) -> tuple[dict[str, set[str]], set[str]]:
    """(attempts that finished sets list, by unit; units that plans list). What cannot be read is told."""
    listed: dict[str, set[str]] = {}
    planned: set[str] = set()
    for fingerprint in store.place.names("sets"):
        folder = store.set_folder(fingerprint)
        try:
            plan = read_document(store.place, f"{folder}/plan.json", SetPlan, "labels")
            planned |= set() if plan is None else {unit.key for unit in plan.units}
            manifest = store.manifest(fingerprint)
            if manifest is None:
                continue
            name = f"{folder}/{manifest.index.name}"
            for unit in from_parquet(store.place.read(name), f"{store.place.uri}/{name}"):
                listed.setdefault(unit.receipt.key, set()).add(unit.receipt.attempt)
        except FileNotFoundError:
            found.kept.append(f"{store.place.uri}/{folder} has no index: nothing that it may list is removed")
        except (StoreError, ContractError) as error:
            found.kept.append(f"{error}. Nothing that it may list is removed")
    return listed, planned


def _attempts(place: Place, sizes: Mapping[str, int]) -> dict[str, set[str]]:
    """Attempts by unit, as the files tell them; on a disk also those without a file."""
    found: dict[str, set[str]] = {}
    for name in sizes:
        parts = name.split("/")
        if parts[0] == "units" and len(parts) > 2:
            found.setdefault(parts[1], set()).update({parts[2]} if len(parts) > 3 else ())
    for key in place.names("units") if place.is_local else ():
        found.setdefault(key, set()).update(set(place.names(f"units/{key}")) - {"receipt.json"})
    return found


def _remove(store: Store, name: str, into: list[str], found: Garbage, sizes: Mapping[str, int], dry_run: bool) -> None:
    into.append(name)
    found.bytes += sum(size for file, size in sizes.items() if file == name or file.startswith(f"{name}/"))
    if not dry_run:
        store.place.remove(name)
