"""Predictions: what each candidate says about the test rows and its own validation budget, as float32 logits.

One Ray task per candidate, a few in flight, or all in this process; each leaves one file in the attempt, so that
logits do not pass through the object store and the driver holds those of one or two models at a time.
Always one thread: the same bits in both modes. Reads inputs only, never truth, but for a task's `forced_metric`: there
a second pass forces the model on the truth that figures are made of anyway, and keeps how many items it got right.

Shapes: N rows, C classes of the domain, in the order of its truth.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from safetensors.numpy import load, save

from schemas.artifacts import ObjectInfo, SamplesRef, SplitRef, TruthRef
from schemas.base import Part
from schemas.errors import DataError, InternalError
from schemas.evaluation import Candidate, EvaluationInputs
from schemas.spec import Storage
from stages.artifacts import Attempt
from stages.cluster import cores, gpus_per_worker, own_error
from stages.context import Context
from stages.labels.layout import labels_of
from stages.places import Place, checksum
from stages.tasks import get_task
from stages.tasks.base import Task
from stages.truth import Truth

if TYPE_CHECKING:
    from stages.domains.reader import Budget, Samples
    from stages.labels.alignment import AlignedLabels
    from stages.labels.reader import LabelSet
    from stages.training.models import LoadedModel

Logits = NDArray[np.float32]
Positions = NDArray[np.int64]
TEST_ROWS = "test.safetensors"
"""File with `positions`: the rows of the domain that `test_logits` speak of, in order."""


@dataclass(frozen=True)
class Job:
    """What a worker needs to predict with one candidate; crosses process boundaries."""

    task: Part
    candidate: Candidate
    samples: SamplesRef
    split: SplitRef
    classes: tuple[str, ...]
    batch_size: int
    storage: Storage
    folder: Place
    """Folder of the attempt's files."""
    forced_on: TruthRef | None = None
    """Truth of the domain, where the model is to be forced on it too."""

    @property
    def file(self) -> str:
        """Name of the file with its predictions."""
        return f"predictions/{self.candidate.arm}-{self.candidate.seed}.safetensors"


@dataclass(frozen=True)
class Answer:
    """What became of one job."""

    info: ObjectInfo | None
    """The file with `test_logits` (N, C), `selection_positions` (M,) and `selection_logits` (M, C); of a model that was
    forced also `test_right` (N, 2) and `selection_right` (M, 2): items that it got right, and how many there are."""
    failure: str | None
    """Why there is none."""


@dataclass(frozen=True)
class Entry:
    """One candidate with what it said, read when it is asked for."""

    candidate: Candidate
    failure: str | None
    budget: Budget | None
    read: Callable[[], dict[str, NDArray[Any]]]
    """The file's arrays; only where there is no failure."""


@dataclass(frozen=True)
class Evidence:
    """All that is known before figures are computed."""

    entries: tuple[Entry, ...]
    test_truth: Truth | None
    """Truth of the test rows, -1 where unknown; none without any."""
    reference: NDArray[Any] | None
    """What the reference labels say of the test rows, as `Task.compared` makes it: the number of the largest class."""


def predict_all(context: Context, inputs: EvaluationInputs, attempt: Attempt, metrics: Sequence[str] = ()) -> Evidence:
    """Predictions of every candidate, as files of the attempt, as far as these metrics need them.

    One forward pass over test and validation rows per model. Raises DataError if a candidate does not know a
    class of the domain; a candidate whose logits are not finite fails alone.
    """
    from stages.domains.reader import Samples, read_budget, read_split, read_truth
    from stages.labels.reader import LabelSet
    from stages.training.models import read_card

    test, task = final_positions(read_split(context.place(inputs.split), inputs.split)), get_task(inputs.task)
    truth, classes = None, None
    if inputs.truth is not None:
        every_truth, classes = read_truth(context.place(inputs.truth), inputs.truth)
        truth = every_truth[test]
    reference = None
    if inputs.reference is not None:
        labels = LabelSet.open_ref(context.place(inputs.reference), inputs.reference)
        aligned = labels.align(Samples.open(context.place(inputs.samples), inputs.samples))
        classes = classes or labels.classes
        order = class_order(labels.classes, classes, "the reference labels")
        reference = task.compared(arranged(task, labels_say(task, aligned)(test), order))
    if classes is None:
        models = [candidate.model for candidate in inputs.candidates if candidate.model is not None]
        classes = read_card(context.place(models[0]), models[0]).classes if models else ()

    attempt.put(TEST_ROWS, save({"positions": test}, {"classes": json.dumps(classes)}))
    folder = attempt.folder / attempt.name
    jobs = [
        Job(
            inputs.task,
            candidate,
            inputs.samples,
            inputs.split,
            tuple(classes),
            inputs.batch_size,
            context.storage,
            folder,
            inputs.truth if task.forced_metric in metrics else None,
        )
        for candidate in inputs.candidates
    ]
    entries = []
    for job, answer in zip(jobs, _answers(context, jobs), strict=True):
        budget = job.candidate.budget
        if answer.info is not None:
            attempt.add(answer.info)
        entries.append(
            Entry(
                job.candidate,
                answer.failure,
                read_budget(context.place(budget), budget) if budget is not None else None,
                partial(_read, folder, job.file),
            )
        )
    return Evidence(tuple(entries), truth, reference)


