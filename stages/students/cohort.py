"""A cohort in training: the students of a rank step by step on one feed.

Each batch is read, decoded, augmented and moved once, whatever the number of students. Students are dealt
over the ranks; a result depends neither on the dealing nor on neighbours, failures or kills. A killed
cohort goes on from the checkpoint of each student; one that is ahead waits until the others have caught up.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from schemas.artifacts import Ref
from schemas.errors import DataError
from schemas.spec import Storage
from schemas.students import SourceInputs
from stages.artifacts import find_artifact
from stages.classes import class_columns, class_numbers
from stages.places import Place
from stages.progress import Reporter
from stages.students.feed import Feed, SourceDomain
from stages.students.fit import Fit
from stages.students.lockstep import train
from stages.students.memory import memory_of
from stages.students.order import Order
from stages.tasks import get_task
from stages.training import checkpoints
from stages.training.launch import WorkerDied, device, rank, world_size
from stages.training.models import preprocessing_of
from stages.training.peers import ALONE, GroupBroken, Peers
from stages.training.stream import RowStream


@dataclass(frozen=True)
class Job:
    """What a worker group is told."""

    orders: tuple[Order, ...]
    """The students to train: each once."""
    storage: Storage
    launch: str
    """Names this launch: failures are left under it."""
    threads: int
    reporter: Reporter
    share_batches: bool = False
    """Whether all ranks hold all students and share the rows of each batch; else students are dealt over the ranks."""


def loop(config: dict[str, Any]) -> None:
    """Train this rank's share of `config["job"]`, and commit each student that ends well.

    Raises what reading the inputs raises; what goes wrong in a student ends that student alone.
    """
    job: Job = config["job"]
    here = device()
    peers = Peers(rank(), world_size(), here) if job.share_batches else ALONE
    dealt = job.orders if job.share_batches else job.orders[rank() :: world_size()]
    mine = [order for order in dealt if not over(order, job.launch)]
    if not mine:
        return
    task = get_task(mine[0].asked.task)
    with _quiet_torch(job.threads, here):
        fits = []
        for order in mine:
            fits.append(fit := Fit(order, task, job.storage, here))
            _leave_failure(fit, job.launch)
        able = [fit for fit in fits if fit.failure is None]
        if not able:
            return
        feed = open_feed(able, job.storage, here)
        feed.peers = peers
        share = len(job.orders) / len(mine)
        total = sum(order.until or order.student.steps for order in job.orders)

        def progress(done: int) -> None:
            if rank() == 0:  # ranks advance alike: the first speaks for all
                job.reporter.progress(min(total, round(done * share)), total, "steps")

        def end(fit: Fit) -> None:
            if fit.failure is None and peers.first and fit.order.until is not None:
                _measure(fit, feed)
            elif fit.failure is None and peers.first:
                fit.commit()
            _leave_failure(fit, job.launch)

        warn = job.reporter.warn if peers.first else lambda message: None
        try:
            train(able, feed, end, progress, checkpoints.EVERY_SECONDS, memory_of(here), warn)
            peers.agree([0])  # nobody leaves before the first one has committed
        except GroupBroken as broken:
            raise WorkerDied(f"another worker of its group is gone: {broken}") from None


def open_feed(fits: Sequence[Fit], storage: Storage, here: torch.device) -> Feed:
    """The inputs of some students, opened from their places: samples, split, budgets and label sets.

    Label sets are aligned with the samples. Raises UserError naming what is missing or does not fit.
    """
    from stages.domains.reader import TRAIN, Samples, read_budget, read_split
    from stages.labels.reader import LabelSet
    from stages.labels.views import check_replays

    asked = fits[0].order.asked
    stream, task = asked.stream, get_task(asked.task)
    reads = task.reads(preprocessing_of(task, stream.preprocessing))

    def place(ref: Ref) -> Place:
        return Place(ref.uri, storage)

    samples = Samples.open(place(stream.samples), stream.samples)
    split = read_split(place(stream.split), stream.split)
    sets = {ref.digest: ref for fit in fits for ref in fit.reads}
    opened = {digest: LabelSet.open_ref(place(ref), ref) for digest, ref in sets.items()}
    label_sets = {digest: labels.align(samples) for digest, labels in opened.items()}
    for labels in label_sets.values():
        if labels.manifest.views != stream.views:
            raise DataError(f"label set {labels.manifest.fingerprint[:12]} holds other views than the cohort reads")
        check_replays(labels, task, samples)
    draws = {fit.budget: fit.student.budget for fit in fits if fit.budget and fit.student.budget}
    known = samples.manifest.classes or asked.classes
    numbers = class_numbers(known, asked.classes)
    budgets = {digest: read_budget(place(ref), ref).renumbered(numbers) for digest, ref in draws.items()}
    rows = RowStream(
        positions=np.flatnonzero(split == TRAIN),
        offsets=samples.offsets,
        bytes_per_row=sum(shard.samples.size for shard in samples.shards) / samples.rows,
        batch_size=stream.batch_size,
        window_bytes=stream.window_bytes,
        seed=stream.seed,
    )
    sources = {
        fit.source: _source(fit.student.source, place, asked.classes, reads)
        for fit in fits
        if fit.source and fit.student.source
    }

    def coming(shard: int) -> list[Callable[[], object]]:
        found = samples.coming(shard)
        for labels in label_sets.values():
            if isinstance(labels, LabelSet):  # else its units hold the rows of other shards
                for unit in range(shard, len(labels.units), len(samples.shards)):  # one of each view
                    found += labels.coming(unit)
        return found

    seen = samples.only(reads)
    return Feed(task, asked.classes, stream, seen, rows, budgets, label_sets, here, sources, coming)


def _source(
    source: SourceInputs, place: Callable[[Ref], Place], classes: Sequence[str], reads: tuple[str, ...] | None = None
) -> SourceDomain:
    """The rows of a source domain that are read, their truth counted in `classes`.

    Raises DataError if there are none, StoreError if the source speaks of other classes.
    """
    from stages.domains.reader import TRAIN, Samples, read_budget, read_split

    samples = Samples.open(place(source.samples), source.samples).only(reads)
    if source.budget is not None:
        known = samples.manifest.classes or classes
        class_columns(known, classes, "the source of `source_share`", "the students")
        budget = read_budget(place(source.budget), source.budget).renumbered(class_numbers(known, classes))
        if not len(budget.train_positions):
            raise DataError("the source domain has no true labels to learn from: raise its `label_budget.train`")
        return SourceDomain(samples, budget.train_positions, budget.train_truth)
    rows = np.flatnonzero(read_split(place(source.split), source.split) == TRAIN)
    if not len(rows):
        raise DataError("the source domain has no train rows to read: give it a larger share in `split`")
    return SourceDomain(samples, rows)


def _measure(fit: Fit, feed: Feed) -> None:
    """Leave a student's selection quality at this moment, and the checkpoint to go on from."""
    with fit.guard():
        rows = [fit.predict(inputs) for inputs in feed.validation(fit.budget)] if fit.budget else []
        truth = feed.validation_truth(fit.budget) if fit.budget else None
        quality = fit.quality(np.concatenate(rows) if rows else None, truth)
        fit.save()
        fit.order.folder.put(_rung_name(fit.goal), json.dumps(quality).encode())


