"""Leases, events and records: who works here, what happened, what was asked."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from pipeline import workspace
from pipeline.workspace import EventLog, held_lease, last_record, read_events, write_record
from schemas.errors import Busy
from schemas.runs import Event, Lease, StepRecord
from stages.places import Log, Place


@pytest.fixture
def place(tmp_path: Path) -> Place:
    return Place(str(tmp_path / "w"))


def test_a_second_run_is_refused_by_name(place: Place) -> None:
    with held_lease(place, "crossdistill run one.yaml"):
        with pytest.raises(
            Busy, match=rf"another run works in .*w: `crossdistill run one.yaml`, process {os.getpid()}"
        ):
            with held_lease(place, "second"):
                pass
    with held_lease(place, "third"):
        pass


def test_a_killed_holder_on_this_machine_is_seen_at_once(place: Place) -> None:
    code = f"""
import os, sys
sys.path.insert(0, {str(Path(workspace.__file__).parents[1])!r})
from pipeline.workspace import held_lease
from stages.places import Place
with held_lease(Place({place.uri!r}), 'doomed'):
    os._exit(9)
"""
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 9
    started = time.monotonic()
    with held_lease(place, "next"):
        assert time.monotonic() - started < workspace.STALE_S / 2


def _elsewhere(place: Place, number: int, beat: int = 0) -> None:
    lease = Lease(holder="f" * 32, host="other/boot", pid=1, started="1", command="far", beat=beat)
    Log(place / "leases/run").append(number, lease.to_json())


def test_a_silent_holder_elsewhere_is_replaced_a_beating_one_is_not(place: Place) -> None:
    _elsewhere(place, 1)
    with held_lease(place, "next", wait=0.3):
        pass
    import threading

    number = Log(place / "leases/run").last()[0]
    _elsewhere(place, number + 1)
    beat = threading.Timer(0.2, _elsewhere, (place, number + 2, 1))
    beat.start()
    with pytest.raises(Busy, match="`far`"):
        with held_lease(place, "next", wait=5.0):
            pass
    beat.join()


def test_heartbeats_keep_one_entry(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(workspace, "HEARTBEAT_S", 0.05)
    with held_lease(place, "beating"):
        deadline = time.monotonic() + 5
        while Log(place / "leases/run").last()[0] < 4 and time.monotonic() < deadline:
            time.sleep(0.02)
        assert len(place.names("leases/run")) <= 2
    number, data = Log(place / "leases/run").last()
    assert number >= 5
    assert data is not None
    assert Lease.parse_json(data, "lease").released


def test_events_of_several_writers_merge_by_time(place: Place) -> None:
    one, other = EventLog(place), EventLog(place)
    for moment, log in ((1.0, one), (2.0, other), (3.0, one)):
        log.write(Event(time=moment, step="s", kind="note", message=str(moment)))
        log.flush()
    one.flush()
    assert [event.message for event in read_events(place)] == ["1.0", "2.0", "3.0"]


def test_records_grow_only_when_something_changed(place: Place) -> None:
    record = StepRecord(step="labels.x", fingerprints={"": "1" * 32}, inputs={"": {"a": 1}})
    assert last_record(place, "labels.x") is None
    write_record(place, record)
    write_record(place, record)
    assert place.names("runs/steps/labels.x") == ["000001.json"]
    changed = record.model_copy(update={"fingerprints": {"": "2" * 32}})
    write_record(place, changed)
    assert last_record(place, "labels.x") == changed


DAMAGE = [b"", b"{", b"[]", b'{"version": 1}', b"\xff"]


@pytest.mark.parametrize("damage", DAMAGE)
def test_damaged_history_blocks_nothing(place: Place, damage: bytes) -> None:
    """A damaged lease holds nothing, damaged events and records are passed over."""
    record = StepRecord(step="labels.x", fingerprints={"": "1" * 32}, inputs={"": {"a": 1}})
    write_record(place, record)
    log = EventLog(place)
    log.write(Event(time=1.0, step="s", kind="note", message="kept"))
    log.flush()
    place.put("leases/run/000007.json", damage)
    place.put("runs/steps/labels.x/000002.json", damage)
    place.put("events/torn/000001.jsonl", damage + b"\n")
    with held_lease(place, "next"):
        assert Log(place / "leases/run").last()[0] == 8
    assert last_record(place, "labels.x") is None
    write_record(place, record)
    assert last_record(place, "labels.x") == record
    assert [event.message for event in read_events(place)] == ["kept"]
