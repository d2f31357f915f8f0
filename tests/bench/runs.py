"""What a run costs beside its work: a no-op rerun, a plan, and each stage against its bare work."""

from __future__ import annotations

import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import yaml

from pipeline.api import plan, run
from pipeline.workspace import read_events
from stages.places import Place
from tests.pipeline.world import write_world

COMMAND = Path(sys.executable).parent / "crossdistill"


def bench(quick: bool = False) -> list[dict[str, Any]]:
    """Rows of the table; about half a minute, and two more with Ray unless `quick`."""
    repeats = 3 if quick else 7
    with tempfile.TemporaryDirectory() as folder:
        spec = write_world(Path(folder) / "world")
        run(spec)
        rows = [
            row("crossdistill --help", timed(["--help"], repeats), "s", "<= 0.7"),
            row("import schemas, over pydantic's own import", schemas_import(repeats), "s", "<= 0.1"),
            row("no-op run of an unchanged spec", timed(["run", str(spec)], repeats), "s", "<= 2"),
            row("plan with nothing new to try", timed(["plan", str(spec)], repeats), "s", None),
        ]
        rows.append(row("plan with 31 students, nothing new to try", plan_of_many(spec, repeats), "s", "<= 1"))
        rows += stage_overheads(spec, Path(folder))
        if not quick:
            rows += ray_overheads(spec)
    return rows


def plan_of_many(spec: Path, repeats: int) -> float:
    """Median seconds of planning a grid of 30 points of two models, whose data, teacher and labels exist."""
    value = yaml.safe_load(spec.read_text())
    value["students"]["small"]["grid"] = {
        "method.temperature": [1, 2, 3, 4, 5],
        "training.learning_rate": [0.001, 0.003, 0.01],
        "model": ["mobile-tiny", "resnet-tiny"],
    }
    many = spec.with_name("many.yaml")
    many.write_text(yaml.safe_dump(value, sort_keys=False))
    return timed(["plan", str(many), "--workspace", str(spec.with_suffix(".workspace"))], repeats)


def row(what: str, value: float, unit: str, aim: str | None) -> dict[str, Any]:
    return {"what": what, "value": value, "unit": unit, "aim": aim}


def timed(words: list[str], repeats: int) -> float:
    """Median seconds of a command, after one warm-up."""

    def once() -> float:
        started = time.perf_counter()
        subprocess.run([str(COMMAND), *words], capture_output=True, check=True)
        return time.perf_counter() - started

    once()
    return statistics.median(once() for _ in range(repeats))


def schemas_import(repeats: int) -> float:
    """Median seconds that importing every contract adds, in turns with pydantic alone."""

    def once(modules: str) -> float:
        code = (
            "import time, pydantic, pydantic.main; started = time.perf_counter(); "
            f"import {modules}; print(time.perf_counter() - started)"
        )
        return float(subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout)

    return statistics.median(once("schemas.registry, schemas.spec") for _ in range(repeats))


def stage_overheads(spec: Path, folder: Path) -> list[dict[str, Any]]:
    """Wall time of each stage on a tiny world in this process: nearly all of it is overhead."""
    workspace = folder / "stages.workspace"
    shutil.rmtree(workspace, ignore_errors=True)
    run(spec, str(workspace))
    by_stage: dict[str, list[float]] = {}
    for event in read_events(Place(str(workspace))):
        if event.kind == "done" and event.seconds is not None:
            by_stage.setdefault(event.step.split(".")[0], []).append(event.seconds)
    return [
        row(f"stage {name}, local, tiny work, per step", statistics.median(times), "s", None)
        for name, times in by_stage.items()
    ]


def ray_overheads(spec: Path) -> list[dict[str, Any]]:
    """The same steps on Ray, beside the same steps in this process."""
    rows: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory() as folder:
        for mode in ("local", "ray"):
            seconds = wall(lambda mode=mode: run(spec, f"{folder}/{mode}", [f"resources.mode={mode}"]))  # type: ignore[misc]
            rows.append(row(f"whole way on a tiny world, {mode}", seconds, "s", None))
        done = [event for event in read_events(Place(f"{folder}/ray")) if event.kind == "done"]
        rows += [row(f"step {event.step}, ray", event.seconds or 0.0, "s", None) for event in done]
        assert plan(spec, f"{folder}/ray", ["resources.mode=ray"]).to_do == []
    return rows


def wall(work: Callable[[], Any]) -> float:
    started = time.perf_counter()
    work()
    return time.perf_counter() - started
