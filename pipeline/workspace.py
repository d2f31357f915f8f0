"""A workspace: who works in it (lease), what happened (events), what each step asked last (records).

A lease saves work and never guards correctness: commits do. Costs one small write every few seconds while held.
"""

from __future__ import annotations

import os
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TypeVar

from schemas.base import Document
from schemas.errors import Busy, ContractError
from schemas.runs import Event, Lease, StepRecord
from stages.places import Log, Place, new_attempt

HEARTBEAT_S = 3.0
"""Seconds between heartbeats of a lease."""
STALE_S = 20.0
"""A heartbeat that has not moved for this long, by the observer's own clock, belongs to a dead holder."""
FLUSH_S = 3.0
"""Seconds between flushes of the event log."""
DocumentT = TypeVar("DocumentT", bound=Document)


def readable(contract: type[DocumentT], data: bytes | None) -> DocumentT | None:
    """What a file of the caches and the history says, or None if there is none or it is damaged: none of them blocks
    any work.
    """
    try:
        return None if data is None else contract.parse_json(data, "it")
    except ContractError:
        return None


@contextmanager
def held_lease(workspace: Place, command: str, wait: float = STALE_S) -> Iterator[None]:
    """Hold the workspace's run lease. Raises Busy naming the holder if another run has it.

    A dead holder on this machine is seen at once; one elsewhere after `wait` seconds without a heartbeat.
    """
    log = Log(workspace / "leases/run")
    holder = new_attempt()
    lease = Lease(holder=holder, host=_host(), pid=os.getpid(), started=_started(os.getpid()), command=command)
    number = _acquire(log, lease, wait)
    done = threading.Event()
    beats = threading.Thread(target=_beat, args=(log, lease, number, done), daemon=True)
    beats.start()
    try:
        yield
    finally:
        done.set()
        beats.join()


def _acquire(log: Log, lease: Lease, wait: float) -> int:
    while True:
        number, data = log.last()
        current = readable(Lease, data)
        if current is not None and current.holder == lease.holder:
            return number  # it was taken, and only the answer was lost
        if current is not None and not current.released and not _dead(current):
            deadline = time.monotonic() + wait
            while log.last()[0] == number:
                if current.host == lease.host or time.monotonic() >= deadline:
                    break
                time.sleep(0.5)
            if log.last()[0] != number or current.host == lease.host:
                host = current.host.split("/")[0]
                raise Busy(
                    f"another run works in {log.place.uri.removesuffix('/leases/run')}: `{current.command}`, process "
                    f"{current.pid} on {host}. Wait for it, or give this run its own --workspace"
                )
        if log.append(number + 1, lease.to_json()):
            return number + 1


def _beat(log: Log, lease: Lease, number: int, done: threading.Event) -> None:
    beat = 0
    while True:
        finished = done.wait(HEARTBEAT_S)
        beat += 1
        entry = lease.model_copy(update={"beat": beat, "released": finished})
        try:
            if not log.append(number + 1, entry.to_json()) and log.last() != (number + 1, entry.to_json()):
                return  # taken for dead and replaced: the work goes on, since commits are safe without a lease
            log.forget(number)
            number += 1
        except OSError:
            pass
        if finished:
            return


def _dead(lease: Lease) -> bool:
    """Whether the holder ran on this machine since its last start and is gone."""
    return lease.host == _host() and _started(lease.pid) != lease.started


def _host() -> str:
    boot = Path("/proc/sys/kernel/random/boot_id")
    return f"{socket.gethostname()}/{boot.read_text().strip() if boot.exists() else ''}"


def _started(pid: int) -> str:
    """When a process began, in the kernel's ticks; empty if there is none."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[19]
    except (OSError, IndexError):
        try:
            os.kill(pid, 0)
        except (OSError, OverflowError):
            return ""
        return "alive"


class EventLog:
    """Writes events in numbered segments below a name of its own; readers merge them."""

    def __init__(self, workspace: Place) -> None:
        self._place = workspace / f"events/{new_attempt()}"
        self._lock = threading.Lock()
        self._lines: list[bytes] = []
        self._segment = 0
        self._flushed = time.monotonic()

    def write(self, event: Event) -> None:
        """Take one event; it is on disk within a few seconds."""
        with self._lock:
            self._lines.append(event.model_dump_json(exclude_none=True).encode() + b"\n")
        if time.monotonic() - self._flushed >= FLUSH_S:
            self.flush()

    def flush(self) -> None:
        """Write what waits as one segment."""
        with self._lock:
            lines, self._lines = self._lines, []
            self._flushed = time.monotonic()
            if lines:
                self._segment += 1
                self._place.put_new(f"{self._segment:06d}.jsonl", b"".join(lines))


def read_events(workspace: Place) -> list[Event]:
    """All events of all runs, by time; lines that are damaged are left out."""
    lines: list[bytes] = []
    for writer in workspace.names("events"):
        for segment in workspace.names(f"events/{writer}"):
            lines += workspace.read(f"events/{writer}/{segment}").splitlines()
    events = [event for line in lines if (event := readable(Event, line)) is not None]
    return sorted(events, key=lambda event: event.time)


def last_record(workspace: Place, step: str) -> StepRecord | None:
    """What a step asked when it last ran here, as far as that can be read."""
    return readable(StepRecord, Log(workspace / f"runs/steps/{step}").last()[1])


def write_record(workspace: Place, record: StepRecord) -> None:
    """Remember what a step asked, unless that is what stands there already."""
    log = Log(workspace / f"runs/steps/{record.step}")
    number, data = log.last()
    if data != record.to_json():
        log.append(number + 1, record.to_json())
