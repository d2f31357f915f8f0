"""One library in a process of its own: `python -m tests.bench.store.worker NAME KEPT SOURCE CORE`.

Reads a JSON command a line from stdin and answers with a JSON line; the driver starts one process a library and gives
them turns. Whatever libraries print goes to stderr. Runs in the peers' environment, or in ours for `ours`.
"""

from __future__ import annotations

import json
import os
import resource
import statistics
import sys
import time
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np

from tests.bench.store import peers
from tests.bench.store.rows import KEY, Batch, load, make, same

BATCH = 256
PEERS: dict[str, Callable[[Path], peers.Peer]] = {
    "streaming": peers.Streaming,
    "litdata": peers.LitData,
    "webdataset": peers.WebDataset,
    "lance": peers.Lance,
    "datasets": peers.Datasets,
}


def main() -> None:
    name, kept, source, core = sys.argv[1:]
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, {int(core)})
    peer = peer_of(name, Path(kept))
    for line in sys.stdin:
        command = json.loads(line)
        work: dict[str, Callable[..., Any]] = {"write": write, "open": open_, "read": read, "decode": decode}
        answer = work[command.pop("do")](peer, Path(source), **command)
        print(json.dumps(answer), file=answers, flush=True)


def peer_of(name: str, folder: Path) -> peers.Peer:
    if name == "numpy":
        return peers.Bare(folder)
    if name == "ours":
        found: peers.Peer = import_module("tests.bench.store.ours").Ours(folder)
        return found
    return PEERS[name](folder)


def write(peer: peers.Peer, source: Path) -> dict[str, Any]:
    """Rate at which all rows are kept, to the disk, and what lies there then. A few are kept first, uncounted."""
    small = peer.folder.with_name(f"{peer.folder.name}-first")
    make(small.with_name(f"{small.name}-rows"), 64, "pixels" in load(source))
    type(peer)(small).write(small.with_name(f"{small.name}-rows"))
    rows = len(load(source)[KEY])
    os.sync()
    started = time.perf_counter()
    peer.write(source)
    os.sync()
    seconds = time.perf_counter() - started
    files = [path for path in peer.folder.rglob("*") if path.is_file()]
    return {
        "rows_per_s": rows / seconds,
        "bytes_per_row": sum(path.stat().st_size for path in files) / rows,
        "files": len(files),
        "peak_mb": peak_mb(),
    }


def open_(peer: peers.Peer, source: Path) -> dict[str, Any]:
    """Open, read a batch, and see that it holds what it should."""
    before = peak_mb()
    started = time.perf_counter()
    peer.open()
    batch = next(iter(peer.epoch(BATCH, 0)))
    seconds = time.perf_counter() - started
    fields: Batch = {name: np.asarray(batch[name]) for name in load(source)}
    return {"seconds": seconds, "same": same(fields, load(source)), "before_mb": before}


def read(peer: peers.Peer, source: Path, seed: int | None, least_s: float, most_s: float) -> dict[str, Any]:
    """Rows/s of whole epochs, as many as begin within `least_s`, with all that an epoch costs.

    Where one takes more than `most_s` it is ended, and its rate is that after its first batch: what it did to prepare
    is then not held against it. Raises SystemExit if a row came twice, or one of a whole epoch never.
    """
    total, began = len(load(source)[KEY]), time.perf_counter()
    rates: list[float] = []
    while not rates or time.perf_counter() - began < least_s:
        keys: list[Any] = []
        started = first = now = time.perf_counter()
        for batch in peer.epoch(BATCH, None if seed is None else seed + len(rates)):
            keys.append(batch[KEY])
            now = time.perf_counter()
            first = first if len(keys) > 1 else now
            if now - started > most_s:
                break
        found = np.concatenate([np.asarray(item) for item in keys])
        whole = len(found) == total
        if len(np.unique(found)) != len(found) or not (whole or now - started > most_s):
            raise SystemExit(f"{peer.package}: {len(np.unique(found))} rows came in {len(found)}, there are {total}")
        rates.append(total / (now - started) if whole else (len(found) - len(keys[0])) / (now - first))
    return {"rows_per_s": statistics.median(rates), "peak_mb": peak_mb()}


def decode(peer: peers.Peer, source: Path, seed: int, temperature: float) -> dict[str, Any]:
    """Rows/s of an epoch whose batches are decoded at a temperature (ours alone)."""
    rows, began = 0, time.perf_counter()
    for batch in peer.epoch(BATCH, seed):
        peer.decode(batch, temperature)  # type: ignore[attr-defined]
        rows += len(batch[KEY])
    return {"rows_per_s": rows / (time.perf_counter() - began)}


def peak_mb() -> float:
    """Largest resident memory of this process. (`getrusage` would count its parent's before `exec`, too.)"""
    status = Path("/proc/self/status")
    if not status.exists():
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    return next(int(line.split()[1]) for line in status.read_text().splitlines() if line.startswith("VmHWM")) / 1024


if __name__ == "__main__":
    main()
