"""The whole way on a real S3 server: killed and gone on from, the same bytes as on a disk; faults in one sentence."""

from __future__ import annotations

import os
import socket
import subprocess
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pipeline.api import plan, run
from pipeline.show import report_of
from pipeline.workspace import held_lease, read_events
from schemas.errors import Busy
from stages.labels.reader import LabelSet
from stages.places import Place
from tests.pipeline.test_whole_way import Killed, digests
from tests.pipeline.world import write_spec, write_world
from tests.s3 import Server, s3_server
from tests.test_door import COMMAND

__all__ = ["s3_server"]

KILLS = ("checkpoints", "receipt.json", "set.json")
"""Commits after which the run is killed, once each."""


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory, s3_server: Server) -> Path:
    spec = write_world(tmp_path_factory.mktemp("on-s3"))
    return write_spec(spec, storage=s3_server.storage.dump())


@pytest.fixture
def kills(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Ends the run right after its first commit of each kind of `KILLS`; those that were seen."""
    real, seen = Place.put_new, list[str]()

    def put_new(self: Place, name: str, data: bytes) -> bool:
        made = real(self, name, data)
        kind = next((kind for kind in KILLS if kind in f"{self.uri}/{name}"), None)
        if not self.is_local and kind is not None and kind not in seen:
            seen.append(kind)
            raise Killed(name)
        return made

    monkeypatch.setattr(Place, "put_new", put_new)
    return seen


@pytest.mark.slow
def test_a_workspace_on_s3(world: Path, s3_server: Server, kills: list[str]) -> None:
    """Killed after three commits and gone on from each time, then rerun, changed and read."""
    place, local = s3_server.new_place(), Place(f"{world.parent}/local")
    on_disk = run(world, local.uri)
    for name in local.names("probes/models"):  # the models are known to build: that saves seconds
        place.put_new(f"probes/models/{name}", local.read(f"probes/models/{name}"))
    for _ in range(len(KILLS) + 1):
        result = run(world, place.uri)
        if not result.failures:
            break
    assert set(kills) == set(KILLS)
    assert digests(result) == digests(on_disk)
    assert run(world, place.uri).made == []
    assert {event.step for event in read_events(place) if event.kind == "done"} >= {"teachers.big", "report"}
    assert report_of(plan(world, place.uri)).name == "bars"
    changed = plan(world, place.uri, ["students.sharp.method.temperature=3.0"])
    assert set(changed.to_do) == {"students.sharp", "evaluation.sharp", "report"}

    labels = LabelSet.open(f"{place.uri}/store", storage=s3_server.storage)
    same = LabelSet.open(f"{local.uri}/store")
    rows = np.arange(150)
    assert labels.digest == same.digest
    assert np.array_equal(labels.logits(rows), same.logits(rows))

    for words in (["--endpoint-url", str(s3_server.storage.endpoint_url)], []):
        env = {} if words else {"AWS_ENDPOINT_URL": str(s3_server.storage.endpoint_url)}
        answer = crossdistill("labels", "ls", place.uri, *words, **env)
        assert labels.fingerprint in answer.stdout, answer.stderr


def crossdistill(*words: str, **environment: str) -> subprocess.CompletedProcess[str]:
    command = [str(COMMAND), *words]
    return subprocess.run(command, env={**os.environ, **environment}, capture_output=True, text=True, check=False)


def unused_port() -> int:
    with socket.socket() as item:
        item.bind(("127.0.0.1", 0))
        port: int = item.getsockname()[1]
        return port


@pytest.mark.slow
@pytest.mark.parametrize(
    ("uri", "changes", "said"),
    [
        ("s3://crossdistill/x", {"AWS_SECRET_ACCESS_KEY": "not-the-secret"}, "check its permissions or your cred"),
        ("s3://crossdistill/x", {"AWS_ACCESS_KEY_ID": "not-the-key"}, "check its permissions or your cred"),
        ("s3://no-such-bucket/x", {}, "its bucket does not exist"),
        ("s3://crossdistill/x", {"server": "down"}, "could not connect"),
        ("s3://crossdistill/x", {"server": "user:hunter2@nonsense"}, "invalid endpoint"),
    ],
)
def test_a_fault_is_one_sentence(s3_server: Server, uri: str, changes: dict[str, Any], said: str) -> None:
    environment = dict(changes)
    server = environment.pop("server", None)
    url = f"http://127.0.0.1:{unused_port()}" if server == "down" else server or str(s3_server.storage.endpoint_url)
    started = time.monotonic()
    answer = crossdistill("labels", "ls", uri, "--endpoint-url", url, **environment)
    assert time.monotonic() - started < 30  # about 2 s, or 7 s of retries at most, on a machine that is not busy
    assert answer.returncode == 2
    assert answer.stdout == ""
    assert len(answer.stderr.splitlines()) == 1, answer.stderr
    assert said in answer.stderr.lower()
    for secret in (*s3_server.credentials.values(), *environment.values(), "hunter2"):
        assert secret not in answer.stderr


def test_a_lease_whose_answer_was_lost_is_held(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A client that sends a conditional write again is told that the object exists: its own."""
    real = Place.put_new

    def forgetful(self: Place, name: str, data: bytes) -> bool:
        real(self, name, data)
        return False

    monkeypatch.setattr(Place, "put_new", forgetful)
    place = Place(str(tmp_path / "w"))
    with held_lease(place, "first"):
        with pytest.raises(Busy, match="`first`"):
            with held_lease(place, "second"):
                pass
    with held_lease(place, "third"):
        pass
