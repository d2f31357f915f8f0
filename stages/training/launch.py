"""A training loop on the ranks of a Ray Train worker group, or in this process.

A worker group costs 11 to 18 s to start on 2 cores. The loop leaves its results in the workspace: nothing is
returned, nothing is reported, so a loop can be killed and launched again.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable
from typing import Any

from schemas.errors import InternalError
from stages.cluster import causes, gpus_per_worker, own_error
from stages.context import Context

Loop = Callable[[dict[str, Any]], None]
RESTARTS = 2
"""How often a group whose process died is started again from its checkpoint."""
DEATHS = frozenset({"WorkerHealthCheckFailedError", "WorkerHealthCheckTimeoutError"})
"""Names of what Ray Train raises when a process of the group ended without an exception of its own."""


def launch(context: Context, loop: Loop, config: dict[str, Any], workers: int = 1, restarts: int = RESTARTS) -> None:
    """Run `loop(config)` on every rank. `config` crosses process boundaries and must be picklable.

    Raises what the loop raised if it is a CrossdistillError, WorkerDied if a process of the group died once more
    than it is started again, else InternalError with the cause.
    """
    if context.local:
        loop(config)
        return
    for restart in range(restarts + 1):
        try:
            _fit(context, loop, config, workers)
            return
        except WorkerDied as death:
            if restart == restarts:
                times = f"{restart + 1} times" if restart else "once"
                raise WorkerDied(f"a worker of {context.step} died {times}: {death}") from None
            context.tell("warning", f"a worker died ({death}); going on from its last checkpoint")


class WorkerDied(InternalError):
    """A process of a group ended without an exception of its own: a crash, or the end of memory."""


def _fit(context: Context, loop: Loop, config: dict[str, Any], workers: int) -> None:
    from ray.exceptions import ActorDiedError
    from ray.train import RunConfig, ScalingConfig
    from ray.train.torch import TorchTrainer

    resources = context.resources
    gpus = gpus_per_worker(resources)
    per_worker = {"CPU": resources.cpus_per_worker} | ({"GPU": gpus} if gpus else {})
    with tempfile.TemporaryDirectory(prefix="crossdistill-train-") as scratch:
        trainer = TorchTrainer(
            loop,
            train_loop_config=config,
            scaling_config=ScalingConfig(num_workers=workers, use_gpu=bool(gpus), resources_per_worker=per_worker),
            run_config=RunConfig(name=context.step.replace("/", "-"), storage_path=scratch),
        )
        try:
            trainer.fit()
        except Exception as error:
            if (ours := own_error(error)) is not None:
                raise ours from None
            found = causes(error)
            for cause in found:
                if type(cause).__name__ in DEATHS or isinstance(cause, ActorDiedError):
                    raise WorkerDied(str(cause).splitlines()[0]) from None
            last = found[-1]
            raise InternalError(f"{context.step}: {type(last).__name__}: {last}") from error


def rank() -> int:
    """Rank of this process in its group; 0 outside one."""
    import torch.distributed as dist

    return dist.get_rank() if dist.is_available() and dist.is_initialized() else 0


def world_size() -> int:
    """Processes in this group; 1 outside one."""
    import torch.distributed as dist

    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def device() -> Any:
    """The device of this rank: its accelerator where it has one, else the CPU."""
    import torch

    if torch.cuda.is_available():
        return torch.device("cuda", int(os.environ.get("LOCAL_RANK", "0")) % torch.cuda.device_count())
    return torch.device("cpu")
