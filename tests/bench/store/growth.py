"""What a larger set costs: labelled, opened and aligned at three sizes, and from these a plan for 10^9 rows.

Every size is measured in a process of its own (`python -m tests.bench.store.growth WHAT ROWS FOLDER`), so that its
peak memory is its own. The teacher is free: its outputs are one block of random logits, so seconds are the store's
(encoding, statistics, fidelity, writing, receipts, commit). Costs three to four minutes.

Shapes: N rows, C classes.
"""

from __future__ import annotations

import json
import math
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np

from tests.bench.store.rows import CLASSES
from tests.bench.store.speed import row
from tests.bench.store.worker import peak_mb

SHARD_ROWS = 16_384
BLOCK = 2048
"""Rows of the teacher's block, and of a batch."""
GOAL = 10**9


@dataclass(frozen=True)
class Measured:
    """A set of some size."""

    rows: int
    units: int
    files: int
    label_bytes: int
    """Bytes of the files of the label arrays."""
    other_bytes: int
    """Ids, exact rows and metadata."""
    index_bytes: int
    seconds: float
    """To label it on one core, without the teacher."""
    open_s: float
    peak_mb: float
    """Largest resident memory while labelling, over that before."""


@dataclass(frozen=True)
class Plan:
    """What a set of many rows would be."""

    rows: int
    shard_rows: int
    units: int
    objects: int
    terabytes: float
    index_mb: float
    open_s: float
    core_hours: float


def bench(quick: bool, folder: Path, python: Path) -> list[dict[str, Any]]:
    """Rows of the table."""
    sizes = (2_000, 20_000, 40_000) if quick else (10_000, 100_000, 1_000_000)
    found = [Measured(**child("label", rows, folder / str(rows))) for rows in sizes]
    table: list[dict[str, Any]] = []
    for one in found:
        millions = one.rows / 1e6
        table += [
            row(f"top-32, {one.rows:,} rows: labels", one.label_bytes / one.rows, "bytes/row"),
            row(f"top-32, {one.rows:,} rows: ids, exact rows, metadata", one.other_bytes / one.rows, "bytes/row"),
            row(f"top-32, {one.rows:,} rows: files, {one.units} units", one.files / millions, "per million rows"),
            row(f"top-32, {one.rows:,} rows: labelled, one core", one.seconds / millions, "s per million rows"),
            row(f"top-32, {one.rows:,} rows: memory while labelling", one.peak_mb, "MB"),
            row(f"top-32, {one.rows:,} rows: index", one.index_bytes / one.units, "bytes/unit"),
            row(f"top-32, {one.rows:,} rows: opened", one.open_s * 1e3, "ms"),
        ]
    table.append(row("seconds a row, largest set against the one before", growth(found, "seconds"), "ratio"))
    table.append(row("label bytes a row, the same", growth(found, "label_bytes"), "ratio"))
    for shard_rows in (SHARD_ROWS, 16 * SHARD_ROWS):
        table += shown(plan(found, GOAL, shard_rows))
    for rows in (100_000,) if quick else (1_000_000, 10_000_000):
        answer = child("align", rows, folder / "align")
        table += [
            row(f"alignment by id, {rows:,} rows in another order", answer["seconds"], "s"),
            row(f"alignment by id, {rows:,} rows: memory", answer["peak_mb"], "MB"),
        ]
    return table


def growth(found: Sequence[Measured], what: str) -> float:
    """A figure per row of the largest set by that of the one before it: 1 where cost is linear."""
    before, last = (getattr(one, what) / one.rows for one in found[-2:])
    return float(last / before)


def plan(found: Sequence[Measured], rows: int, shard_rows: int) -> Plan:
    """What so many rows in shards of so many would be, by the largest set that was measured.

    Files, index and opening go by units: opening costs what it did at the smallest set, and the difference to the
    largest for each unit more. Seconds and bytes go by rows.
    """
    small, large = found[0], found[-1]
    units = math.ceil(rows / shard_rows)
    more = (large.open_s - small.open_s) / max(1, large.units - small.units)
    return Plan(
        rows=rows,
        shard_rows=shard_rows,
        units=units,
        objects=round(units * large.files / large.units),
        terabytes=rows * (large.label_bytes + large.other_bytes) / large.rows / 1e12,
        index_mb=units * large.index_bytes / large.units / 1e6,
        open_s=max(0.0, small.open_s + more * (units - small.units)),
        core_hours=rows * large.seconds / large.rows / 3600,
    )


def shown(made: Plan) -> list[dict[str, Any]]:
    """A plan as rows."""
    what = f"plan for {made.rows:,} rows in shards of {made.shard_rows:,}:"
    return [
        row(f"{what} units", made.units, "units"),
        row(f"{what} objects", made.objects, "objects"),
        row(f"{what} on disk", made.terabytes, "TB"),
        row(f"{what} index", made.index_mb, "MB"),
        row(f"{what} opened", made.open_s, "s"),
        row(f"{what} labelled, without the teacher", made.core_hours, "core hours"),
    ]


