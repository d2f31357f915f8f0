"""Student throughput from the store against the same training from memory, in turns in one run.

One thread, one process, the same cohort loop on both sides; the only difference is where samples and logits lie:
packed shards and a label set on disk (mapped), or numpy arrays. A bare loop without feed or history stands beside
them, with its batches made beforehand: what is left is input work and our own overhead.
"""

from __future__ import annotations

import statistics
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from schemas.artifacts import BudgetRef, LabelSetRef
from schemas.base import Part
from schemas.domains import BudgetInputs, DomainInputs, SplitInputs
from schemas.labels import LabelSchema, LabelsInputs
from schemas.spec import LabelBudget, Resources, Source, Split, Storage
from schemas.students import CohortInputs, Stream, StudentInputs
from schemas.teachers import GivenTeacher, TeacherInputs
from schemas.training import Training
from stages.base import get_stage
from stages.context import Context
from stages.labels.decoded import DenseLabels
from stages.places import Place
from stages.students.cohort import open_feed
from stages.students.feed import Feed
from stages.students.fit import Fit
from stages.students.lockstep import train
from stages.students.order import Order
from stages.tasks import get_task

TASK = Part.model_validate({"name": "image-classification", "image_size": 32, "channels": 1})
ROWS, BATCH = 4096, 64
CPU = torch.device("cpu")


def bench(quick: bool = False) -> list[dict[str, Any]]:
    """Rows of the table: shared rows per second, and ratios. About a minute; seconds if `quick`."""
    repeats, steps = (2, 10) if quick else (5, 60)
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        inputs = make(Path(folder), steps)
        rows: list[dict[str, Any]] = []
        for count in (1, 4):
            cohort = inputs.model_copy(update={"students": inputs.students[:count]})
            stored = open_feed(new_fits(cohort, Path(folder)), Storage(), CPU)
            held = in_memory(cohort, stored)
            ways: dict[str, Callable[[], None]] = {
                "store": lambda: run(cohort, stored, Path(folder)),  # noqa: B023 - called in this turn
                "memory": lambda: run(cohort, held, Path(folder)),  # noqa: B023
            }
            if count == 1:
                ways["bare"] = lambda: bare(cohort, held, Path(folder))  # noqa: B023
            seconds = in_turns(ways, repeats)
            rate = {name: steps * BATCH * count / statistics.median(times) for name, times in seconds.items()}
            who = f"{count} student{'s' * (count > 1)} of mobile-tiny, 32 px, batch {BATCH}"
            rows += [row(f"{who}, {name}", value, "rows/s") for name, value in rate.items()]
            rows.append(row(f"{who}: store / memory", rate["store"] / rate["memory"], "ratio", ">= 0.97"))
            if count == 1:
                rows.append(row(f"{who}: store / bare loop", rate["store"] / rate["bare"], "ratio"))
    return rows


def row(what: str, value: float, unit: str, aim: str | None = None) -> dict[str, Any]:
    return {"what": what, "value": value, "unit": unit, "aim": aim}


def in_turns(ways: dict[str, Callable[[], None]], repeats: int) -> dict[str, list[float]]:
    """Seconds of each way, one after the other, after one round that does not count."""
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    for turn in range(repeats + 1):
        for name, way in ways.items():
            started = time.perf_counter()
            way()
            if turn:
                seconds[name].append(time.perf_counter() - started)
    return seconds


def run(inputs: CohortInputs, feed: Feed, folder: Path) -> None:
    """The cohort's own loop; nothing is committed."""
    train(new_fits(inputs, folder), feed, lambda fit: None, lambda done: None, 1e9)


def bare(inputs: CohortInputs, feed: Feed, folder: Path) -> None:
    """Forward, loss, backward, step, on batches that were made before the clock of a step starts."""
    fit = new_fits(inputs, folder)[0]
    fit.build()
    labels, budget = str(fit.labels), str(fit.budget)
    shared, labelled = feed.shared(0, {labels: ()}), feed.labelled(0, budget)
    for _ in range(fit.student.steps):
        fit.step(shared, labelled)