def final_positions(split: NDArray[np.int8]) -> Positions:
    """Positions of the test rows, in order."""
    from stages.domains.reader import TEST

    return np.flatnonzero(split == TEST).astype(np.int64)


def predict(job: Job) -> Answer:
    """Predict with one candidate and leave the file; runs wherever the job was sent."""
    from stages.domains.reader import Samples, read_budget, read_split, read_truth
    from stages.training.models import load_model

    candidate = job.candidate
    if candidate.model is None and candidate.labels is None:
        return Answer(None, str(candidate.stopped or candidate.failure or "no model was given"))
    samples = Samples.open(Place(job.samples.uri, job.storage), job.samples)
    test = final_positions(read_split(Place(job.split.uri, job.storage), job.split))
    selection = np.empty(0, np.int64)
    if candidate.budget is not None:
        selection = read_budget(Place(candidate.budget.uri, job.storage), candidate.budget).validation_positions
    classes, say = _speaker(job, samples)
    order = class_order(classes, job.classes, f"'{candidate.arm}' of seed {candidate.seed}")
    task = get_task(job.task)
    said: dict[str, NDArray[Any]] = {
        "test_logits": arranged(task, say(test), order),
        "selection_positions": selection,
        "selection_logits": arranged(task, say(selection), order),
    }
    if job.forced_on is not None and candidate.model is not None and candidate.budget is not None:
        truth, _ = read_truth(Place(job.forced_on.uri, job.storage), job.forced_on)
        right = partial(_right, load_model(Place(candidate.model.uri, job.storage), candidate.model), samples)
        budget = read_budget(Place(candidate.budget.uri, job.storage), candidate.budget)
        said["test_right"] = right(test, truth[test], job.batch_size)
        said["selection_right"] = right(selection, budget.validation_truth, job.batch_size)
    for name in ("test_logits", "selection_logits"):
        bad = int((~np.isfinite(said[name])).any(axis=1).sum())
        if bad:
            return Answer(None, f"its logits are not finite on {bad} of {len(said[name])} rows")
    data = save(said, {"classes": json.dumps(job.classes)})
    job.folder.put(job.file, data)
    return Answer(ObjectInfo(name=job.file, size=len(data), checksum=checksum(data)), None)


def model_logits(model: LoadedModel, samples: Samples, positions: Positions, batch_size: int) -> Logits:
    """Logits (N, C of the model) for rows of a domain, `batch_size` rows at a time, on one thread.

    Of a model that is forced, what it says (N, T).
    """
    import torch

    from stages.training.launch import device

    where = device()
    module = model.module.to(where)
    read = samples.only(model.task.reads(model.preprocessing))
    parts = [np.empty((0, len(model.card.classes)), np.float32)] if not len(positions) else []
    with _one_thread(), torch.inference_mode():
        for start in range(0, len(positions), batch_size):
            batch = model.task.batch(read.gather(positions[start : start + batch_size]), model.preprocessing)
            parts.append(module(batch.to(where)).float().cpu().numpy())
    return np.concatenate(parts)


