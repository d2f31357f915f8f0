"""Readers of packed domains and of the overlays on them; what other stages read domains through.

Opening costs two small reads. A shard's size and checksum are verified when it is first touched (about 1 GB/s),
then it is mapped, and rows are gathered at memory speed. Samples in object storage are downloaded once per
node (`stages.cache`), shard by shard. Readers take a plain `Place`, so they work in any worker.

Shapes: N rows of the domain, B rows asked for, D shards.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Iterable
from copy import copy
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np
import pyarrow as pa

from schemas.artifacts import Artifact, BudgetRef, SamplesRef, SplitRef, TruthRef
from schemas.canonical import canonical_json, digest, digest_bytes
from schemas.domains import DomainManifest, ShardInfo
from schemas.errors import DataError
from schemas.spec import SPLITS
from stages.artifacts import open_ref, read_object
from stages.cache import held
from stages.domains import ipc
from stages.places import Place
from stages.tasks.base import Column, Packed
from stages.truth import content, from_arrow

TRAIN, VALIDATION, TEST = range(len(SPLITS))
"""Split codes."""
MANIFEST = "manifest.json"
SPLIT_FILE = "split.arrow"
BUDGET_FILE = "budget.arrow"


class Samples:
    """Packed samples of a domain: inputs and ids, no truth. Not for sending: open it where it is used."""

    def __init__(self, files: Place, manifest: DomainManifest) -> None:
        self.manifest = manifest
        self.uri = files.uri
        self.shards: tuple[ShardInfo, ...] = manifest.shards
        self.offsets = np.concatenate([[0], np.cumsum([shard.rows for shard in self.shards], dtype=np.int64)])
        """int64 (D + 1,): first row of each shard, and N."""
        self.columns = {role: Column.load(value) for role, value in manifest.columns.items()}
        self._files = files
        self._batches: dict[int, pa.RecordBatch] = {}
        self._columns: dict[tuple[int, str], Any] = {}

    @classmethod
    def open(cls, place: Place, ref: SamplesRef) -> Samples:
        """Open a domain. Raises DataError if it is gone or another, StoreError if its manifest is damaged."""
        manifest, _, files = _open_manifest(place, ref)
        if samples_digest(manifest) != ref.digest:
            raise DataError(f"the samples at {place.uri} are not those that were referred to: run again")
        return cls(files, manifest)

    def only(self, roles: Collection[str] | None) -> Samples:
        """The same rows by some of their columns: the others are neither read nor given. None: all columns.

        Raises DataError if the domain lacks one.
        """
        if roles is None:
            return self
        if missing := [role for role in roles if role not in self.columns]:
            raise DataError(
                f"the domain at {self.uri} has no '{missing[0]}', which a model is to read; it has "
                f"{', '.join(self.columns)}"
            )
        seen = copy(self)
        seen.columns = {role: self.columns[role] for role in self.columns if role in roles}
        return seen

    @property
    def rows(self) -> int:
        """Rows of the domain."""
        return self.manifest.rows

    def sample_ids(self, shard: int) -> list[str]:
        """Ids of a shard's rows, unique over the domain."""
        ids: list[str] = self._batch(shard).column("sample_id").to_pylist()
        return ids

    def content_ids(self, shard: int) -> np.ndarray:
        """uint8 (rows, 16): blake2b-128 of each row's inputs; equal for duplicates."""
        return ipc.fixed_bytes(self._batch(shard).column("content_id"))

    def all_content_ids(self) -> np.ndarray:
        """uint8 (N, 16). Touches every shard."""
        return np.concatenate([self.content_ids(shard) for shard in range(len(self.shards))])

    def content_ids_at(self, positions: np.ndarray) -> np.ndarray:
        """uint8 (B, 16) of the rows at `positions`, int64 (B,). Touches their shards alone."""
        positions = np.asarray(positions, np.int64)
        shard_B = np.searchsorted(self.offsets, positions, side="right") - 1
        found = np.empty((len(positions), 16), np.uint8)
        for shard in np.unique(shard_B).tolist():
            rows = shard_B == shard
            found[rows] = self.content_ids(shard)[positions[rows] - self.offsets[shard]]
        return found

    def given_split(self) -> np.ndarray:
        """int8 (N,): the split that each row's place in the source stands for. Raises DataError if there is none."""
        if not self.manifest.given_splits:
            raise DataError(
                f"the domain at {self.uri} came in one place and has no `split`: give shares such as "
                "{train: 0.8, validation: 0.1, test: 0.1}, or one place per split"
            )
        return np.concatenate([ipc.numbers(self._batch(shard).column("split")) for shard in range(len(self.shards))])

    def read(self, shard: int) -> Packed:
        """All rows of a shard: raw columns without a copy (read-only), encoded ones as a list of bytes."""
        return {
            role: self._raw(shard, role) if column.storage == "raw" else self._batch(shard).column(role).to_pylist()
            for role, column in self.columns.items()
        }

    def gather(self, positions: np.ndarray) -> Packed:
        """The rows at `positions`, int64 (B,), in their order; any shards, any number of times each.

        Constant time a row, whatever the size of the domain. Raises IndexError for a position outside it.
        """
        positions = np.asarray(positions, np.int64)
        if len(positions) and not 0 <= positions.min() <= positions.max() < self.rows:
            raise IndexError(f"positions of this domain are 0 to {self.rows - 1}")
        shard_of = np.searchsorted(self.offsets, positions, side="right") - 1
        by_shard = np.argsort(shard_of, kind="stable")
        touched, starts = np.unique(shard_of[by_shard], return_index=True)
        parts = list(zip(touched.tolist(), np.split(by_shard, starts[1:]), strict=False))
        local = positions - self.offsets[shard_of]
        return {
            role: self._gather_raw(role, column, parts, local)
            if column.storage == "raw"
            else self._gather_encoded(role, parts, local)
            for role, column in self.columns.items()
        }

    def _gather_raw(
        self, role: str, column: Column, parts: list[tuple[int, np.ndarray]], local: np.ndarray
    ) -> np.ndarray:
        """Rows are indexed as runs of numbers: numpy takes 10 times as long over rows of several dimensions."""
        shape = column.shape or ()
        width = math.prod(shape)
        out = np.empty((len(local), width), column.dtype)
        for shard, places in parts:
            out[places] = self._raw(shard, role).reshape(-1, width)[local[places]]
        return out.reshape(len(local), *shape)

    def _gather_encoded(self, role: str, parts: list[tuple[int, np.ndarray]], local: np.ndarray) -> list[bytes]:
        out = [b""] * len(local)
        for shard, places in parts:
            values = self._batch(shard).column(role)
            for place in places.tolist():
                out[place] = values[int(local[place])].as_py()
        return out

    def _raw(self, shard: int, role: str) -> np.ndarray:
        if (shard, role) not in self._columns:
            self._columns[shard, role] = ipc.raw_values(self._batch(shard).column(role), self.columns[role])
        values: np.ndarray = self._columns[shard, role]
        return values

    def coming(self, shard: int) -> list[Callable[[], object]]:
        """The download that a shard rests on, to be called in any thread; none where the domain is local."""
        return [] if self._files.is_local else [partial(self._batch, shard)]

    def _batch(self, shard: int) -> pa.RecordBatch:
        """A shard, mapped; verified on its first touch."""
        if shard not in self._batches:
            info = self.shards[shard].samples
            with held(self._files, info, info.name, "make it again with --force domains") as path:
                self._batches[shard] = ipc.open_mapped(path)
        return self._batches[shard]