def quality_of(order: Order) -> dict[str, float] | None:
    """Selection quality of a student at the step that its order names, or None if it has not come there."""
    data = order.folder.read_or_none(_rung_name(order.until or order.student.steps))
    return None if data is None else {str(name): float(value) for name, value in json.loads(data).items()}


def _rung_name(steps: int) -> str:
    return f"rungs/{steps:06d}.json"


def failure_of(order: Order, launch: str) -> str | None:
    """Why a student failed in a launch, or None."""
    data = order.folder.read_or_none(_failure_name(launch))
    return None if data is None else str(json.loads(data)["failure"])


def forget_failure(order: Order, launch: str) -> None:
    """Remove what a launch left about a failure."""
    order.folder.remove(_failure_name(launch))


def _failure_name(launch: str) -> str:
    return f"failures/{launch}.json"


def _leave_failure(fit: Fit, launch: str) -> None:
    if fit.failure is not None and not fit.elsewhere:
        fit.order.folder.put(_failure_name(launch), json.dumps({"failure": fit.failure}).encode())


def over(order: Order, launch: str) -> bool:
    """Whether an earlier start of this launch already ended this student."""
    ended = find_artifact(order.folder) if order.until is None else quality_of(order)
    return ended is not None or failure_of(order, launch) is not None


@contextmanager
def _quiet_torch(threads: int, here: torch.device) -> Iterator[None]:
    """So many threads inside; in local mode the process finds its threads and random state as they were."""
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        with torch.random.fork_rng(devices=[here] if here.type == "cuda" else []):
            yield
    finally:
        torch.set_num_threads(before)
