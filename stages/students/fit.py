"""One student in training: its life from its labels to its artifact. It knows of no other student.

Whatever goes wrong in it is its own failure: `guard` keeps the reason and takes it out. Its result is a
function of its inputs and of the batches that it is given, so neither neighbours nor restarts change a bit
on one CPU thread.

Shapes: V validation rows, C classes.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from schemas.artifacts import LabelSetRef, ModelRef
from schemas.canonical import digest
from schemas.errors import DataError, SpecError, TrainingFailed, UserError
from schemas.labels import VIEWS
from schemas.models import ModelCard
from schemas.spec import Storage
from schemas.students import Ensemble, StudentOutputs
from schemas.teachers import DomainSize, EpochQuality
from stages.artifacts import Attempt
from stages.labels.encodings import extras_of
from stages.students.calibration import fit_temperature
from stages.students.feed import Feed, LabelledBatch, SharedBatch, SourceBatch
from stages.students.methods import method_for
from stages.students.methods.base import Needs
from stages.students.order import CHECKPOINTS, Order
from stages.students.steps import MEND, Steps
from stages.students.teacher import TeacherRows
from stages.tasks import task_code
from stages.tasks.base import Task
from stages.training import checkpoints, models
from stages.training.peers import ALONE, PeerFailed
from stages.training.stopping import figure_of, reason_to_stop
from stages.truth import Truth
from stages.votes import shares


class Fit:
    """A student's training: made cheaply, met with its labels, then built; each of it may fail it alone."""

    def __init__(self, order: Order, task: Task, storage: Storage, device: torch.device) -> None:
        self.order, self.student = order, order.student
        self.failure: str | None = None
        self.exhausted = False
        """Whether it failed for want of memory."""
        self.elsewhere = False
        """Whether it is another rank that knows why it failed."""
        self.peers = ALONE
        """The ranks that share its batches."""
        self._task, self._storage, self._device = task, storage, device
        self.needs = Needs(labels=False)
        """What its method reads."""
        self.calibration: float | None = None
        """Temperature that its labels are read through, where they are calibrated."""
        self.reads: tuple[LabelSetRef, ...] = ()
        """The label sets that it reads."""
        self.labels: str | None = None
        """Digest of the label set that it reads; of several, what they are called together once they are weighed."""
        self.weights: tuple[float, ...] = ()
        """What each of several label sets counts."""
        self.budget = self.student.budget.digest if self.student.budget else None
        """Digest of its label budget."""
        self.source: str | None = None
        """Names the source rows that it reads: digest of the domain, and of the budget whose truth it sees."""
        self.sizes: tuple[DomainSize | None, DomainSize | None] = (None, None)
        """What it learns from on target and source."""
        self._epoch_steps = 1
        """Steps of an epoch of the shared stream."""
        self._fields: dict[str, int | None] = {}
        self._teacher_figure: float | None = None
        """What its labels are worth on its validation rows, for methods that follow the gap."""
        self._empty()
        with self.guard():
            self.method = method_for(task, self.student.method, self.student.training)
            self.needs = self.method.needs
            if self.needs.labels:
                if self.student.labels is None:
                    name = self.student.method.name
                    raise SpecError(f"the method '{name}' needs `labels`, a label set to learn from")
                self.reads = self.student.label_sets
                if not isinstance(self.student.labels, Ensemble):
                    self.labels = self.student.labels.digest
            if (source := self.student.source) is not None:
                self.source = source.samples.digest + (f"+{source.budget.digest}" if source.budget else "")
            elif self.needs.source:
                name = self.student.method.name
                raise SpecError(f"the method '{name}' needs `source`, a domain beside the target")
            if (fault := self.needs.fault_with(task)) is not None:
                raise SpecError(f"the method '{self.student.method.name}' {fault}")

    def _empty(self) -> None:
        self.done = 0
        """Steps taken."""
        self.ended_early: str | None = None
        """Why it ended before its last step."""
        self.history: list[EpochQuality] = []
        self._loss_sum, self._loss_steps = 0.0, 0
        self._best: tuple[float, dict[str, torch.Tensor]] | None = None
        self._after = 0
        """Epochs before the model that is asked for took over from a smaller one."""

    @property
    def training(self) -> bool:
        """Whether it has steps to take."""
        return self.failure is None and self.ended_early is None and self.done < self.goal

    @property
    def ended(self) -> bool:
        """Whether it has taken its last step, or needs no more."""
        return self.ended_early is not None or self.done >= self.student.steps

    @property
    def goal(self) -> int:
        """Steps to take in this launch."""
        return self.student.steps if self.order.until is None else self.order.until

    @property
    def built_like(self) -> str:
        """What its memory depends on: students that agree in it take as much."""
        student = self.student
        training = student.training
        how = [training.optimizer, training.accumulate, training.precision, training.ema, training.scaling]
        return digest([student.model, *how, student.method, student.labels is None])

    @contextmanager
    def guard(self) -> Iterator[None]:
        """An exception in here ends this student alone, and its reason is kept."""
        try:
            yield
        except Exception as error:  # noqa: BLE001 - models are users' code and may raise anything
            reason = str(error) if isinstance(error, UserError) else f"{type(error).__name__}: {error}"
            self.failure = f"{reason} (after {self.done} of {self.student.steps} steps)"
            self.exhausted = isinstance(error, torch.OutOfMemoryError | MemoryError)
            self.elsewhere = isinstance(error, PeerFailed)

    def meet(self, feed: Feed) -> None:
        """Meet the labels; nothing is built yet.

        Raises StoreError for labels that the method cannot learn from, DataError where they cannot be weighed or
        calibrated.
        """
        self._epoch_steps = feed.rows.steps_per_epoch
        self.sizes = feed.sizes(self.budget, self.source)
        if self.reads and isinstance(asked := self.student.labels, Ensemble):
            names = [ref.digest for ref in self.reads]
            figures = [self._worth(feed, name, "`weights: selection`") for name in names]
            self.weights = shares(figures, len(self.order.asked.classes))
            self.labels = feed.together(names, self.weights, asked.space)
        labels = feed.label_sets[self.labels] if self.labels else None
        if labels is not None:
            beside = extras_of(labels.schema)
            self._fields = {field.name: math.prod(field.shape) if field.shape else None for field in beside}
            views = [VIEWS] if feed.views > 1 else []
            self.needs.check_labels(labels.schema.encoding, [*self._fields, *views])
        if self.needs.validation and self.labels:
            self._teacher_figure = self._worth(feed, self.labels, f"the method '{self.student.method.name}'")
        if self.student.calibrate and self.labels:
            said = feed.said_of_validation(self.labels, self.budget)
            self.calibration = fit_temperature(*said, self.needs.temperatures)

    def build(self) -> None:
        """Make the model and all that is trained with it, as its newest checkpoint left them, if there is one.

        Raises ModelError or what the model raises if it cannot be built.
        """
        if self.peers.size > 1 and self._task.forces:
            raise SpecError(
                f"models of task '{self.order.asked.task.name}' train on one worker: leave out `data_parallel`"
            )
        if self.peers.size > 1 and (self.needs.inputs or self.needs.validation):
            name = self.student.method.name
            raise SpecError(f"the method '{name}' trains on one worker, and here several share its batches")
        if self.needs.inputs and self.student.training.mixing is not None:
            raise SpecError(f"the method '{self.student.method.name}' has models of its own, and mixes no inputs")
        if self.peers.size > 1 and (settings := self.student.training.of_one_rank):
            raise SpecError(f"{', '.join(settings)} needs whole batches on one worker, and here several share them")
        saved = checkpoints.latest(self.order.folder / CHECKPOINTS)
        self._steps = Steps(
            self.order.asked,
            self._task,
            self.method,
            self._fields,
            self._epoch_steps,
            self.peers,
            self._storage,
            self._device,
            None if saved is None else saved[1:],
        )
        if saved is not None:
            self._restore(*saved)
        if self.done > self.goal:  # a training without rungs came further: what it was worth at this one is not known
            self.order.folder.remove(CHECKPOINTS)
            self.put_off()
            self.build()

    def unload(self) -> None:
        """Let go of all that takes memory. It is over."""
        self._best = None
        self.__dict__.pop("_steps", None)

    def put_off(self) -> None:
        """Be as before `build`: what was not saved is lost."""
        self.unload()
        self._empty()
        self.failure, self.exhausted = None, False

    def step(
        self, shared: SharedBatch | None, labelled: LabelledBatch | None, source: SourceBatch | None = None
    ) -> None:
        """Take one step.

        Raises TrainingFailed if the loss is not finite or there is nothing to learn from, PeerFailed if another rank's
        part of it failed.
        """
        with self.peers.step():
            self._step(shared, labelled, source)

    def _step(self, shared: SharedBatch | None, labelled: LabelledBatch | None, source: SourceBatch | None) -> None:
        if self._steps.begin(self.done):
            self._best, self._after = None, len(self.history)
        if shared is not None and self.labels is not None and self.labels in shared.asked:
            shared = replace(shared, inputs=self._task.forced(shared.inputs, shared.asked[self.labels]))
        said = None if shared is None else self._read(shared.teachers)
        told = self._read(labelled.teachers) if labelled is not None and self.needs.labelled else None
        self._loss_sum += self._steps.take(self.done, shared, said, labelled, told, source)
        self._loss_steps += 1
        self.done += 1

    @torch.no_grad()
    def predict(self, inputs: torch.Tensor) -> NDArray[np.float32]:
        """Logits (V, C), or what a model that is forced says (V, T), in evaluation mode, of the average where there is
        one."""
        self._steps.trainee.module.eval()
        logits: NDArray[np.float32] = self._steps.trainee.answer(inputs.clone()).float().cpu().numpy()
        return logits

    def end_epoch(self, epoch: int, logits: NDArray[np.float32] | None, truth: Truth | None) -> None:
        """Write a line of history, from the logits of its validation rows (None without any); keep the best, or stop.

        Raises TrainingFailed if a weight or a logit is not finite.
        """
        weights = (value for value in self._steps.trainee.module.state_dict().values() if value.is_floating_point())
        if not all(bool(torch.isfinite(value).all()) for value in weights):
            raise TrainingFailed(f"a weight is not finite: {MEND}")
        quality = self.quality(logits, truth)
        loss = self._loss_sum / max(1, self._loss_steps)
        self._loss_sum, self._loss_steps = 0.0, 0
        self.history.append(EpochQuality(epoch=epoch, loss=loss, validation=quality))
        training, figure = self.student.training, figure_of(self._task, quality)
        if training.keeps_best and figure is not None and (self._best is None or figure > self._best[0]):
            self._best = (figure, self._steps.trainee.kept())
        if figure is not None and self._teacher_figure is not None:
            self.method.end_epoch(figure, self._teacher_figure)
        if self.done < self.student.steps and self._steps.trainee.grown:
            self.ended_early = reason_to_stop(training.early_stopping, self.history, self._task, self._after)

    def _worth(self, feed: Feed, labels: str, who: str) -> float:
        """The task's leading metric of labels on its validation rows, larger being better.

        Raises DataError, saying who asks, where there are none.
        """
        said, truth, columns = feed.said_of_validation(labels, self.budget)
        if not len(truth):
            raise DataError(
                f"{who} follows what validation says, and the label budget has no validation rows: give it some"
            )
        logits = said.dense() if columns is None else said.dense()[:, columns]
        figure = figure_of(self._task, self._task.score(logits, truth, self._task.metrics[:1]))
        assert figure is not None, "there are rows"
        return figure

    def quality(self, logits: NDArray[np.float32] | None, truth: Truth | None) -> dict[str, float]:
        """Metrics on its validation rows, of which its history tells nothing; without any, none.

        Raises TrainingFailed if an output is not finite.
        """
        if logits is None or truth is None:
            return {}
        if not np.isfinite(logits).all():
            raise TrainingFailed(f"an output is not finite: {MEND}")
        return self._task.score(logits, truth, self._task.metrics)

    def save(self) -> None:
        """Write a checkpoint of this moment and drop those before it."""
        place = self.order.folder / CHECKPOINTS
        tensors, meta = self._steps.pack()
        meta |= {
            "after": self._after,
            "loss": [self._loss_sum, self._loss_steps],
            "history": [line.dump() for line in self.history],
        }
        if self._best is not None:
            meta["best"] = self._best[0]
            tensors |= checkpoints.with_prefix("best", self._best[1])
        checkpoints.save(place, self.done, tensors, meta)
        checkpoints.drop_older(place, self.done)

    def commit(self) -> None:
        """Make the student exist, and drop its checkpoints."""
        order = self.order
        attempt = Attempt(order.folder, order.stage, order.stage_version, order.fingerprint, order.asked, order.code)
        card = ModelCard(
            task=order.asked.task,
            model=self.student.model,
            classes=order.asked.classes,
            preprocessing=order.asked.stream.preprocessing,
            code=task_code(order.asked.task, self.student.model),
        )
        content = models.save_model(attempt, card, self._best[1] if self._best else self._steps.trainee.kept())
        history = [line.dump() for line in self.history]
        attempt.put("history.json", (json.dumps(history, indent=2) + "\n").encode())
        outputs = StudentOutputs(
            name=self.student.name,
            arm=self.student.arm,
            seed=self.student.seed,
            model=ModelRef(uri=order.folder.uri, fingerprint=order.fingerprint, digest=content),
            history=tuple(self.history),
            calibration=self.calibration,
            weights=self.weights,
            target=self.sizes[0],
            source=self.sizes[1],
            ended_early=self.ended_early,
        )
        attempt.commit(outputs, content)
        order.folder.remove(CHECKPOINTS)

    def _restore(self, number: int, tensors: checkpoints.Tensors, meta: dict[str, Any]) -> None:
        """Go on from a checkpoint, of which what moves has its part."""
        self._loss_sum, self._loss_steps = meta["loss"]
        self.history = [EpochQuality.model_validate(line) for line in meta["history"]]
        if "best" in meta:
            self._best = (meta["best"], checkpoints.under_prefix("best", tensors))
        self.done, self._after = number, meta["after"]

    def _read(self, teachers: Mapping[str, TeacherRows]) -> TeacherRows | None:
        """What its teacher says, calibrated where that is asked for."""
        if self.labels is None:
            return None
        said = teachers[self.labels]
        return said if self.calibration is None else said.calibrated(self.calibration)
