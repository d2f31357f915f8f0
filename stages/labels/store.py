"""The layout of a label store, and its commits: units by receipt, sets by `set.json`.

    store.json                              layout version
    units/KEY/ATTEMPT/...                   one unit's arrays (`stages.labels.unit`)
    units/KEY/receipt.json                  put-if-absent: the attempt that won; a unit without one is unfinished
    sets/FINGERPRINT/plan.json              put-if-absent: the units that the set needs
    sets/FINGERPRINT/index-DIGEST.parquet   the receipts in the plan's order, so that a reader lists nothing
    sets/FINGERPRINT/seen-DIGEST.npy        which rows its teachers learned from (`stages.domains.seen`), where known
    sets/FINGERPRINT/set.json               put-if-absent, last

Any number of writers may work on one set: what one finished, the others adopt. A finished set needs neither its plan
nor its units' receipts any more: the index holds them. This module loads no numpy.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, TypeVar

from schemas.artifacts import ObjectInfo, SeenInfo
from schemas.base import Document
from schemas.canonical import digest
from schemas.errors import StoreError
from schemas.labels import (
    LabelSchema,
    Names,
    Origin,
    Receipt,
    Replay,
    SetManifest,
    SetPlan,
    StoreManifest,
    UnitPlan,
    Views,
)
from stages.artifacts import read_document
from stages.places import Place, checksum

if TYPE_CHECKING:
    from stages.domains.seen import Seen

FIDELITY_ROWS = 2000
"""Rows of a set whose exact outputs are kept, at least, or all."""
FIDELITY_SCALE = 2**32
"""One more than the largest 32-bit number: the threshold that takes every row."""
_READS_AT_ONCE = 16
DocumentT = TypeVar("DocumentT", bound=Document)


@dataclass(frozen=True)
class IndexedUnit:
    """One unit of a finished set: which shard it speaks of, and its receipt."""

    shard: str
    shard_digest: str
    view: int
    receipt: Receipt


def unit_key(
    teacher: str, how: Mapping[str, Any], schema: LabelSchema, views: Views, view: int, shard_digest: str
) -> str:
    """Name of a unit: who said it (the teacher's digest), how, in which schema and view, about which samples.

    View 0 is the sample itself, whatever the settings; the number of views is in no key, so that more of them ask
    only for those that are new.
    """
    seen = {"view": view, "seed": views.seed, "settings": views.settings} if view else {"view": 0}
    return digest({"teacher": teacher, "how": dict(how), "schema": schema, **seen, "shard": shard_digest})


def fidelity_threshold(rows: int, wanted: int = FIDELITY_ROWS) -> int:
    """Threshold on 32 bits of the content id that keeps at least `wanted` of `rows` rows, or all.

    It aims five standard deviations higher, so that fewer is a chance below one in a million.
    """
    aim = wanted + 5 * wanted**0.5
    return FIDELITY_SCALE if rows <= aim else int(FIDELITY_SCALE * aim / rows)


def fidelity_labels(schema: LabelSchema, rows: int) -> int:
    """Labels of a measured sample that are kept exactly: one, or as many as few samples with many labels each need."""
    return 1 if schema.shape.kind == "sample" else max(1, math.ceil(FIDELITY_ROWS / max(1, rows)))


def missing_units(plan: SetPlan, receipts: Mapping[str, Receipt]) -> tuple[UnitPlan, ...]:
    """Units of the plan without a receipt, in its order, each once."""
    units = {unit.key: unit for unit in plan.units}
    return tuple(unit for key, unit in units.items() if key not in receipts)


def root_digest(schema: LabelSchema, units: Sequence[IndexedUnit]) -> str:
    """What came out: the schema, and by sorted key each unit's place in the set, rows, ids and objects.

    No attempt, host or time: a resumed, repeated or copied set has the same.
    """
    entries = sorted(
        [
            unit.receipt.key,
            number,
            unit.shard_digest,
            unit.view,
            unit.receipt.rows,
            unit.receipt.ids_digest,
            sorted([item.name, item.size, item.checksum] for item in unit.receipt.objects),
        ]
        for number, unit in enumerate(units)
    )
    return digest({"schema": schema, "units": entries})


@dataclass(frozen=True)
class About:
    """What a manifest says of its set beside what the units tell."""

    teacher: str
    """Digest of who spoke."""
    samples: str
    """Content digest of the samples."""
    replays: tuple[Replay, ...] = ()
    """Some of the views."""
    names: Names = field(default_factory=Names)
    """What people call those who took part."""
    seen: Seen | None = None
    """Rows that the teachers learned from, as far as it is known."""


@dataclass(frozen=True)
class Store:
    """A label store at a place. Cheap to make and to send to a worker; reads nothing until asked.

    A document that is damaged is a StoreError naming it and the mend, one of another release a ContractError.
    """

    place: Place

    @classmethod
    def create(cls, place: Place) -> Store:
        """The store at a place, made if there is none. Raises ContractError if its layout is another."""
        place.put_new("store.json", StoreManifest().to_json())
        return cls.open(place)

    @classmethod
    def open(cls, place: Place) -> Store:
        """The store at a place. Raises StoreError if there is none, ContractError if its layout is another."""
        store = cls.find(place)
        if store is None:
            raise StoreError(f"{place.uri} is no label store: it has no store.json. Check the address")
        return store

    @classmethod
    def find(cls, place: Place) -> Store | None:
        """The store at a place, or None. One small read. Raises ContractError if its layout is another."""
        store = cls(place)
        return None if store._read(StoreManifest, "store.json") is None else store

    def _read(self, contract: type[DocumentT], name: str) -> DocumentT | None:
        return read_document(self.place, name, contract, "labels")

    # --- units -----------------------------------------------------------------------------------------------

    @staticmethod
    def unit_folder(key: str, attempt: str) -> str:
        """Folder of one attempt on a unit, below the store."""
        return f"units/{key}/{attempt}"

    def receipt(self, key: str) -> Receipt | None:
        """The receipt of a unit, or None if it is unfinished. One small read."""
        name = f"units/{key}/receipt.json"
        receipt = self._read(Receipt, name)
        if receipt is not None and receipt.key != key:
            raise StoreError(f"{self.place.uri}/{name} is the receipt of another unit, {receipt.key}: remove it")
        return receipt

    def receipts(self, plan: SetPlan) -> dict[str, Receipt]:
        """The receipts of the plan's finished units, by key. One small read per unit, 16 at once."""
        keys = list(dict.fromkeys(unit.key for unit in plan.units))
        with ThreadPoolExecutor(_READS_AT_ONCE) as pool:
            found = pool.map(self.receipt, keys)
            return {key: receipt for key, receipt in zip(keys, found, strict=True) if receipt is not None}

    def commit_unit(self, receipt: Receipt) -> Receipt:
        """Make a unit exist: by this receipt, or by the one that another writer committed first.

        A loser removes its own attempt, and only that. Raises StoreError if the winner speaks of other
        samples.
        """
        self.place.put_new(f"units/{receipt.key}/receipt.json", receipt.to_json())
        winner = self.receipt(receipt.key)
        if winner is None:
            raise StoreError(f"{self.place.uri}/units/{receipt.key}/receipt.json was removed while it was written")
        if winner.attempt != receipt.attempt:
            self.place.remove(self.unit_folder(receipt.key, receipt.attempt))
            if (winner.rows, winner.ids_digest) != (receipt.rows, receipt.ids_digest):
                raise StoreError(
                    f"unit {receipt.key} of {self.place.uri} speaks of other samples: {winner.rows} rows with ids "
                    f"{winner.ids_digest}, not {receipt.rows} with {receipt.ids_digest}. Use another store"
                )
        return winner

    # --- sets ------------------------------------------------------------------------------------------------

    @staticmethod
    def set_folder(fingerprint: str) -> str:
        """Folder of a set, below the store."""
        return f"sets/{fingerprint}"

    def commit_plan(self, plan: SetPlan) -> None:
        """Say what a set needs, once. Raises StoreError if another plan stands there."""
        name = f"{self.set_folder(plan.fingerprint)}/plan.json"
        if self.place.put_new(name, plan.to_json()):
            return
        found = self._read(SetPlan, name)
        if found is not None and (found.label_schema, found.views, found.units) != (
            plan.label_schema,
            plan.views,
            plan.units,
        ):
            raise StoreError(
                f"{self.place.uri}/{name} plans other units for the same fingerprint: "
                "it was written by other code or edited. Remove that set's folder, or use another store"
            )

    def manifest(self, fingerprint: str) -> SetManifest | None:
        """`set.json` of a finished set, or None. One small read."""
        name = f"{self.set_folder(fingerprint)}/set.json"
        manifest = self._read(SetManifest, name)
        if manifest is not None and manifest.fingerprint != fingerprint:
            raise StoreError(
                f"{self.place.uri}/{name} is the manifest of another set, {manifest.fingerprint}: remove it, "
                "or make it again with --force labels"
            )
        if manifest is not None and manifest.seal != manifest.unsealed():
            raise StoreError(
                f"{self.place.uri}/{name} was edited: its seal is another. Make it again with --force labels"
            )
        return manifest

    def commit_set(
        self,
        plan: SetPlan,
        receipts: Mapping[str, Receipt],
        about: About,
    ) -> SetManifest:
        """Make a set exist, once every unit has its receipt; another writer's equal set is adopted.

        Writes the index and what its teachers have seen, then `set.json`. Raises StoreError if a set of other content
        stands there.
        """
        from stages.labels.index import to_parquet
        from stages.labels.statistics import merge

        units = [IndexedUnit(unit.shard, unit.shard_digest, unit.view, receipts[unit.key]) for unit in plan.units]
        data = to_parquet(units)
        index = ObjectInfo(name=f"index-{checksum(data)}.parquet", size=len(data), checksum=checksum(data))
        folder = self.set_folder(plan.fingerprint)
        self.place.put_new(f"{folder}/{index.name}", data)
        seen: SeenInfo | None = None
        if about.seen is not None:
            data = about.seen.to_bytes()
            seen = about.seen.info(f"seen-{checksum(data)}.npy")
            self.place.put_new(f"{folder}/{seen.object.name}", data)
        manifest = SetManifest.sealed(
            fingerprint=plan.fingerprint,
            digest=root_digest(plan.label_schema, units),
            rows=sum(unit.receipt.rows for unit in units if unit.view == 0),
            views=plan.views,
            replays=about.replays,
            units=len(units),
            label_schema=plan.label_schema,
            index=index,
            statistics=merge(unit.receipt.statistics for unit in units),
            teacher=about.teacher,
            samples=about.samples,
            provenance=plan.provenance,
            parents=plan.parents,
            origin=Origin(names=about.names, seen=seen),
        )
        self.place.put_new(f"{folder}/set.json", manifest.to_json())
        winner = self.manifest(plan.fingerprint)
        if winner is None or winner.digest != manifest.digest:
            raise StoreError(
                f"{self.place.uri}/{folder}/set.json does not list the units that are there: it was edited, or its "
                "units were made again. Remove that set's folder and run again"
            )
        return winner

    def forget_set(self, fingerprint: str) -> None:
        """Let a set and its units be made anew. Their files stay, since other sets may list them.

        What is damaged goes too; a damaged plan no longer tells the units, which are then kept.
        """
        name = f"{self.set_folder(fingerprint)}/plan.json"
        self._or_removed(StoreManifest, "store.json")
        plan = self._or_removed(SetPlan, name)
        self.place.remove(f"{self.set_folder(fingerprint)}/set.json")
        if plan is not None:
            for unit in plan.units:
                self.place.remove(f"units/{unit.key}/receipt.json")
            self.place.remove(name)

    def _or_removed(self, contract: type[DocumentT], name: str) -> DocumentT | None:
        """A document, or None if there is none or it is damaged, and then removed."""
        try:
            return self._read(contract, name)
        except StoreError:
            self.place.remove(name)
            return None
