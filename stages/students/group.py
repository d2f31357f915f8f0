"""How students come to their goals: a worker group for each stream, restarts, and the search for who ends its process.

A worker group costs 11 to 18 s to start; in local mode there is none. Nothing here loads torch before it trains.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from schemas.canonical import digest
from schemas.errors import SpecError
from stages.context import Context
from stages.places import new_attempt
from stages.students.bisection import bisect
from stages.training.launch import WorkerDied, launch

if TYPE_CHECKING:
    from stages.students.order import Order

DEADLY = "it ends the process that trains it"
MEND = "give it a smaller model or `batch_size`, or mend its code if that is a crash"


def train_all(context: Context, orders: Sequence[Order]) -> dict[str, str]:
    """Train students, those of one stream together; the answer is why each one failed that did, by its fingerprint.

    Raises UserError, before anything is trained, if inputs cannot be read or do not fit together.
    """
    from stages.students.checks import check_students

    for group in _alike(orders, "task", "classes", "stream", "held_out"):
        check_students(context, group[0].asked, [order.student for order in group])
    failures: dict[str, str] = {}
    for group in _alike(orders, "task", "classes", "stream"):
        failures |= _train(context, group)
    return failures


def _alike(orders: Sequence[Order], *fields: str) -> list[list[Order]]:
    """Students by what is asked of them in common."""
    groups: dict[str, list[Order]] = {}
    for order in orders:
        groups.setdefault(digest([getattr(order.asked, field) for field in fields]), []).append(order)
    return list(groups.values())


def _train(context: Context, orders: Sequence[Order]) -> dict[str, str]:
    from stages.students.cohort import Job, failure_of, forget_failure, loop, over

    by_name = {order.fingerprint: order for order in orders}
    name = new_attempt()
    threads = max(1, int(context.resources.cpus_per_worker))
    share = context.resources.data_parallel and not context.local
    stream, workers = orders[0].asked.stream, context.resources.workers
    if share and (rows := min(stream.batch_size, stream.labelled_batch_size)) < workers:
        raise SpecError(
            f"resources: {workers} workers cannot share batches of {rows} rows: give fewer `workers`, larger batches, "
            "or leave `data_parallel` out"
        )

    def left(names: Sequence[str]) -> list[str]:
        return [item for item in names if not over(by_name[item], name)]

    def attempt(names: Sequence[str], restarts: int) -> str | None:
        job = Job(
            orders=tuple(by_name[item] for item in names),
            storage=context.storage,
            launch=name,
            threads=threads,
            reporter=context.reporter(),
            share_batches=share,
        )
        most = workers if share else len(names)
        try:
            launch(context, loop, {"job": job}, workers=min(most, room(context)), restarts=restarts)
        except WorkerDied as death:
            if len(names) > 1:
                context.tell("warning", f"{death}; looking for the student that ends it among {len(names)}, by halves")
            return str(death)
        return None

    deaths = bisect(list(by_name), attempt, left)
    failures = {item: f"{DEADLY} ({death}): {MEND}" for item, death in deaths.items()}
    for order in orders:
        if (reason := failure_of(order, name)) is not None:
            failures[order.fingerprint] = reason
        forget_failure(order, name)
    return failures


def room(context: Context) -> int:
    """Ranks that the cluster has room for now, beside the steps that start with this one; 1 in this process."""
    if context.local:
        return 1
    import ray

    from stages.cluster import gpus_per_worker

    free, resources = ray.available_resources(), context.resources
    cores = free.get("CPU", 0) if context.width is None else min(free.get("CPU", 0), context.width)
    room = int(cores // resources.cpus_per_worker)
    if gpus := gpus_per_worker(resources):
        room = min(room, int(free.get("GPU", 0) // gpus))
    return max(1, room)
