"""One student in training: its model, optimiser, history and checkpoints. It knows of no other student.

Whatever goes wrong in it is its own failure: `guard` keeps the reason and takes it out. Its result is a
function of its inputs and of the batches that it is given, so neither neighbours nor restarts change a bit
on one CPU thread.

Shapes: B shared rows, L labelled rows, V validation rows, C classes.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from schemas.artifacts import ModelRef, WeightsRef
from schemas.base import Part
from schemas.canonical import digest
from schemas.errors import ModelError, SpecError, TrainingFailed, UserError
from schemas.models import ModelCard
from schemas.spec import Storage
from schemas.students import CohortInputs, StudentInputs, StudentOutputs
from schemas.teachers import DomainSize, EpochQuality
from stages.artifacts import Attempt
from stages.labels.encodings import extras_of
from stages.places import Place
from stages.students.calibration import fit_temperature
from stages.students.feed import Feed, LabelledBatch, SharedBatch, SourceBatch
from stages.students.learners import Learners
from stages.students.methods import get_method
from stages.students.methods.base import LabelledRows, Method, Needs, SharedRows, Sizes, SourceRows, weighted_mean
from stages.students.passes import Passes
from stages.students.teacher import TeacherRows
from stages.tasks import task_code
from stages.tasks.base import Task
from stages.training import checkpoints, models, optim
from stages.training.mixing import Mix, draw_mix, draw_partners
from stages.training.peers import ALONE, PeerFailed
from stages.training.penultimate import FAKE_ROWS, Penultimate
from stages.training.schedules import learning_rate
from stages.training.stopping import figure_of, reason_to_stop
from stages.training.stream import rng
from stages.training.trainee import Trainee
from stages.training.weights import load_given
from stages.truth import Truth

CHECKPOINTS = "checkpoints"
"""Folder of a student's checkpoints in the folder of its artifact."""
MEND = "lower `learning_rate` or set `gradient_clip`"


