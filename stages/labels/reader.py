"""Reading a label set at memory speed: map, verify once, gather.
 Opening takes three small reads (`store.json`, `set.json`, the index) and lists nothing, unless a set is
named by a prefix or not at all; nothing is ever written to the store. On first touch of a unit in a process
the objects that are read are checked against size and checksum (about 1 s per GB); from then on rows are
gathered from a memory map. What is not read is not verified either: the ids, unless they are asked for, and
the units' receipts, which the index holds (a lost one harms no reader). A store that is not on this machine's
disk is read through the node's cache (`stages.cache`), into which `batches` brings units ahead of need.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Collection, Iterator, Mapping, Set
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from schemas.artifacts import LabelSetRef, ObjectInfo
from schemas.errors import StoreError
from schemas.labels import LabelSchema, SetManifest
from schemas.spec import Storage
from stages.cache import held
from stages.labels.alignment import AlignedLabels, Samples, align
from stages.labels.bases import read_basis
from stages.labels.batches import WINDOW_BYTES, Epoch
from stages.labels.decoded import Decoded
from stages.labels.encodings import check_schema, codec_of, extras_of
from stages.labels.index import from_parquet
from stages.labels.layout import Layout, Offsets
from stages.labels.statistics import label_bytes, merge
from stages.labels.store import About, IndexedUnit, Store, root_digest
from stages.labels.tags import is_fingerprint, read_tag
from stages.labels.unit import (
    CONTENT_ID,
    FIDELITY_ITEM,
    FIDELITY_LOGITS,
    FIDELITY_POSITION,
    SAMPLE_ID,
    data_file,
    decode_ids,
    ids_digest,
    map_array,
)
from stages.places import Place, checksum

if TYPE_CHECKING:
    import pandas as pd
    import pyarrow as pa
    import ray.data

    from stages.domains.seen import Seen
    from stages.labels.datasets import LabelRows, LabelStream

UNITS_MAPPED = 256
"""Units that are mapped at once; each holds one file descriptor per array."""
MEND = "label again with --force labels"


class LabelSet:
    """All that one teacher said about a domain, by position: the number of a row in the domain's packed order."""

    def __init__(self, store: Store, manifest: SetManifest) -> None:
        """Reads the index and checks it against the manifest. Raises StoreError naming what does not fit."""
        self.store, self.manifest = store, manifest
        check_schema(manifest.label_schema, f"{store.place.uri}/{store.set_folder(manifest.fingerprint)}/set.json")
        self._units = self._read_index()
        plain = [unit.receipt.rows for unit in self._units if unit.view == 0]
        self.offsets = np.cumsum([0, *plain], dtype=np.int64)
        """Position of the first sample of each unit of a view, and at the end the number of samples."""
        self._shards = len(plain)
        self.layout = Layout(self.schema)
        """How the arrays of labels hang together."""
        self._names = frozenset(self.layout.names)
        self._extras = frozenset(field.name for field in extras_of(self.schema))
        basis = None if self.schema.basis is None else read_basis(store.place, self.schema.basis)
        self._codec = codec_of(self.schema.encoding, len(self.classes), basis)
        self._mapped: OrderedDict[int, _Mapped] = OrderedDict()
        self._verified: set[tuple[int, str]] = set()

    @classmethod
    def open(cls, where: str | Place, name: str | None = None, *, storage: Storage | None = None) -> LabelSet:
        """The set of a store that a name means: a tag (`NAME`, `NAME@v3`), a fingerprint, or 8 or more digits of one.

        The name may also follow the store's address: `s3://bucket/store#NAME@v3`. It may be left out where the
        store holds one set. Raises StoreError naming what there is.
        """
        if isinstance(where, str) and "#" in where and name is None:
            where, _, name = where.rpartition("#")
        place = where if isinstance(where, Place) else Place(where, storage or Storage())
        store = Store.open(place)
        fingerprint = _find_set(place, name)
        manifest = store.manifest(fingerprint)
        if manifest is None:
            raise StoreError(
                f"{place.uri} has no finished label set {fingerprint}: see `crossdistill labels ls`, or finish it "
                "by running its spec again"
            )
        return cls(store, manifest)

    @classmethod
    def open_ref(cls, place: Place, ref: LabelSetRef) -> LabelSet:
        """The set that a reference names. Raises StoreError if it is gone or not the one that was referred to."""
        label_set = cls.open(place, ref.fingerprint)
        if label_set.digest != ref.digest:
            raise StoreError(
                f"label set {ref.fingerprint} in {place.uri} is not the one that was referred to (root digest "
                f"{label_set.digest}, not {ref.digest}): {MEND}"
            )
        return label_set

    # --- what it is ------------------------------------------------------------------------------------------

    @property
    def fingerprint(self) -> str:
        """What was asked."""
        return self.manifest.fingerprint

    @property
    def digest(self) -> str:
        """What came out: the root digest."""
        return self.manifest.digest

    @property
    def schema(self) -> LabelSchema:
        """What a label is."""
        return self.manifest.label_schema

    @property
    def classes(self) -> tuple[str, ...]:
        """Class names in the order of the logits."""
        return self.schema.classes

    @property
    def card(self) -> dict[str, str]:
        """The label card, by heading: who said it, about what, how exactly."""
        from stages.labels.catalog import card

        return card(self.manifest)

    @property
    def rows(self) -> int:
        """Samples in the set."""
        return self.manifest.rows

    def __len__(self) -> int:
        return self.rows

    @property
    def units(self) -> tuple[IndexedUnit, ...]:
        """The units with their receipts: view by view, each in the order of the domain's shards."""
        return self._units

    @property
    def bytes_per_row(self) -> float:
        """Mean bytes of a sample's labels in one view."""
        return label_bytes(self.manifest) / max(1, self.rows * self.manifest.views.count)

    def seen(self) -> Seen | None:
        """The rows that its teachers learned from, as far as they say. Raises StoreError if that list is damaged."""
        from stages.domains.seen import Seen

        info = self.manifest.origin.seen
        if info is None:
            return None
        place, name = self.store.place, f"{self.store.set_folder(self.fingerprint)}/{info.object.name}"
        stat = place.stat(name)
        data = None if stat is None else b"" if stat.size != info.object.size else place.read_or_none(name)
        return Seen.load(data, info, f"{place.uri}/{name}")

    def about(self) -> About:
        """What the manifest says beside the units, to be said of another set again."""
        manifest = self.manifest
        return About(manifest.teacher, manifest.samples, manifest.replays, manifest.origin.names, self.seen())

    # --- rows ------------------------------------------------------------------------------------------------

    def read(self, unit: int) -> dict[str, np.ndarray]:
        """The label arrays of one unit as stored, mapped read-only; its rows are those of the packed shard."""
        return self._unit(unit, self._names).arrays

    def unit_at(self, position: int, view: int = 0) -> tuple[int, int]:
        """(unit, position of its first sample) of the sample at a position."""
        shard = int(np.searchsorted(self.offsets, position, side="right")) - 1
        return shard + view * self._shards, int(self.offsets[shard])

    def mapped(self, unit: int) -> tuple[dict[str, np.ndarray], Offsets]:
        """As `read`, and where the labels of each of its samples begin."""
        found = self._unit(unit, self._names)
        return found.arrays, found.offsets

    def gather(
        self, positions: np.ndarray, view: int | np.ndarray = 0, extras: Collection[str] | None = None
    ) -> dict[str, np.ndarray]:
        """Labels of the samples at positions (B,) in any order, as stored, copied. Raises IndexError beyond the set.

        `view` is that of all rows, or of each (B,). `extras`: which of the fields beside the labels come too (none
        said: all); the others are not even opened. Costs two copies of the rows, and about 2 µs for each unit that the
        positions touch.
        """
        names = self._names if extras is None else self._names - (self._extras - set(extras))
        positions = np.asarray(positions, np.int64)
        if positions.size and (positions.min() < 0 or positions.max() >= self.rows):
            raise IndexError(f"positions run from 0 to {self.rows - 1}, not {positions.min()} to {positions.max()}")
        most = self.manifest.views.count - 1
        if np.size(view) and not 0 <= np.min(view) <= np.max(view) <= most:
            raise IndexError(f"views run from 0 to {most}, not {np.min(view)} to {np.max(view)}")
        shard_B = np.searchsorted(self.offsets, positions, side="right") - 1
        local, unit_B = positions - self.offsets[shard_B], shard_B + np.asarray(view, np.int64) * self._shards
        order = np.argsort(unit_B, kind="stable")
        unit_B, local = unit_B[order], local[order]
        ends = [*(np.flatnonzero(np.diff(unit_B)) + 1).tolist(), len(positions)] if len(positions) else []
        begins = [0, *ends[:-1]]
        numbers = unit_B[begins[: len(ends)]].tolist()
        lots = [local[begin:end] for begin, end in zip(begins, ends, strict=False)]
        back = np.empty_like(order)
        back[order] = np.arange(len(order))
        if not self.layout.plain:
            parts = [self._taken(number, rows, names) for number, rows in zip(numbers, lots, strict=True)]
            whole = self.layout.join(parts or [self._nothing(names)])
            return self.layout.take(whole, self.layout.offsets(whole), back)
        by_unit = {
            name: np.empty((len(positions), *item.shape), item.dtype)
            for name, item in self.layout.fields.items()
            if name in names
        }
        for begin, end, number, rows in zip(begins, ends, numbers, lots, strict=False):
            arrays = self._unit(number, names).arrays
            for name, out in by_unit.items():
                arrays[name].take(rows, axis=0, out=out[begin:end], mode="clip")
        return {name: values.take(back, axis=0) for name, values in by_unit.items()}

    def batches(
        self,
        batch_size: int,
        seed: int = 0,
        epoch: int = 0,
        rank: int = 0,
        world_size: int = 1,
        start: int = 0,
        view: int = 0,
        window_bytes: int = WINDOW_BYTES,
    ) -> Iterator[dict[str, np.ndarray]]:
        """A rank's batches of one shuffled epoch from step `start` on: labels as stored, and their `position`.

        `batch_size` is that of all ranks together. See `stages.labels.batches.Epoch`, which also tells the number of
        steps.
        """
        return Epoch(self, batch_size, seed, epoch, rank, world_size, view, window_bytes).steps(start)

    def to_torch(self, batch_size: int, **options: Any) -> LabelStream:
        """A PyTorch `IterableDataset` of shuffled batches, with `state_dict`: `stages.labels.datasets.LabelStream`."""
        from stages.labels.datasets import LabelStream

        return LabelStream(self, batch_size, **options)

    def to_rows(self, view: int = 0) -> LabelRows:
        """A PyTorch map-style `Dataset`: `stages.labels.datasets.LabelRows`."""
        from stages.labels.datasets import LabelRows

        return LabelRows(self, view)

    def to_arrow(self, view: int = 0) -> pa.Table:
        """One view as an Arrow table, in memory: ids, then fields as stored (`stages.labels.tables`)."""
        from stages.labels.tables import to_arrow

        return to_arrow(self, view)

    def to_pandas(self, view: int = 0) -> pd.DataFrame:
        """As `to_arrow`, for pandas."""
        return self.to_arrow(view).to_pandas()

    def to_ray(self, view: int = 0) -> ray.data.Dataset:
        """One view as a Ray dataset, a unit a task (`stages.labels.tables`)."""
        from stages.labels.tables import to_ray

        return to_ray(self, view)

    def decode(self, stored: Mapping[str, np.ndarray]) -> Decoded:
        """What gathered or read arrays say, label by label: logits, or kept classes with their tails."""
        return self._codec.decode(self.layout.flat(stored))

    def logits(self, positions: np.ndarray, view: int | np.ndarray = 0) -> np.ndarray:
        """Labels at positions (B,) as float32 logits (B, C), whatever was kept of them (`Decoded.dense`)."""
        return self.decode(self.gather(positions, view)).dense()

    def sample_ids(self, unit: int) -> list[str]:
        """Sample ids of one unit, in order."""
        return decode_ids(self._array(unit, SAMPLE_ID))

    def content_ids(self, unit: int) -> np.ndarray:
        """Content ids of one unit, uint8 (N, 16)."""
        return self._array(unit, CONTENT_ID)

    def samples_at(self, positions: np.ndarray) -> np.ndarray:
        """Which sample stands at each position of the set: the same one, as long as it is packed as the samples are."""
        return positions

    def exact(self, unit: int) -> tuple[np.ndarray, np.ndarray]:
        """(labels of the unit (M,), float32 logits (M, C)): the exact outputs that fidelity is measured on.

        Labels are counted through the unit's flat arrays: those of its samples one after another.
        """
        samples, logits_MC = self._array(unit, FIDELITY_POSITION), self._array(unit, FIDELITY_LOGITS)
        if self.schema.shape.kind == "sample":
            return samples, logits_MC
        offsets = self._unit(unit, self._names - self._extras).offsets.labels
        first = samples.astype(np.int64) * self.layout.cells if offsets is None else offsets[samples]
        return first + self._array(unit, FIDELITY_ITEM), logits_MC

    def align(self, samples: Samples) -> LabelSet | AlignedLabels:
        """These labels by the positions of some samples; the set itself where it is packed as they are.

        Raises LabelsMissing or StoreError with counts and the first ids that have no label or another content.
        """
        return align(self, samples)

    def check_ids(self, unit: int) -> None:
        """Check the ids of one unit against its receipt. Raises StoreError naming it."""
        if ids_digest(self.sample_ids(unit), self.content_ids(unit)) != self._units[unit].receipt.ids_digest:
            raise StoreError(f"{self._where(unit, SAMPLE_ID)} holds other ids than the receipt: {MEND}")

    # --- objects ---------------------------------------------------------------------------------------------

    def _read_index(self) -> tuple[IndexedUnit, ...]:
        manifest, place = self.manifest, self.store.place
        name = f"{self.store.set_folder(manifest.fingerprint)}/{manifest.index.name}"
        where = f"{place.uri}/{name}"
        data = place.read_or_none(name)
        if data is None:
            raise StoreError(f"{where} is missing: {MEND}")
        if (len(data), checksum(data)) != (manifest.index.size, manifest.index.checksum):
            raise StoreError(f"{where} is damaged: {MEND}")
        units = tuple(from_parquet(data, where))
        listed = (
            root_digest(self.schema, units),
            sum(unit.receipt.rows for unit in units if unit.view == 0),
            len(units),
            merge(unit.receipt.statistics for unit in units),
        )
        if listed != (manifest.digest, manifest.rows, manifest.units, manifest.statistics):
            raise StoreError(f"{where} does not list what set.json says, one of them was edited: {MEND}")
        return units

    def _unit(self, unit: int, names: Set[str]) -> _Mapped:
        """Some arrays of a unit (and those that were asked for before), mapped and checked; where its labels begin."""
        found = self._mapped.get(unit)
        if found is None or not found.arrays.keys() >= names:
            wanted = names if found is None else names | found.arrays.keys()
            arrays = {name: self._array(unit, name) for name in self.layout.names if name in wanted}
            try:
                self.layout.check(arrays, self._units[unit].receipt.rows, self._where(unit, "")[:-1])
            except StoreError as error:
                raise StoreError(f"{error}: {MEND}") from None
            found = self._mapped[unit] = _Mapped(arrays, self.layout.offsets(arrays))
            if len(self._mapped) > UNITS_MAPPED:
                self._mapped.popitem(last=False)
        return found

    def coming(self, unit: int) -> list[Callable[[], None]]:
        """The downloads of a unit's labels that `read` rests on; they may be called in any threads, and go together."""
        if self.store.place.is_local:
            return []
        objects = self._units[unit].receipt.objects
        return [partial(self._bring, unit, info) for info in objects if info.name.split("/")[0] in self._names]

    def _bring(self, unit: int, info: ObjectInfo) -> None:
        with self._held(unit, info):
            pass

    def _taken(self, unit: int, rows: np.ndarray, names: Set[str]) -> dict[str, np.ndarray]:
        mapped = self._unit(unit, names)
        arrays = {name: mapped.arrays[name] for name in self.layout.names if name in names}
        return self.layout.take(arrays, mapped.offsets, rows)

    def _nothing(self, names: Set[str]) -> dict[str, np.ndarray]:
        fields = self.layout.fields.items()
        return {name: np.empty((0, *item.shape), item.dtype) for name, item in fields if name in names}

    def _array(self, unit: int, name: str) -> np.ndarray:
        """One array of a unit, verified and mapped."""
        objects = {item.name: item for item in self._units[unit].receipt.objects}
        where = self._where(unit, name)
        if f"{name}/zarr.json" not in objects:
            raise StoreError(f"{where} is not listed in the unit's receipt: {MEND}")
        with self._held(unit, objects[f"{name}/zarr.json"]) as path:
            metadata = path.read_bytes()
        data = next((item for item in objects.values() if item.name in _data_files(name)), None)
        if data is None:
            return map_array(metadata, None, where)
        with self._held(unit, data) as path:
            return map_array(metadata, path, where)

    @contextmanager
    def _held(self, unit: int, info: ObjectInfo) -> Iterator[Path]:
        """The local file of one object, verified on first touch. Raises StoreError naming the object."""
        receipt, known = self._units[unit].receipt, (unit, info.name)
        name = f"{self.store.unit_folder(receipt.key, receipt.attempt)}/{info.name}"
        with held(self.store.place, info, name, MEND, trusted=known in self._verified) as path:
            self._verified.add(known)
            yield path

    def _where(self, unit: int, name: str) -> str:
        receipt = self._units[unit].receipt
        return f"{self.store.place.uri}/{self.store.unit_folder(receipt.key, receipt.attempt)}/{name}"


@dataclass(frozen=True)
class _Mapped:
    """One unit, mapped."""

    arrays: dict[str, np.ndarray]
    offsets: Offsets


def _data_files(name: str) -> tuple[str, ...]:
    return tuple(data_file(name, dimensions) for dimensions in range(1, 5))


def _find_set(place: Place, name: str | None) -> str:
    """Fingerprint of the set that `name` means: a tag, a fingerprint, or the beginning of one."""
    if name is not None and not is_fingerprint(name):
        return read_tag(place, name)[1].fingerprint
    if name is not None and len(name) == 32:
        return name
    known = place.names("sets")
    found = [fingerprint for fingerprint in known if fingerprint.startswith(name or "")]
    if len(found) == 1:
        return found[0]
    shown = ", ".join(item[:12] for item in known[:8]) or "none"
    which = "a name is needed" if name is None else f"'{name}' means {len(found)} of them"
    raise StoreError(f"{place.uri} holds {len(known)} label sets, {which}. There are: {shown}")