def child(what: str, rows: int, folder: Path) -> dict[str, Any]:
    """The answer of a process that measures one thing. Raises SystemExit if it dies."""
    command = [sys.executable, "-m", "tests.bench.store.growth", what, str(rows), str(folder)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"{' '.join(command[1:])} failed:\n{done.stderr[-2000:]}")
    answer: dict[str, Any] = json.loads(done.stdout)
    return answer


class Free:
    """Shards of rows that have nothing but ids, as many as asked for."""

    def __init__(self, rows: int, reverse: bool = False) -> None:
        self.rows, self._reverse = rows, reverse
        bounds = [(start, min(start + SHARD_ROWS, rows)) for start in range(0, rows, SHARD_ROWS)]
        self._bounds = bounds[::-1] if reverse else bounds
        self.shards = tuple(
            SimpleNamespace(
                name=f"s{begin}",
                rows=end - begin,
                digest=f"{int(reverse)}{begin:031x}",
                shard_digest=f"{int(reverse)}{begin:031x}",
                view=0,
            )
            for begin, end in self._bounds
        )
        self.units = self.shards
        self.offsets = np.cumsum([0, *(shard.rows for shard in self.shards)])
        self.fingerprint, self.classes, self.schema, self.manifest = "0" * 32, (), None, None

    def numbers(self, shard: int) -> np.ndarray:
        """What tells the rows of a shard apart."""
        begin, end = self._bounds[shard]
        return np.arange(begin, end)[:: -1 if self._reverse else 1]

    def sample_ids(self, shard: int) -> list[str]:
        return [f"sample-{number:09d}" for number in self.numbers(shard).tolist()]

    def content_ids(self, shard: int) -> np.ndarray:
        """Content ids (n, 16): even over their first 32 bits, as digests are."""
        numbers = self.numbers(shard).astype(np.uint64)
        words = np.stack([numbers * np.uint64(0x9E3779B97F4A7C15) >> np.uint64(32), numbers], axis=1)
        return np.ascontiguousarray(words).view(np.uint8).reshape(-1, 16)


def label(rows: int, folder: Path) -> dict[str, Any]:
    """Label so many rows into a new store, and open it."""
    from schemas.encodings import TopK
    from schemas.labels import Receipt, UnitPlan
    from stages.labels.builder import How, Said, UnitBuilder
    from stages.labels.reader import LabelSet
    from stages.labels.sets import write_set
    from stages.labels.store import About, Store
    from stages.places import Place
    from tests.labels.fakes import NOBODY, inputs_for, plan_for

    samples = Free(rows)
    inputs = inputs_for(TopK(kind="top-k", k=32), batch_size=BLOCK)
    asked = plan_for(samples, inputs, tuple(f"class {number}" for number in range(CLASSES)))  # type: ignore[arg-type]
    how = How(asked.label_schema, "float32", BLOCK, asked.fidelity_threshold)
    block = np.random.default_rng(0).normal(0, 3, (BLOCK, CLASSES)).astype(np.float32)
    store = Store.create(Place(str(folder)))
    shards = {shard.name: number for number, shard in enumerate(samples.shards)}

    def write(unit: UnitPlan) -> Receipt:
        number = shards[unit.shard]
        builder = UnitBuilder(how, unit, samples.sample_ids(number), samples.content_ids(number))
        for part in builder.batches():
            builder.add(part, Said(block[: part.stop - part.start]))
        return builder.write(store)

    before, started = peak_mb(), time.perf_counter()
    manifest = write_set(store, asked, write, About(NOBODY, NOBODY))
    seconds, peak = time.perf_counter() - started, peak_mb() - before
    LabelSet.open(str(folder))
    started = time.perf_counter()
    opened = LabelSet.open(str(folder))
    open_s = time.perf_counter() - started
    files = [path for path in folder.rglob("*") if path.is_file()]
    arrays = {f"/{name}/c/" for name in opened.layout.names}
    labels = sum(path.stat().st_size for path in files if any(name in path.as_posix() for name in arrays))
    whole = sum(path.stat().st_size for path in files)
    return asdict(
        Measured(rows, len(asked.units), len(files), labels, whole - labels, manifest.index.size, seconds, open_s, peak)
    )


def align_(rows: int, folder: Path) -> dict[str, Any]:
    """Align labels in the reverse order of their samples."""
    from stages.labels.alignment import align

    samples: Any = Free(rows)
    labels: Any = Free(rows, reverse=True)
    before, started = peak_mb(), time.perf_counter()
    aligned: Any = align(labels, samples)
    seconds, peak = time.perf_counter() - started, peak_mb() - before
    if not np.array_equal(aligned._rows, np.arange(rows)[::-1]):
        raise SystemExit("alignment gave another order")
    return {"seconds": seconds, "peak_mb": peak}


if __name__ == "__main__":
    what, count, where = sys.argv[1:]
    print(json.dumps({"label": label, "align": align_}[what](int(count), Path(where))))