@dataclass(frozen=True)
class Order:
    """One student to be trained; crosses to workers."""

    asked: CohortInputs
    """A cohort of this student alone: what its fingerprint is taken of."""
    fingerprint: str
    folder: Place
    """Folder of its artifact."""
    code: dict[str, str]
    """Digests of the plug-ins that it rests on."""
    stage: str
    stage_version: int
    until: int | None = None
    """Steps after which it is measured and waits; none: it is trained to its end, and committed."""

    @property
    def student(self) -> StudentInputs:
        """The student."""
        return self.asked.students[0]


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
        self.labels: str | None = None
        """Digest of the label set that it reads."""
        self.budget = self.student.budget.digest if self.student.budget else None
        """Digest of its label budget."""
        self.source: str | None = None
        """Names the source rows that it reads: digest of the domain, and of the budget whose truth it sees."""
        self.sizes: tuple[DomainSize | None, DomainSize | None] = (None, None)
        """What it learns from on target and source."""
        self._epoch_steps = 1
        """Steps of an epoch of the shared stream."""
        self._fields: dict[str, int | None] = {}
        self._empty()
        with self.guard():
            self.method = get_method(self.student.method)
            self.needs = self.method.needs
            if self.needs.labels:
                if self.student.labels is None:
                    name = self.student.method.name
                    raise SpecError(f"the method '{name}' needs `labels`, a label set to learn from")
                self.labels = self.student.labels.digest
            if (source := self.student.source) is not None:
                self.source = source.samples.digest + (f"+{source.budget.digest}" if source.budget else "")
            elif self.needs.source:
                name = self.student.method.name
                raise SpecError(f"the method '{name}' needs `source`, a domain beside the target")
            if task.forces and (self.needs.source or self.needs.labelled or self.needs.features):
                name = self.student.method.name
                raise SpecError(f"the method '{name}' compares samples, and labels here are of items: use soft or hard")

    def _empty(self) -> None:
        self.done = 0
        """Steps taken."""
        self.ended_early: str | None = None
        """Why it ended before its last step."""
        self.history: list[EpochQuality] = []
        self._loss_sum, self._loss_steps = 0.0, 0
        self._best: tuple[float, dict[str, torch.Tensor]] | None = None
        self._penultimate: Penultimate | None = None
        self._after = 0
        """Epochs before the model that is asked for took over from a smaller one."""
        self._learners = Learners({}, self._device)

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

        Raises StoreError for labels that the method cannot learn from, DataError where they cannot be calibrated.
        """
        self._epoch_steps = feed.rows.steps_per_epoch
        self.sizes = feed.sizes(self.budget, self.source)
        labels = feed.label_sets[self.labels] if self.labels else None
        if labels is not None:
            beside = extras_of(labels.schema)
            self._fields = {field.name: math.prod(field.shape) if field.shape else None for field in beside}
            self.needs.check_labels(labels.schema.encoding, self._fields)
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
        if self.peers.size > 1 and (settings := self.student.training.of_one_rank):
            raise SpecError(f"{', '.join(settings)} needs whole batches on one worker, and here several share them")
        student = self.student
        self.trainee = Trainee(
            student.training, student.model, self._made, student.steps, student.seed, self._fake_batch
        )
        saved = checkpoints.latest(self.order.folder / CHECKPOINTS)
        if saved is not None:
            self.trainee.unpack(saved[1], saved[2]["trainee"])
        self._attach()
        if saved is not None:
            self._restore(*saved)
        if self.done > self.goal:  # a training without rungs came further: what it was worth at this one is not known
            self.order.folder.remove(CHECKPOINTS)
            self.put_off()
            self.build()

    def unload(self) -> None:
        """Let go of all that takes memory. It is over."""
        self._best, self._penultimate = None, None
        self._learners = Learners({}, self._device)
        for name in ("trainee", "_passes"):
            self.__dict__.pop(name, None)

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
        if self.trainee.begin_step(self.done):
            self._attach()
            self._best, self._after = None, len(self.history)
        self._seed(self.peers.rank)
        self.trainee.module.train()
        training = self.student.training
        rate = learning_rate(training, self.done, self.student.steps, self._epoch_steps)
        optim.set_learning_rate(self.trainee.optimizer, rate)
        lots = {part: rows.inputs for part, rows in (("shared", shared), ("labelled", labelled)) if rows is not None}
        if shared is not None and self.labels is not None and self.labels in shared.asked:
            lots["shared"] = self._task.forced(shared.inputs, shared.asked[self.labels])
        if not lots and (source is None or source.truth_S is None):
            raise TrainingFailed("it has no teacher and no true labels to learn from: give a larger `label_budget`")
        mix, partners = self._mixed(lots)
        if mix is not None:
            lots = {part: mix(inputs, partners[part]) for part, inputs in lots.items()}
        inputs = list(lots.values())
        rows = [
            *([] if shared is None else [len(shared.weights_B)]),
            *([] if labelled is None else [len(labelled.truth_L)]),
        ]
        if source is not None:
            inputs.append(source.inputs)
            rows.append(self.order.asked.stream.batch_size)
        whole = self._outputs(inputs, rows)
        outputs = iter(whole)
        progress = self.done / self.student.steps
        shared_rows, labelled_rows, shared_costs, labelled_costs = None, None, None, None
        if shared is not None and self.labels is not None:
            logits, features = next(outputs)
            logits, shared_costs = self._task.priced(logits)
            said = self._read(shared.teachers[self.labels])
            items, weights = self._task.items(lots["shared"]), shared.weights_B
            weights = weights if items is None else weights.repeat_interleave(items)
            shared_rows = SharedRows(logits, said, weights, features, progress=progress)
        if labelled is not None:
            logits, labelled_costs = self._task.priced(next(outputs)[0])
            told = self._read(labelled.teachers[self.labels]) if self.needs.labelled and self.labels else None
            labelled_rows = LabelledRows(logits, labelled.truth_L, told, progress, self._counts(labelled.weights_L))
        of_source = None
        if source is not None:
            logits, features = next(outputs)
            logits, source_costs = self._task.priced(logits)
            if shared_rows is not None and self.needs.source:
                shared_rows = replace(shared_rows, source=SourceRows(logits, features))
            if source.truth_S is not None:  # a method never sees it
                true_rows = LabelledRows(logits, source.truth_S, None, progress, self._counts(source.weights_S))
                of_source = Method.truth_term(self.method, true_rows, training.label_smoothing)
                if source_costs is not None:
                    of_source = of_source + source_costs.mean()
        if of_source is not None and not lots:
            loss = of_source
        else:
            loss = self.method.loss(shared_rows, labelled_rows, training.label_smoothing)
            loss = loss + self._places(shared_rows, shared_costs, labelled_costs)
        if mix is not None:
            other_shared = shared_rows and shared_rows.of_partners(partners["shared"])
            other_labelled = labelled_rows and labelled_rows.of_partners(partners["labelled"])
            other = self.method.loss(other_shared, other_labelled, training.label_smoothing)
            loss = mix.lam * loss + (1.0 - mix.lam) * other
        if of_source is not None and lots and training.source_share is not None:
            loss = training.source_share * of_source + (1.0 - training.source_share) * loss
        if self.trainee.elder is not None:
            loss = self.trainee.lesson(torch.cat(inputs), torch.cat([logits for logits, _ in whole])).mean()
        value = float(loss.detach())
        if not math.isfinite(value):
            raise TrainingFailed(f"the loss is {value}: {MEND}")
        self.trainee.optimizer.zero_grad(set_to_none=True)
        self._learners.zero_grad()
        with self.peers.batch_norm():  # models that compute anew in the backward pass
            self._passes.backward(loss)
        self.peers.add_gradients(self.trainee.module.parameters())
        self.peers.last()
        self.trainee.update(self.done)
        self._learners.step(rate)
        self._loss_sum += value
        self._loss_steps += 1
        self.done += 1

    @torch.no_grad()
    def predict(self, inputs: torch.Tensor) -> NDArray[np.float32]:
        """Logits (V, C), or what a model that is forced says (V, T), in evaluation mode, of the average where there is
        one."""
        self.trainee.module.eval()
        logits: NDArray[np.float32] = self.trainee.answer(inputs.clone()).float().cpu().numpy()
        return logits

    def end_epoch(self, epoch: int, logits: NDArray[np.float32] | None, truth: Truth | None) -> None:
        """Write a line of history, from the logits of its validation rows (None without any); keep the best, or stop.

        Raises TrainingFailed if a weight or a logit is not finite.
        """
        weights = (value for value in self.trainee.module.state_dict().values() if value.is_floating_point())
        if not all(bool(torch.isfinite(value).all()) for value in weights):
            raise TrainingFailed(f"a weight is not finite: {MEND}")
        quality = self.quality(logits, truth)
        loss = self._loss_sum / max(1, self._loss_steps)
        self._loss_sum, self._loss_steps = 0.0, 0
        self.history.append(EpochQuality(epoch=epoch, loss=loss, validation=quality))
        training, figure = self.student.training, figure_of(self._task, quality)
        if training.keeps_best and figure is not None and (self._best is None or figure > self._best[0]):
            self._best = (figure, self.trainee.kept())
        if self.done < self.student.steps and self.trainee.grown:
            self.ended_early = reason_to_stop(training.early_stopping, self.history, self._task, self._after)

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
        tensors, trainee_meta = self.trainee.pack()
        learned, learners_meta = self._learners.pack()
        tensors |= checkpoints.with_prefix("learners", learned)
        meta: dict[str, Any] = {
            "trainee": trainee_meta,
            "learners": learners_meta,
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
        content = models.save_model(attempt, card, self._best[1] if self._best else self.trainee.kept())
        history = [line.dump() for line in self.history]
        attempt.put("history.json", (json.dumps(history, indent=2) + "\n").encode())
        outputs = StudentOutputs(
            name=self.student.name,
            arm=self.student.arm,
            seed=self.student.seed,
            model=ModelRef(uri=order.folder.uri, fingerprint=order.fingerprint, digest=content),
            history=tuple(self.history),
            calibration=self.calibration,
            target=self.sizes[0],
            source=self.sizes[1],
            ended_early=self.ended_early,
        )
        attempt.commit(outputs, content)
        order.folder.remove(CHECKPOINTS)

    def _made(self, model: Part) -> torch.nn.Module:
        """A model of the student's on its device, with the weights that it starts from."""
        classes, stream = self.order.asked.classes, self.order.asked.stream
        module = models.build(self._task, model, len(classes), stream.preprocessing, self.student.seed)
        match self.student.start:
            case ModelRef() as ref:
                place = Place(ref.uri, self._storage)
                if models.read_card(place, ref).classes != classes:
                    raise ModelError(f"the model at {ref.uri}, to start from, speaks of other classes")
                module.load_state_dict(models.read_state(place, ref))
            case WeightsRef() as ref:
                load_given(ref, module, strict=False, storage=self._storage)
        return module.to(self._device).to(memory_format=torch.channels_last)

    def _fake_batch(self) -> torch.Tensor:
        settings = models.preprocessing_of(self._task, self.order.asked.stream.preprocessing)
        return self._task.fake_batch(FAKE_ROWS, settings).to(self._device)

    def _attach(self) -> None:
        """What runs the model that is trained now, and what the method trains beside it."""
        module, classes = self.trainee.module, self.order.asked.classes
        if self.needs.features:
            self._penultimate = Penultimate(module, self._fake_batch(), len(classes), self.student.model.name)
        self._passes = Passes(module, self._penultimate, self.student.training, self._seed, self._task.items)
        width = None if self._penultimate is None else self._penultimate.width
        sizes = Sizes(len(classes), width, self._fields)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(_number("method", self.student.seed))
            made = self.method.learners(sizes, self.student.training)
        self._learners = Learners(made, self._device)

    def _restore(self, number: int, tensors: checkpoints.Tensors, meta: dict[str, Any]) -> None:
        """Go on from a checkpoint, of which the trainee has its part."""
        self._learners.unpack(checkpoints.under_prefix("learners", tensors), meta["learners"])
        self._loss_sum, self._loss_steps = meta["loss"]
        self.history = [EpochQuality.model_validate(line) for line in meta["history"]]
        if "best" in meta:
            self._best = (meta["best"], checkpoints.under_prefix("best", tensors))
        self.done, self._after = number, meta["after"]

    def _mixed(self, lots: Mapping[str, torch.Tensor]) -> tuple[Mix | None, dict[str, torch.Tensor]]:
        """How the rows of this step are mixed, and with which, lot by lot; alike for all students of the stream."""
        mixing, seed = self.student.training.mixing, self.order.asked.stream.seed
        if mixing is None or not lots:
            return None, {}
        side_2 = next(iter(lots.values())).shape[-2:]
        partners = {
            part: draw_partners(len(inputs), rng(seed, "partners", part, self.done)).to(self._device)
            for part, inputs in lots.items()
        }
        return draw_mix(mixing, side_2, rng(seed, "mix", self.done)), partners

    def _outputs(self, parts: list[torch.Tensor], rows: list[int]) -> list[tuple[torch.Tensor, torch.Tensor | None]]:
        """Logits and, where they are needed, penultimate features of several lots of rows, in one pass.

        `parts` holds this rank's share of each lot, `rows` how many there are over all ranks.
        """
        with self.peers.batch_norm():
            mine = self._passes.forward(parts)
        if self.peers.size == 1:
            return mine
        self._seed(0)  # the loss is everybody's: what it draws is one and the same
        logits = [self.peers.whole(lot, count) for (lot, _), count in zip(mine, rows, strict=True)]
        if self._penultimate is None:
            return [(lot, None) for lot in logits]
        features = [self.peers.whole(lot, count) for (_, lot), count in zip(mine, rows, strict=True) if lot is not None]
        return list(zip(logits, features, strict=True))

    def _places(self, shared: SharedRows | None, said: torch.Tensor | None, true: torch.Tensor | None) -> torch.Tensor:
        """What items cost beside their class, by teacher and truth, in the shares that these have in the loss."""
        terms = []
        if shared is not None and said is not None:
            terms.append(weighted_mean(said, shared.weights_B))
        if true is not None:
            terms.append(true.mean())
        if len(terms) == 2:
            return self.method.alpha * terms[0] + (1.0 - self.method.alpha) * terms[1]
        return terms[0] if terms else torch.zeros((), device=self._device)

    def _counts(self, weights: torch.Tensor | None) -> torch.Tensor | None:
        """What rows with their truth count, where that is how classes are balanced."""
        balance = self.student.training.balance
        return weights if balance is not None and balance.by == "weights" else None

    def _read(self, teacher: TeacherRows) -> TeacherRows:
        """What the teacher says, calibrated where that is asked for."""
        return teacher if self.calibration is None else teacher.calibrated(self.calibration)

    def _seed(self, part: int) -> None:
        """What a model draws in a part of a step, or on a rank of it, belongs to its seed and the step, not to others.

        Dropout, that is.
        """
        number = _number("step", self.student.seed, self.done, *([part] if part else []))
        torch.default_generator.manual_seed(number)
        if self._device.type == "cuda":
            torch.cuda.manual_seed(number)


def _number(*what: int | str) -> int:
    """A seed of torch's that belongs to `what` alone."""
    return int(digest(list(what)), 16) % 2**63
