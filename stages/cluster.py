"""Ray, started quietly: one runtime per process, workers that check their house, a bulletin for progress.

Starting one here takes 6 to 8 s on 2 cores. Stages never start Ray: the runner (or a test session) does.
"""

from __future__ import annotations

import logging
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

from schemas.errors import CrossdistillError, InternalError, PlaceError
from schemas.spec import Resources
from stages.progress import Bulletin

Answer = TypeVar("Answer")
OBJECT_STORE_BYTES = 256 * 2**20
"""Labels and samples never pass through the object store; Ray would take 30% of the memory."""

WORKER_ENV = {
    "MALLOC_MMAP_THRESHOLD_": str(256 * 2**20),
    "MALLOC_TRIM_THRESHOLD_": str(512 * 2**20),
    "RAY_TRAIN_V2_ENABLED": "1",
    "TOKENIZERS_PARALLELISM": "false",
    "PYTHONWARNINGS": "ignore",
}
"""Environment of every worker. The allocator's thresholds make training up to 1.8 times faster here."""


def start(resources: Resources, user_code: Path | None = None) -> None:
    """Join the cluster of `resources`, or start one on this machine. Does nothing if Ray is up.

    `user_code` is a folder with the user's own modules, made importable in every worker.
    Raises PlaceError if the cluster does not answer.
    """
    os.environ.setdefault("RAY_TRAIN_V2_ENABLED", "1")
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    os.environ.setdefault("RAY_BACKEND_LOG_LEVEL", "fatal")  # else its C++ core writes to the user's terminal
    os.environ.setdefault("RAY_DEDUP_LOGS_SKIP_REGEX", ".*")  # and the raylet's remarks come on stdout
    import ray

    if ray.is_initialized():
        return
    address = resources.address or os.environ.get("RAY_ADDRESS")
    environment: dict[str, Any] = {"env_vars": dict(WORKER_ENV)}
    if user_code is not None:
        if address:
            environment["working_dir"] = str(user_code)
        else:
            paths = [str(user_code), *filter(None, os.environ.get("PYTHONPATH", "").split(os.pathsep))]
            environment["env_vars"]["PYTHONPATH"] = os.pathsep.join(paths)
    options: dict[str, Any] = {
        "address": address,
        "runtime_env": environment,
        "log_to_driver": False,
        "logging_level": logging.ERROR,
        "configure_logging": True,
    }
    if not address:
        # "local" always starts one: without an address Ray would join any cluster that it finds on this machine
        options |= {"address": "local", "object_store_memory": OBJECT_STORE_BYTES, "include_dashboard": False}
    with _own_signals(), _silence():
        try:
            ray.init(**options)
        except ConnectionError as error:
            raise PlaceError(f"no Ray cluster answers at {address}: {error}") from None
    for name in ("ray", "ray.data", "ray.train"):
        logging.getLogger(name).setLevel(logging.ERROR)
    check_workers()


def check_workers() -> None:
    """Start one worker on each node and see that it finds our packages, and no foreign ones by their names.

    Costs the start of a worker, which later work uses. Raises PlaceError naming what is missing or shadowed.
    """
    import ray
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    def strangers() -> list[str]:  # an inner function travels by value: it must not need what it looks for
        import importlib.util

        found = []
        for name, mark in expected.items():
            spec = importlib.util.find_spec(name)
            if spec is None or spec.origin is None:
                found.append(f"'{name}' is not installed there")
                continue
            with open(spec.origin, encoding="utf-8") as file:  # noqa: PTH123
                if file.read(len(mark)) != mark:
                    found.append(f"'{name}' is shadowed by {spec.origin}")
        return found

    from crossdistill import MARK, PACKAGES

    expected = dict.fromkeys(PACKAGES, MARK)
    remote: Any = ray.remote(strangers)
    for node in [node for node in ray.nodes() if node["Alive"]]:
        here = NodeAffinitySchedulingStrategy(node["NodeID"], soft=False)
        found = ray.get(remote.options(num_cpus=0, scheduling_strategy=here).remote())
        if found:
            raise PlaceError(
                f"workers on {node['NodeManagerHostname']} do not find crossdistill's own packages: "
                f"{'; '.join(found)}. Install crossdistill there, rename that folder, or leave it out of PYTHONPATH"
            )


@contextmanager
def _own_signals() -> Iterator[None]:
    """Keep this process's answer to SIGTERM: Ray puts one of its own in place, which prints a stack."""
    before = signal.getsignal(signal.SIGTERM)
    yield
    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGTERM, before)


@contextmanager
def _silence() -> Iterator[None]:
    """Nothing on file descriptor 2 meanwhile: Ray's C++ core tells there that it will tell nothing."""
    sys.stderr.flush()
    kept = os.dup(2)
    with Path(os.devnull).open("w") as nowhere:
        os.dup2(nowhere.fileno(), 2)
    try:
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)


def new_bulletin() -> Any:
    """The actor that workers tell their progress."""
    import ray

    return ray.remote(num_cpus=0)(Bulletin).remote()


def cores() -> int:
    """CPU cores of the cluster."""
    import ray

    return int(ray.cluster_resources().get("CPU", 1))


def gpus_per_worker(resources: Resources) -> float:
    """Accelerators of a worker: as the spec says, else one where the cluster has any."""
    import ray

    if resources.gpus_per_worker is not None:
        return resources.gpus_per_worker
    return 1 if ray.cluster_resources().get("GPU", 0) >= 1 else 0


def on_ray(step: str, resources: Resources, question: Callable[..., Answer], *about: Any) -> Answer:
    """`question(*about)` as one task of the running cluster.

    Raises what it raised if that is a CrossdistillError, else InternalError with the cause.
    """
    import ray

    task = ray.remote(num_cpus=resources.cpus_per_worker, num_gpus=gpus_per_worker(resources))(question)
    try:
        answer: Answer = ray.get(task.remote(*about))
    except ray.exceptions.RayError as error:
        if (ours := own_error(error)) is not None:
            raise ours from None
        last = causes(error)[-1]
        raise InternalError(f"{step}: {type(last).__name__}: {last}") from error
    return answer


def causes(error: BaseException) -> list[BaseException]:
    """The error, the failures of the workers that it carries, and their causes, outermost first."""
    found: list[BaseException] = []
    todo: list[BaseException | None] = [error]
    while todo:
        item = todo.pop(0)
        if item is None or any(item is known for known in found):
            continue
        found.append(item)
        failures = getattr(item, "worker_failures", None)
        if isinstance(failures, dict):
            todo += [failure for failure in failures.values() if isinstance(failure, BaseException)]
        cause = getattr(item, "cause", None)
        todo += [cause if isinstance(cause, BaseException) else None, item.__cause__]
    return found


def own_error(error: BaseException) -> CrossdistillError | None:
    """Our own error among the causes of what a worker raised, or None.

    Ray's double of it, which has the same class and a traceback for its text, is passed over.
    """
    doubles: Any = sys.modules["ray.exceptions"].RayError if "ray.exceptions" in sys.modules else ()
    ours = (cause for cause in causes(error) if isinstance(cause, CrossdistillError))
    return next((cause for cause in ours if not isinstance(cause, doubles)), None)


def stop() -> None:
    """Leave the cluster; a cluster that was started here ends with all its workers."""
    if "ray" in sys.modules:
        import ray

        if ray.is_initialized():
            ray.shutdown()
