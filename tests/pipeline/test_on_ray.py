"""The whole way on Ray: the same bytes as in one process, also when the driver is killed in the middle."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from pathlib import Path

import pytest

from pipeline.api import plan, run
from pipeline.workspace import read_events
from stages.places import Place
from tests.pipeline.test_whole_way import digests
from tests.pipeline.world import write_world
from tests.test_door import COMMAND

ON_RAY = ("resources.mode=ray", "teachers.big.training.epochs=3")


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_world(tmp_path_factory.mktemp("on-ray"))


@pytest.mark.ray
@pytest.mark.slow
def test_ray_gives_the_same_bytes_as_one_process(world: Path, ray_runtime: None) -> None:
    local = run(world, f"{world.parent}/local", ["teachers.big.training.epochs=3"])
    on_ray = run(world, f"{world.parent}/ray", ON_RAY)
    assert not on_ray.failures, on_ray.failures
    assert digests(on_ray) == digests(local)
    events = read_events(Place(f"{world.parent}/ray"))
    assert {event.step for event in events if event.kind == "done"} >= {"teachers.big", "labels.said", "report"}
    assert any(event.kind == "progress" and event.unit == "steps" for event in events), "workers tell their progress"


@pytest.mark.ray
@pytest.mark.slow
@pytest.mark.timeout(600)
def test_a_killed_driver_is_gone_on_from(world: Path, tmp_path: Path) -> None:
    """SIGKILL in the middle of the teacher's training, then of the students; no cluster is shared."""
    workspace = tmp_path / "killed"
    words = [str(COMMAND), "run", str(world), "--workspace", str(workspace)]
    words += [word for override in ON_RAY for word in ("--set", override)]
    for reached in ("artifacts/teachers/*/checkpoints/*", "artifacts/labels/*/artifact.json"):
        process = subprocess.Popen(words, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True)
        deadline = time.monotonic() + 200
        while not list(workspace.glob(reached)) and process.poll() is None and time.monotonic() < deadline:
            time.sleep(0.1)
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
    result = run(world, str(workspace), ["teachers.big.training.epochs=3"])
    assert not result.failures
    assert digests(result) == digests(run(world, f"{tmp_path}/whole", ["teachers.big.training.epochs=3"]))
    assert plan(world, str(workspace), ["teachers.big.training.epochs=3"]).to_do == []