@dataclass(frozen=True)
class Budget:
    """Rows whose truth may be seen, and that truth; each pair sorted by position."""

    train_positions: np.ndarray
    """int64 rows of the domain."""
    train_truth: np.ndarray
    """int32 class numbers."""
    validation_positions: np.ndarray
    """int64 rows of the domain."""
    validation_truth: np.ndarray
    """int32 class numbers."""

    def renumbered(self, numbers: np.ndarray | None) -> Budget:
        """The same truth, where the classes have other numbers; none: as it is."""
        if numbers is None:
            return self
        train, validation = (numbers[truth].astype(np.int32) for truth in (self.train_truth, self.validation_truth))
        return replace(self, train_truth=train, validation_truth=validation)


def read_truth(place: Place, ref: TruthRef) -> tuple[np.ndarray, tuple[str, ...]]:
    """True class numbers int32 (N,) or bytes, -1 where unknown, and the class names. For budgets and final evaluation
    only.

    Raises StoreError if a file is damaged, DataError if it is not the truth that was referred to.
    """
    manifest, artifact, files = _open_manifest(place, ref)
    infos = [shard.truth for shard in manifest.shards if shard.truth is not None]
    truths = [from_arrow(ipc.decode(read_object(files, artifact, info.name)).column("truth")) for info in infos]
    classes = manifest.classes or ()
    if truth_digest(classes, truths) != ref.digest:
        raise DataError(f"the truth at {place.uri} is not that which was referred to: run again")
    return np.concatenate(truths), classes


