"""Two real processes of a gloo group that train one cohort of the tiny world; run by `test_data_parallel`."""

from __future__ import annotations

import multiprocessing
import os
import signal
import sys
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist

from schemas.spec import Resources, Storage
from schemas.students import CohortInputs
from stages.context import Context
from stages.places import Place
from stages.progress import Reporter
from stages.students import cohort
from stages.students.stage import STUDENTS
from stages.training import checkpoints
from stages.training.launch import WorkerDied
from tests.students.world import Killed, World

LAUNCH = "1" * 32
SERVER = multiprocessing.get_context("forkserver")
SERVER.set_forkserver_preload(["tests.students.ranks"])  # torch is loaded once for all of them
KILLED, BROKEN = -signal.SIGKILL, 3


def context(folder: Path) -> Context:
    return Context(workspace=Place(str(folder)), resources=Resources(mode="local"))


def job(folder: Path, inputs: CohortInputs) -> cohort.Job:
    return cohort.Job(
        orders=tuple(STUDENTS.orders(context(folder), inputs)),
        storage=Storage(),
        launch=LAUNCH,
        threads=1,
        reporter=Reporter("students"),
        share_batches=True,
    )


def work(rank: int, ranks: int, folder: str, inputs: dict[str, Any], die_at: int | None) -> None:
    """One rank; it is killed before its `die_at`-th read."""
    dist.init_process_group("gloo", f"file://{folder}/meeting-{os.getppid()}-{die_at}", world_size=ranks, rank=rank)
    world = World()
    world.samples.die_at = die_at if rank == ranks - 1 else None
    cohort.open_feed = world.feed  # type: ignore[assignment]
    checkpoints.EVERY_SECONDS = 0.0
    torch.set_num_threads(1)
    try:
        cohort.loop({"job": job(Path(folder), CohortInputs.model_validate(inputs))})
    except Killed:
        os.kill(os.getpid(), signal.SIGKILL)
    except WorkerDied:
        sys.exit(BROKEN)
    dist.destroy_process_group()


def train(folder: Path, inputs: CohortInputs, ranks: int = 2, die_at: int | None = None) -> list[int | None]:
    """Exit codes of the ranks."""
    folder.mkdir(exist_ok=True)
    started = [
        SERVER.Process(target=work, args=(rank, ranks, str(folder), inputs.dump(), die_at)) for rank in range(ranks)
    ]
    for process in started:
        process.start()
    for process in started:
        process.join(timeout=120)
    return [process.exitcode for process in started]