def new_fits(inputs: CohortInputs, folder: Path) -> list[Fit]:
    """Students at their first step."""
    task = get_task(inputs.task)
    orders = [
        Order(
            asked=inputs.model_copy(update={"students": (student,)}),
            fingerprint="0" * 32,
            folder=Place(str(folder / "nowhere")),
            code={},
            stage="students",
            stage_version=1,
        )
        for student in inputs.students
    ]
    return [Fit(order, task, Storage(), CPU) for order in orders]


class Arrays:
    """Samples in memory."""

    def __init__(self, images: Any) -> None:
        self.images = images

    def gather(self, positions: Any) -> dict[str, Any]:
        return {"image": self.images[positions]}

    def content_ids_at(self, positions: Any) -> Any:
        raise NotImplementedError("there are no views here")


class Logits:
    """Labels in memory."""

    def __init__(self, schema: LabelSchema, values: Any) -> None:
        self.classes, self.schema, self.values = schema.classes, schema, values

    def gather(self, positions: Any, view: Any, *, extras: Any) -> Any:
        return {"logits": self.values[positions]}

    def decode(self, stored: Any) -> DenseLabels:
        return DenseLabels(stored["logits"])


def in_memory(inputs: CohortInputs, stored: Feed) -> Feed:
    """The same feed over arrays that hold all rows."""
    everything = np.arange(ROWS)
    images = stored.samples.gather(everything)["image"]
    sets = {
        digest: Logits(labels.schema, labels.decode(labels.gather(everything, 0 * everything, extras=())).dense())
        for digest, labels in stored.label_sets.items()
    }
    return Feed(
        get_task(inputs.task),
        inputs.classes,
        inputs.stream,
        Arrays(images),
        replace(stored.rows),
        stored.budgets,
        sets,
        CPU,
    )


def make(folder: Path, steps: int) -> CohortInputs:
    """A domain of noise, a budget of 50 + 50, an untrained teacher's labels, and four students."""
    context = Context(workspace=Place(str(folder / "workspace")), resources=Resources(mode="local"))

    def stage(name: str, inputs: Any) -> Any:
        return get_stage(name).run(context, inputs)

    draw = np.random.default_rng(0)
    pictures = draw.integers(0, 256, size=(ROWS, 32, 32, 1), dtype=np.uint8)
    np.savez(folder / "noise.npz", image=pictures, label=draw.integers(10, size=ROWS))
    domain = stage("domains", DomainInputs(source=Source(arrays=str(folder / "noise.npz")), task=TASK, shard_rows=1024))
    split = stage("splits", SplitInputs(samples=domain.samples, split=Split(train=0.8, validation=0.1, test=0.1))).split
    budget: BudgetRef = stage(
        "budgets",
        BudgetInputs(
            samples=domain.samples, split=split, truth=domain.truth, label_budget=LabelBudget(train=50, validation=50)
        ),
    ).budget
    model = Part(name="mobile-tiny")
    teacher = stage("teachers", TeacherInputs(task=TASK, model=model, classes=domain.classes, way=GivenTeacher())).model
    labels: LabelSetRef = stage("labels", LabelsInputs(task=TASK, teacher=teacher, samples=domain.samples)).labels
    students = tuple(
        StudentInputs(
            name="s",
            model=model,
            method=Part(name="soft"),
            training=Training(),
            steps=steps,
            seed=seed,
            labels=labels,
            budget=budget,
        )
        for seed in range(4)
    )
    augmentation = {"rotate": 10.0, "translate": 0.1}
    stream = Stream(
        samples=domain.samples, split=split, batch_size=BATCH, labelled_batch_size=BATCH, augmentation=augmentation
    )
    return CohortInputs(task=TASK, classes=domain.classes, stream=stream, students=students)