def read_split(place: Place, ref: SplitRef) -> np.ndarray:
    """Split code of each row, int8 (N,): TRAIN, VALIDATION or TEST."""
    artifact, files = open_ref(place, ref, "splits")
    codes = ipc.numbers(ipc.decode(read_object(files, artifact, SPLIT_FILE)).column("split"))
    if split_digest(codes) != ref.digest:
        raise DataError(f"the split at {place.uri} is not that which was referred to: run again")
    return codes


def read_budget(place: Place, ref: BudgetRef) -> Budget:
    """The rows whose truth may be seen, and that truth."""
    artifact, files = open_ref(place, ref, "budgets")
    batch = ipc.decode(read_object(files, artifact, BUDGET_FILE))
    split, position = (ipc.numbers(batch.column(name)) for name in ("split", "position"))
    truth = from_arrow(batch.column("truth"))
    train, validation = split == TRAIN, split == VALIDATION
    budget = Budget(position[train], truth[train], position[validation], truth[validation])
    if budget_digest(budget) != ref.digest:
        raise DataError(f"the label budget at {place.uri} is not that which was referred to: run again")
    return budget


def samples_digest(manifest: DomainManifest) -> str:
    """Digest of a domain's inputs and ids: free of truth, classes and where bad rows were."""
    shards = [[shard.rows, shard.digest] for shard in manifest.shards]
    return digest({"columns": manifest.columns, "given_splits": manifest.given_splits, "shards": shards})


def truth_digest(classes: tuple[str, ...], truths: Iterable[np.ndarray]) -> str:
    """Digest of the true labels: class names, and by shard numbers (int32) or bytes by row."""
    return digest_bytes(canonical_json(list(classes)), *(content(values) for values in truths))


def split_digest(codes: np.ndarray) -> str:
    """Content digest of split codes int8 (N,)."""
    return digest_bytes(b"split", codes.tobytes())


def budget_digest(budget: Budget) -> str:
    """Content digest of a budget: its rows and their truth, and nothing else."""
    return digest_bytes(
        b"budget",
        budget.train_positions.astype("<i8").tobytes(),
        content(budget.train_truth),
        budget.validation_positions.astype("<i8").tobytes(),
        content(budget.validation_truth),
    )


def _open_manifest(place: Place, ref: SamplesRef | TruthRef) -> tuple[DomainManifest, Artifact, Place]:
    artifact, files = open_ref(place, ref, "domains")
    manifest = DomainManifest.parse_json(read_object(files, artifact, MANIFEST), f"{files.uri}/{MANIFEST}")
    return manifest, artifact, files