def _right(
    model: LoadedModel, samples: Samples, positions: Positions, truth: Truth, batch_size: int
) -> NDArray[np.int64]:
    """(items that a model forced on the truth gets right, all of them) of each row, (N, 2); of unknown truth none."""
    import torch

    from stages.training.launch import device

    task, module, where = model.task, model.module.to(device()), device()
    read = samples.only(task.reads(model.preprocessing))
    found = np.zeros((len(positions), 2), np.int64)
    known = np.flatnonzero([isinstance(value, bytes) for value in truth])
    with _one_thread(), torch.inference_mode():
        for start in range(0, len(known), batch_size):
            rows = known[start : start + batch_size]
            asked = task.asked(truth[rows])
            forced = task.forced(task.batch(read.gather(positions[rows]), model.preprocessing), asked)
            logits, _ = task.priced(module(forced.to(where)).float().cpu())
            right, items = logits.argmax(dim=1) == task.targets(asked, forced), task.items(forced)
            assert items is not None, "a task that forces"
            whose = torch.arange(len(rows)).repeat_interleave(items)
            found[rows, 0] = torch.bincount(whose, right.double(), len(rows)).long().numpy()
            found[rows, 1] = items.numpy()
    return found


def arranged(task: Task, said: Logits, order: Sequence[int]) -> Logits:
    """What a model says, its classes in the domain's order; answers of a model that is forced are of the task's own."""
    return np.ascontiguousarray(said if task.forces else said[:, order], np.float32)


def labels_say(task: Task, labels: LabelSet | AlignedLabels) -> Callable[[Positions], Logits]:
    """What answers for rows in a teacher's place: its labels."""

    def say(positions: Positions) -> Logits:
        stored = labels.gather(positions)
        return task.answered(labels.decode(stored), labels_of(stored, labels.schema.shape, len(positions)), stored)

    return say


def class_order(own: Sequence[str], wanted: Sequence[str], who: str) -> list[int]:
    """Columns of `own` in the order of `wanted`; classes that are not wanted are left out.

    Raises DataError naming the classes that are missing.
    """
    missing = [name for name in wanted if name not in own]
    if missing:
        raise DataError(
            f"{who} does not know {len(missing)} of the domain's {len(wanted)} classes "
            f"(first: {', '.join(missing[:3])}). Give it a `class_map`, or train it on these classes"
        )
    return [list(own).index(name) for name in wanted]


def _speaker(job: Job, samples: Samples) -> tuple[Sequence[str], Callable[[Positions], Logits]]:
    """The candidate's classes, and what answers for rows: its labels where it left some, else its model."""
    from stages.labels.reader import LabelSet

    candidate = job.candidate
    if candidate.labels is not None:
        labels = LabelSet.open_ref(Place(candidate.labels.uri, job.storage), candidate.labels)
        return labels.classes, labels_say(get_task(job.task), labels.align(samples))
    from stages.training.models import load_model

    assert candidate.model is not None, "a candidate without model and labels was answered before"
    model = load_model(Place(candidate.model.uri, job.storage), candidate.model)
    return model.card.classes, lambda positions: model_logits(model, samples, positions, job.batch_size)


@contextmanager
def _one_thread() -> Iterator[None]:
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _read(folder: Place, file: str) -> dict[str, NDArray[Any]]:
    return dict(load(folder.read(file)))


def _answers(context: Context, jobs: Sequence[Job]) -> list[Answer]:
    """One answer per job, in order."""
    if context.local:
        answers = []
        for job in jobs:
            answers.append(predict(job))
            context.progress(len(answers), len(jobs), "models")
        return answers
    return _ray_answers(context, jobs)


def _ray_answers(context: Context, jobs: Sequence[Job]) -> list[Answer]:
    """The same on the cluster: one task per job, no more in flight than CPUs can take at once, twice."""
    import ray
    from ray.exceptions import RayError

    task = ray.remote(num_cpus=1, num_gpus=gpus_per_worker(context.resources))(predict)
    limit = 2 * max(1, cores())
    flying: dict[Any, int] = {}
    answers: dict[int, Answer] = {}
    todo = iter(enumerate(jobs))
    try:
        while len(answers) < len(jobs):
            while len(flying) < limit and (following := next(todo, None)) is not None:
                flying[task.remote(following[1])] = following[0]
            ready, _ = ray.wait(list(flying), num_returns=1)
            answers[flying.pop(ready[0])] = ray.get(ready[0])
            context.progress(len(answers), len(jobs), "models")
    except RayError as error:
        if (ours := own_error(error)) is not None:
            raise ours from None
        cause = getattr(error, "cause", error)
        raise InternalError(f"{context.step}: a model could not be evaluated: {cause!r}") from error
    finally:
        for reference in flying:
            ray.cancel(reference)
    return [answers[index] for index in range(len(jobs))]
