"""Reading: our store, bare numpy and five libraries over the same rows, in turns, each in a process of its own.

A turn is an epoch in batches of 256, on one core, with the files in the page cache. The labels alone first, then
samples and labels together, in one order. Costs about six minutes, most of it the slow ones' writing.
"""

from __future__ import annotations

import os
import statistics
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from tests.bench.store import rows as rows_
from tests.bench.worker import Worker

OURS, BARE = "ours", "numpy"
PEERS = ("streaming", "litdata", "webdataset", "lance", "datasets")
TURNS = 3
RATE_AIM, PEERS_AIM, NUMPY_AIM = 2.5e6, 30.0, 0.5


def bench(quick: bool, folder: Path, python: Path) -> list[dict[str, Any]]:
    """Rows of the table. `python` is that of the peers' environment."""
    labels = compare(folder / "labels", python, 16384 if quick else 262_144, False, quick)
    both = compare(folder / "both", python, 1024 if quick else 8192, True, quick)
    table = [*shown("labels", labels), *ratios(labels), *shown("samples + labels", both)]
    best, rate = best_peer(both)
    table.append(row(f"samples + labels: ours against the best peer ({best})", both[OURS].shuffled / rate, "ratio"))
    table.append(row("samples + labels: ours against numpy, in turns", against(both, BARE), "ratio"))
    return table


@dataclass
class Measured:
    """One library's figures."""

    turns: list[float]
    """Rows/s of the shuffled epochs, turn by turn."""
    in_order: list[float]
    """Rows/s of the epochs in order."""
    write: Mapping[str, float]
    """What the writer answered."""
    peak_mb: float
    """Peak resident memory of the reading process, mapped pages of the files included."""
    base_mb: float
    """The same before the library was loaded."""
    decoded: float | None = None
    """Rows/s of a shuffled epoch that is decoded (ours alone)."""

    @property
    def shuffled(self) -> float:
        """Median over the turns."""
        return statistics.median(self.turns)


def started(name: str, python: Path, folder: Path, log: IO[bytes]) -> Worker:
    """A library in its own process."""
    core = max(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else 0
    quiet = {"TOKENIZERS_PARALLELISM": "false", "HF_HUB_OFFLINE": "1", "HF_HOME": str(folder / "hf")}
    own = {**quiet, "DATA_OPTIMIZER_CACHE_FOLDER": str(folder / "litdata-cache")}
    executable = Path(sys.executable) if name == OURS else python
    return Worker(executable, "tests.bench.store.worker", [name, folder / name, folder / "rows", core], log, own)


def compare(folder: Path, python: Path, rows: int, pixels: bool, quick: bool) -> dict[str, Measured]:
    """Every library over the same rows: written one after another, then read in turns."""
    rows_.make(folder / "rows", rows, pixels)
    names = (BARE, OURS, *PEERS)
    with (folder / "log.txt").open("wb") as log:
        found = {}
        for name in names:
            print(f"  writing {rows:,} rows: {name}", file=sys.stderr, flush=True)
            worker = started(name, python, folder, log)
            found[name] = Measured([], [], worker.ask("write"), 0.0, 0.0)
            worker.end()
        workers = [started(name, python, folder, log) for name in names]
        try:
            for worker in workers:
                opened = worker.ask("open")
                found[worker.name].base_mb = opened["before_mb"]
                if not opened["same"]:
                    raise SystemExit(f"{worker.name} gives other rows than it was given")
            for turn in range(2 if quick else TURNS):
                print(f"  reading, turn {turn + 1}", file=sys.stderr, flush=True)
                for worker in workers:
                    _turn(worker, found[worker.name], turn, 0.2 if quick else 1.0, 2.0 if quick else 5.0)
        finally:
            for worker in workers:
                worker.end()
    return found


def _turn(worker: Worker, found: Measured, turn: int, least_s: float, most_s: float) -> None:
    seed = 100 * turn
    found.turns.append(worker.ask("read", seed=seed, least_s=least_s, most_s=most_s)["rows_per_s"])
    answer = worker.ask("read", seed=None, least_s=least_s, most_s=most_s)
    found.in_order.append(answer["rows_per_s"])
    found.peak_mb = answer["peak_mb"]
    if worker.name == OURS:
        rate = worker.ask("decode", seed=seed, temperature=2.0)["rows_per_s"]
        found.decoded = max(rate, found.decoded or 0.0)


def best_peer(found: Mapping[str, Measured]) -> tuple[str, float]:
    """(name, rows/s) of the fastest other library, shuffled."""
    return max(((name, found[name].shuffled) for name in PEERS), key=lambda item: item[1])


def against(found: Mapping[str, Measured], other: str) -> float:
    """Median over the turns of our rate by another's, shuffled."""
    pairs = zip(found[OURS].turns, found[other].turns, strict=True)
    return statistics.median(ours / theirs for ours, theirs in pairs)


def shown(what: str, found: Mapping[str, Measured]) -> list[dict[str, Any]]:
    """Every figure of every library."""
    table = []
    for name, one in found.items():
        table += [
            row(f"{what}: {name}, shuffled epoch", one.shuffled, "rows/s"),
            row(f"{what}: {name}, epoch in order", statistics.median(one.in_order), "rows/s"),
            row(f"{what}: {name}, written", one.write["rows_per_s"], "rows/s"),
            row(f"{what}: {name}, on disk", one.write["bytes_per_row"], "bytes/row"),
            row(f"{what}: {name}, peak memory over an empty process", one.peak_mb - one.base_mb, "MB"),
        ]
        if one.decoded is not None:
            table.append(row(f"{what}: {name}, shuffled epoch, decoded at T = 2", one.decoded, "rows/s"))
    return table


def ratios(found: Mapping[str, Measured]) -> list[dict[str, Any]]:
    """Ours against each, and the aims."""
    best, _ = best_peer(found)
    return [
        *(row(f"labels: ours against {name}, in turns", against(found, name), "ratio") for name in PEERS),
        row("labels: ours, shuffled epoch", found[OURS].shuffled, "rows/s", RATE_AIM),
        row(f"labels: ours against the best peer ({best}), in turns", against(found, best), "ratio", PEERS_AIM),
        row("labels: ours against numpy, in turns", against(found, BARE), "ratio", NUMPY_AIM),
    ]


def row(what: str, value: float, unit: str, aim: float | None = None, most: bool = False) -> dict[str, Any]:
    """A row of the table; the aim is the least value, or the largest."""
    met = None if aim is None else (value <= aim if most else value >= aim)
    return {"what": what, "value": value, "unit": unit, "aim": aim, "at_most": most, "met": met}


def missed(table: Sequence[Mapping[str, Any]]) -> list[str]:
    """What misses its aim."""
    return [str(item["what"]) for item in table if item["met"] is False]
