"""The steps of one student: its passes over all lots of rows, the whole loss, and all that a step moves.

What moves is the model with its optimiser (`Trainee`) and what the method trains beside it (`Learners`); both are
checkpointed here. Who steps, when, and what comes of it is told elsewhere (`fit`).

Shapes: B shared rows, L labelled rows, S source rows, C classes.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import torch

from schemas.artifacts import ModelRef, WeightsRef
from schemas.base import Part
from schemas.canonical import digest
from schemas.errors import ModelError, TrainingFailed
from schemas.spec import Storage
from schemas.students import CohortInputs
from stages.places import Place
from stages.students.feed import LabelledBatch, SharedBatch, SourceBatch
from stages.students.learners import Learners
from stages.students.methods.base import LabelledRows, Method, SharedRows, Sizes, SourceRows, weighted_mean, wide
from stages.students.passes import Passes
from stages.students.teacher import TeacherRows
from stages.tasks.base import Task
from stages.training import checkpoints, models, optim
from stages.training.mixing import Mix, draw_mix, draw_partners
from stages.training.peers import Peers
from stages.training.penultimate import FAKE_ROWS, Penultimate
from stages.training.schedules import learning_rate
from stages.training.stream import rng
from stages.training.trainee import Trainee
from stages.training.weights import load_given

MEND = "lower `learning_rate` or set `gradient_clip`"
State = tuple[checkpoints.Tensors, dict[str, Any]]
"""(tensors, plain JSON) of a checkpoint."""


class Steps:
    """All of one student that a step moves, and how."""

    def __init__(
        self,
        asked: CohortInputs,
        task: Task,
        method: Method,
        fields: Mapping[str, int | None],
        epoch_steps: int,
        peers: Peers,
        storage: Storage,
        device: torch.device,
        saved: State | None = None,
    ) -> None:
        """The one student of `asked` at its first step, or where `pack` left it.

        `fields`: numbers a row of each field beside its labels. Raises ModelError or what the model raises if it
        cannot be built.
        """
        self._asked, self._student = asked, asked.students[0]
        self._task, self._method, self._storage, self._device = task, method, storage, device
        self._fields, self._epoch_steps, self._peers = fields, epoch_steps, peers
        self._penultimate: Penultimate | None = None
        student = self._student
        self.trainee = Trainee(
            student.training, student.model, self._made, student.steps, student.seed, self._fake_batch
        )
        if saved is not None:
            self.trainee.unpack(saved[0], saved[1]["trainee"])
        self._attach()
        if saved is not None:
            self.learners.unpack(checkpoints.under_prefix("learners", saved[0]), saved[1]["learners"])

    def begin(self, number: int) -> bool:
        """Before step `number`, from 0: whether the model that is asked for takes over now from a smaller one."""
        if switched := self.trainee.begin_step(number):
            self._attach()
        return switched

    def take(
        self,
        number: int,
        shared: SharedBatch | None,
        said: TeacherRows | None,
        labelled: LabelledBatch | None,
        told: TeacherRows | None,
        source: SourceBatch | None,
    ) -> float:
        """Take step `number`; the answer is its loss. `said` and `told`: by the teacher, of shared and labelled rows.

        Raises TrainingFailed if the loss is not finite or there is nothing to learn from.
        """
        self._seed(number, self._peers.rank)
        self.trainee.module.train()
        training = self._student.training
        rate = learning_rate(training, number, self._student.steps, self._epoch_steps)
        optim.set_learning_rate(self.trainee.optimizer, rate)
        lots = {part: rows.inputs for part, rows in (("shared", shared), ("labelled", labelled)) if rows is not None}
        if not lots and (source is None or source.truth_S is None):
            raise TrainingFailed("it has no teacher and no true labels to learn from: give a larger `label_budget`")
        mix, partners = self._mixed(number, lots)
        if mix is not None:
            lots = {part: mix(inputs, partners[part]) for part, inputs in lots.items()}
        inputs = list(lots.values())
        rows = [
            *([] if shared is None else [len(shared.weights_B)]),
            *([] if labelled is None else [len(labelled.truth_L)]),
        ]
        if source is not None:
            inputs.append(source.inputs)
            rows.append(self._asked.stream.batch_size)
        whole = self._outputs(number, inputs, rows)
        outputs = iter(whole)
        progress = number / self._student.steps
        shared_rows, labelled_rows, shared_costs, labelled_costs = None, None, None, None
        if shared is not None and said is not None:
            logits, features = next(outputs)
            logits, shared_costs = self._task.priced(logits)
            items, weights = self._task.items(lots["shared"]), shared.weights_B
            weights = weights if items is None else weights.repeat_interleave(items)
            given = lots["shared"] if self._method.needs.inputs else None
            shared_rows = SharedRows(logits, said, weights, features, progress=progress, inputs=given)
        if labelled is not None:
            logits, labelled_costs = self._task.priced(next(outputs)[0])
            given, counts = lots["labelled"] if self._method.needs.inputs else None, self._counts(labelled.weights_L)
            labelled_rows = LabelledRows(logits, labelled.truth_L, told, progress, counts, given)
        of_source = None
        if source is not None:
            logits, features = next(outputs)
            logits, source_costs = self._task.priced(logits)
            if shared_rows is not None and self._method.needs.source:
                shared_rows = replace(shared_rows, source=SourceRows(logits, features))
            if source.truth_S is not None:  # a method never sees it
                of_source = self._true(logits, source.truth_S, self._counts(source.weights_S))
                of_source = of_source if source_costs is None else of_source + source_costs.mean()
        if of_source is not None and not lots:
            loss = of_source
        else:
            loss = self._method.loss(shared_rows, labelled_rows, training.label_smoothing)
            if (costs := self._costs(shared_rows, shared_costs, labelled_costs)) is not None:
                loss = loss + costs
        if mix is not None:
            other_shared = shared_rows and shared_rows.of_partners(partners["shared"])
            other_labelled = labelled_rows and labelled_rows.of_partners(partners["labelled"])
            other = self._method.loss(other_shared, other_labelled, training.label_smoothing)
            loss = mix.lam * loss + (1.0 - mix.lam) * other
        if of_source is not None and lots and training.source_share is not None:
            loss = training.source_share * of_source + (1.0 - training.source_share) * loss
        if self.trainee.elder is not None:
            loss = self.trainee.lesson(torch.cat(inputs), torch.cat([logits for logits, _ in whole])).mean()
        value = float(loss.detach())
        if not math.isfinite(value):
            raise TrainingFailed(f"the loss is {value}: {MEND}")
        self.trainee.optimizer.zero_grad(set_to_none=True)
        self.learners.zero_grad()
        with self._peers.batch_norm():  # models that compute anew in the backward pass
            self._passes.backward(loss)
        self._peers.add_gradients(self.trainee.module.parameters())
        self._peers.last()
        self.trainee.update(number)
        self.learners.step(rate)
        return value

    def pack(self) -> State:
        """All this, for a checkpoint."""
        tensors, trainee_meta = self.trainee.pack()
        learned, learners_meta = self.learners.pack()
        tensors |= checkpoints.with_prefix("learners", learned)
        return tensors, {"trainee": trainee_meta, "learners": learners_meta}

    def _made(self, model: Part) -> torch.nn.Module:
        """A model of the student's on its device, with the weights that it starts from."""
        classes, stream = self._asked.classes, self._asked.stream
        module = models.build(self._task, model, len(classes), stream.preprocessing, self._student.seed)
        match self._student.start:
            case ModelRef() as ref:
                place = Place(ref.uri, self._storage)
                if models.read_card(place, ref).classes != classes:
                    raise ModelError(f"the model at {ref.uri}, to start from, speaks of other classes")
                module.load_state_dict(models.read_state(place, ref))
            case WeightsRef() as ref:
                load_given(ref, module, strict=False, storage=self._storage)
        return module.to(self._device).to(memory_format=torch.channels_last)

    def _another(self, model: Part, number: int) -> torch.nn.Module:
        """A model of the method's own, for the student's inputs and classes."""
        seed = _seed_of("model of the method", self._student.seed, number)
        preprocessing = self._asked.stream.preprocessing
        module = models.build(self._task, model, len(self._asked.classes), preprocessing, seed)
        return module.to(self._device).to(memory_format=torch.channels_last)

    def _fake_batch(self) -> torch.Tensor:
        settings = models.preprocessing_of(self._task, self._asked.stream.preprocessing)
        return self._task.fake_batch(FAKE_ROWS, settings).to(self._device)

    def _attach(self) -> None:
        """What runs the model that is trained now, and what the method trains beside it."""
        module, classes = self.trainee.module, self._asked.classes
        if self._method.needs.features:
            self._penultimate = Penultimate(module, self._fake_batch(), len(classes), self._student.model.name)
        self._passes = Passes(module, self._penultimate, self._student.training, self._seed_part, self._task.items)
        width = None if self._penultimate is None else self._penultimate.width
        sizes = Sizes(len(classes), width, self._fields, self._another)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(_seed_of("method", self._student.seed))
            made = self._method.learners(sizes, self._student.training)
        self.learners = Learners(made, self._device)
        """What its method trains."""

    def _mixed(self, number: int, lots: Mapping[str, torch.Tensor]) -> tuple[Mix | None, dict[str, torch.Tensor]]:
        """How the rows of this step are mixed, and with which, lot by lot; alike for all students of the stream."""
        mixing, seed = self._student.training.mixing, self._asked.stream.seed
        if mixing is None or not lots:
            return None, {}
        side_2 = next(iter(lots.values())).shape[-2:]
        partners = {
            part: draw_partners(len(inputs), rng(seed, "partners", part, number)).to(self._device)
            for part, inputs in lots.items()
        }
        return draw_mix(mixing, side_2, rng(seed, "mix", number)), partners

    def _outputs(
        self, number: int, parts: list[torch.Tensor], rows: list[int]
    ) -> list[tuple[torch.Tensor, torch.Tensor | None]]:
        """Logits and, where they are needed, penultimate features of several lots of rows, in one pass.

        `parts` holds this rank's share of each lot, `rows` how many there are over all ranks.
        """
        with self._peers.batch_norm():
            mine = self._passes.forward(parts)
        if self._peers.size == 1:
            return mine
        self._seed(number, 0)  # the loss is everybody's: what it draws is one and the same
        logits = [self._peers.whole(lot, count) for (lot, _), count in zip(mine, rows, strict=True)]
        if self._penultimate is None:
            return [(lot, None) for lot in logits]
        features = [
            self._peers.whole(lot, count) for (_, lot), count in zip(mine, rows, strict=True) if lot is not None
        ]
        return list(zip(logits, features, strict=True))

    def _costs(
        self, shared: SharedRows | None, said: torch.Tensor | None, true: torch.Tensor | None
    ) -> torch.Tensor | None:
        """What items cost beside their class, by teacher and by truth, in the shares that these have in the loss."""
        teacher = None if shared is None or said is None else weighted_mean(said, shared.weights_B)
        truth = None if true is None else true.mean()
        if teacher is None or truth is None:
            return truth if teacher is None else teacher
        return self._method.alpha * teacher + (1.0 - self._method.alpha) * truth

    def _true(self, logits: torch.Tensor, truth: torch.Tensor, counts: torch.Tensor | None) -> torch.Tensor:
        """Mean cross-entropy of rows with their truth, whatever the method."""
        losses = self._task.losses(wide(logits), truth, self._student.training)
        losses = losses if counts is None else losses * counts
        counted = float(self._task.counted(truth, self._student.training).sum())
        return losses.sum() / (counted or 1.0)  # where no item counts the sum is 0

    def _counts(self, weights: torch.Tensor | None) -> torch.Tensor | None:
        """What rows with their truth count, where that is how classes are balanced."""
        balance = self._student.training.balance
        return weights if balance is not None and balance.by == "weights" else None

    def _seed(self, number: int, part: int) -> None:
        """What a model draws in a part of a step, or on a rank of it, belongs to its seed and the step, not to others.

        Dropout, that is.
        """
        self._number = number
        self._seed_part(part)

    def _seed_part(self, part: int) -> None:
        seed = _seed_of("step", self._student.seed, self._number, *([part] if part else []))
        torch.default_generator.manual_seed(seed)
        if self._device.type == "cuda":
            torch.cuda.manual_seed(seed)


def _seed_of(*what: int | str) -> int:
    """A seed of torch's that belongs to `what` alone."""
    return int(digest(list(what)), 16) % 2**63
