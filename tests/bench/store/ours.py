"""The same rows in a label store, and with pictures in packed shards beside it."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from schemas.artifacts import ObjectInfo
from schemas.domains import DomainManifest, ShardInfo
from schemas.encodings import TopK
from schemas.labels import Receipt, UnitPlan, UnitStatistics
from stages.domains import ipc
from stages.domains.reader import Samples
from stages.labels.reader import LabelSet
from stages.labels.store import About, Store
from stages.labels.unit import FIDELITY_LOGITS, FIDELITY_POSITION
from stages.places import Place, checksum
from stages.tasks.base import Column
from tests.bench.store.peers import Peer
from tests.bench.store.rows import CLASSES, KEPT, KEY, LABELS, PIXELS, TEMPERATURES, Batch, load

SHARD_BYTES = 64 * 2**20
ENCODING = TopK(kind="top-k", k=KEPT, temperatures=TEMPERATURES)
PIXEL = Column("raw", "uint8", PIXELS)


class Ours(Peer):
    """`LabelSet.batches`; pictures are gathered from their packed shards in the labels' order."""

    package = "crossdistill"

    def write(self, source: Path) -> None:
        rows = load(source)
        shards = Shards(rows)
        if "pixels" in rows:
            shards.write_samples(self.folder / "samples")
        write_labels(Place(str(self.folder / "store")), rows, shards)

    def open(self) -> None:
        self._labels = LabelSet.open(str(self.folder / "store"))
        self._samples: Samples | None = None
        if (self.folder / "samples").exists():
            place = Place(str(self.folder / "samples"))
            self._samples = Samples(place, DomainManifest.parse_json(place.read("manifest.json"), place.uri))

    def epoch(self, batch_size: int, seed: int | None) -> Iterator[Any]:
        if seed is None:
            found = self._in_order(batch_size)
        else:
            found = self._labels.batches(batch_size, seed=seed)
        for batch in found:
            positions = batch.pop("position")
            if self._samples is not None:
                batch["pixels"] = self._samples.gather(positions)["pixels"]
            yield batch | {KEY: positions}

    def decode(self, batch: Batch, temperature: float) -> None:
        """Log-probabilities of the kept classes and of the tail."""
        self._labels.decode({name: batch[name] for name in LABELS}).bucket_log_probabilities(temperature)  # type: ignore[union-attr]

    def _in_order(self, batch_size: int) -> Iterator[dict[str, np.ndarray]]:
        for start in range(0, self._labels.rows, batch_size):
            positions = np.arange(start, min(start + batch_size, self._labels.rows))
            yield self._labels.gather(positions) | {"position": positions}


class Shards:
    """The rows as packed shards of so many bytes at most."""

    def __init__(self, rows: Batch, shard_bytes: int = SHARD_BYTES) -> None:
        self._rows = rows
        total = len(rows[KEY])
        size = max(1, shard_bytes // sum(values[0].nbytes for values in rows.values()))
        self.bounds = [(begin, min(begin + size, total)) for begin in range(0, total, size)]
        self.shards = tuple(
            ShardInfo(
                name=f"samples-{number:05d}.arrow",
                rows=end - begin,
                digest=hashlib.blake2b(f"{begin} {end}".encode(), digest_size=16).hexdigest(),
                samples=ObjectInfo(name="none", size=0, checksum="0" * 32),
            )
            for number, (begin, end) in enumerate(self.bounds)
        )
        self.rows = total

    def ids(self, shard: int) -> tuple[list[str], np.ndarray]:
        """(sample ids, content ids uint8 (n, 16)) of a shard."""
        numbers = range(*self.bounds[shard])
        digests = b"".join(hashlib.blake2b(str(number).encode(), digest_size=16).digest() for number in numbers)
        return [f"{number:09d}" for number in numbers], np.frombuffer(digests, np.uint8).reshape(-1, 16)

    def write_samples(self, folder: Path) -> None:
        """The pictures, as `domains` packs them."""
        place, shards = Place(str(folder)), []
        for number, shard in enumerate(self.shards):
            begin, end = self.bounds[number]
            names, content = self.ids(number)
            pixels = np.ascontiguousarray(self._rows["pixels"][begin:end])
            width = ipc.row_bytes(PIXEL)
            packed = pa.FixedSizeBinaryArray.from_buffers(pa.binary(width), end - begin, [None, pa.py_buffer(pixels)])
            ids = pa.FixedSizeBinaryArray.from_buffers(pa.binary(16), end - begin, [None, pa.py_buffer(content)])
            data = ipc.encode({"sample_id": pa.array(names), "content_id": ids, "pixels": packed})
            place.put(shard.name, data)
            info = ObjectInfo(name=shard.name, size=len(data), checksum=checksum(data))
            shards.append(shard.model_copy(update={"samples": info}))
        columns = {"pixels": PIXEL.dump()}
        manifest = DomainManifest(rows=self.rows, columns=columns, classes=None, shards=tuple(shards))
        place.put("manifest.json", manifest.to_json())


def write_labels(place: Place, rows: Batch, shards: Shards) -> None:
    """A label set of rows that are encoded already: units, receipts, index and manifest, without an encoder's work."""
    from stages.labels.builder import write_arrays
    from stages.labels.sets import write_set  # they load torch, which reading needs not
    from tests.labels.fakes import NOBODY, inputs_for, plan_for

    inputs = inputs_for(ENCODING)
    plan = plan_for(shards, inputs, tuple(f"class {number}" for number in range(CLASSES)))  # type: ignore[arg-type]
    store = Store.create(place)
    numbers = {shard.name: number for number, shard in enumerate(shards.shards)}

    def write(unit: UnitPlan) -> Receipt:
        begin, end = shards.bounds[numbers[unit.shard]]
        names, content = shards.ids(numbers[unit.shard])
        arrays = {name: np.asarray(rows[name][begin:end]) for name in LABELS} | {
            FIDELITY_POSITION: np.empty(0, "<i4"),
            FIDELITY_LOGITS: np.empty((0, CLASSES), "<f4"),
        }
        statistics = UnitStatistics(rows=unit.rows, labels=unit.rows)
        return write_arrays(store, unit, ENCODING, names, content, arrays, statistics)

    write_set(store, plan, write, About(NOBODY, NOBODY))
