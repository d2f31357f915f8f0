"""Training of a teacher on labelled domains, data-parallel over the ranks of a worker group.

Every rank reads its share of each global batch; the loss is the mean over the global batch, so gradients (averaged
by DistributedDataParallel) do not depend on the number of ranks. Two things do, within the noise of training: the
draws of the augmentation, and batch-norm statistics on CPUs (on GPUs they are synchronised).
On one CPU thread and one rank the result is a function of the inputs to the bit, killed and resumed or not.

Shapes: B rows of the global batch, L rows of this rank's share, C classes.
"""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from contextlib import nullcontext
from typing import Any, cast

import numpy as np
import torch
from numpy.typing import NDArray

from schemas.base import Part
from schemas.errors import ModelError, TrainingFailed
from schemas.teachers import EpochQuality, TrainTeacher
from stages.random import step_draws
from stages.registry import validate_settings
from stages.tasks import get_task
from stages.teachers.rows import LabelledRows
from stages.teachers.work import WINDOW_BYTES, Finished, Work, finished_of, leave
from stages.training import checkpoints, models, optim
from stages.training.balance import drawn
from stages.training.launch import device, rank, world_size
from stages.training.mixing import draw_mix, draw_partners
from stages.training.schedules import learning_rate, total_steps
from stages.training.stopping import figure_of, reason_to_stop
from stages.training.stream import Rows, RowStream, rng
from stages.training.trainee import Trainee, copied
from stages.training.weights import load_given

VALIDATION_BATCH = 256
Target = tuple[torch.Tensor, torch.Tensor]
"""What is asked of each row, (L,) class numbers or (L, T) or (L, Q), and what each row weighs (L,)."""


def loop(config: dict[str, Any]) -> None:
    """Train the teacher of `config["work"]` and leave it beside its checkpoints. Runs on every rank.

    Raises TrainingFailed if loss or weights are not finite, ModelError or DataError for what does not fit.
    """
    work: Work = config["work"]
    torch.set_num_threads(work.threads)
    with torch.random.fork_rng(devices=[]):
        training = TeacherTraining(work)
        training.run()


class TeacherTraining:
    """One rank's part in the training of a teacher."""

    def __init__(self, work: Work) -> None:
        self.way = cast(TrainTeacher, work.inputs.way)
        self.settings, self.work, self.card = self.way.training, work, work.card()
        self.task = get_task(work.inputs.task)
        self.preprocessing = models.preprocessing_of(self.task, work.inputs.preprocessing)
        self.augmentation = validate_settings(self.task.Augmentation, self.settings.augmentation, "augmentation")
        self.rows = LabelledRows(self.way.domains, work.own_classes, work.storage, self.task.reads(self.preprocessing))
        self.stream = RowStream(
            self.rows.train,
            self.rows.offsets,
            self.rows.bytes_per_row,
            self.settings.batch_size,
            WINDOW_BYTES,
            self.way.seed,
        )
        balance = self.settings.balance
        self.counts_N = None if balance is None else self.rows.balanced(balance.between)
        """What each train row counts, where it is not the same for all."""
        self.steps = total_steps(self.settings, len(self.rows.train))
        self.epochs = math.ceil(self.steps / self.stream.steps_per_epoch)
        self.device: torch.device = device()
        self.rank, self.ranks = rank(), world_size()
        self.trainee = Trainee(self.settings, self.work.model, self._build, self.steps, self.way.seed, self._fake_batch)
        self.epoch = 0
        """Epochs done."""
        self.history: list[EpochQuality] = []
        self.ended_early: str | None = None
        """Why it ended before its last step."""
        self.after = 0
        """Epoch in which the model that is asked for took over from a smaller one."""
        self.kept_epoch, self.kept_figure = 0, -math.inf
        self.kept: dict[str, torch.Tensor] = {}

    def run(self) -> None:
        """Train from the newest checkpoint to the end. Does nothing if the teacher is finished."""
        saved = checkpoints.latest(self.work.checkpoints, self.work.reporter.warn)
        if finished_of(saved) is not None:
            return
        if saved is not None:
            self._resume(*saved)
        self.parallel, self.saved = self._parallel(), time.monotonic()
        while self.epoch < self.epochs and self.ended_early is None:
            loss = self._train_epoch()
            self.epoch += 1
            if self.rank == 0:
                self._end_epoch(loss)
            self._agree()
        if self.rank == 0:
            leave(
                self.work,
                self.epoch + 1,
                Finished(self.card, self.kept, tuple(self.history), self.kept_epoch, self.ended_early, self.rows.sizes),
            )

    def _build(self, model: Part) -> torch.nn.Module:
        outputs = len(self.work.own_classes)
        network = models.build(self.task, model, outputs, self.preprocessing, self.way.seed)
        if not any(weight.requires_grad for weight in network.parameters()):
            raise ModelError(f"model '{model.name}' has no weights to train: use it as a given teacher")
        if self.way.weights is not None:
            load_given(self.way.weights, network, strict=False, storage=self.work.storage)
        if self.ranks > 1 and self.device.type == "cuda":
            from timm.layers.norm_act import (
                convert_sync_batchnorm,
            )  # torch's own drops the activations of timm's layers

            network = convert_sync_batchnorm(network)
        return network.to(self.device).to(memory_format=torch.channels_last)

    def _parallel(self) -> torch.nn.Module:
        if self.ranks == 1:
            return self.trainee.module
        return torch.nn.parallel.DistributedDataParallel(self.trainee.module)

    def _fake_batch(self) -> torch.Tensor:
        return self._to_device(self.task.fake_batch(2, self.preprocessing))

    def _train_epoch(self) -> float:
        """One pass over the rows (the last may end early); the mean loss of its steps."""
        self.parallel.train()
        first = self.epoch * self.stream.steps_per_epoch
        last = min(first + self.stream.steps_per_epoch, self.steps)
        total = torch.zeros((), dtype=torch.float64)
        for step in range(first, last):
            total += self._step(step)
            if self.rank == 0:
                self.work.reporter.progress(step + 1, self.steps, "steps")
        if self.ranks > 1:
            total = total.to(self.device)
            torch.distributed.all_reduce(total)
        return float(total) / (last - first)

    def _step(self, step: int) -> float:
        """One optimiser step; this rank's part of the mean loss over the global batch."""
        if self.trainee.begin_step(step):
            self.parallel = self._parallel().train()
            self.kept_figure, self.after = -math.inf, self.epoch
        batch = self._batch(step)
        positions, weights = self._share(batch.positions), self._share(batch.weights)
        random = rng(self.way.seed, "teacher", batch.epoch, step, self.rank)
        torch.manual_seed(int(random.integers(2**63)))  # dropout; a resumed training draws the same
        draws = step_draws(random, len(positions))
        inputs = self.rows.augmented(self.task, self.preprocessing, self.augmentation, positions, draws)
        rate = learning_rate(self.settings, step, self.steps, self.stream.steps_per_epoch)
        optim.set_learning_rate(self.trainee.optimizer, rate)
        self.trainee.optimizer.zero_grad(set_to_none=True)
        asked = self.task.asked(self.rows.truth(positions))
        inputs = self.task.forced(inputs, asked)
        targets: list[Target] = [(asked, torch.from_numpy(weights))]
        if self.settings.mixing is not None:
            inputs, targets = self._mixed(inputs, targets[0], random)
        value = self._gradient(inputs, targets, self._weight(batch))
        if not math.isfinite(value):
            raise TrainingFailed(self._not_finite(f"the loss is {value} at step {step + 1} of {self.steps}"))
        self.trainee.update(step)
        return value

    def _batch(self, step: int) -> Rows:
        """The rows of a step: of the stream, with what each counts for its weight, or drawn anew by that."""
        rows, balance, train = self.stream.at(step), self.settings.balance, self.rows.train
        if balance is None or self.counts_N is None:
            return rows
        if balance.by == "sampler":
            chosen = drawn(self.counts_N, rng(self.way.seed, "balance", step), len(rows.positions))
            return Rows(rows.epoch, train[chosen], np.ones_like(rows.weights))
        counts = self.counts_N[np.searchsorted(train, rows.positions)].astype(np.float32)
        return Rows(rows.epoch, rows.positions, rows.weights * counts)

    def _weight(self, batch: Rows) -> float:
        """Items of a global batch that count."""
        counting = batch.positions[batch.weights > 0]
        asked = self.task.targets(self.task.asked(self.rows.truth(counting)))
        return float(self.task.counted(asked, self.settings).sum()) or 1.0  # no item counts: the loss is 0

    def _gradient(
        self,
        inputs: torch.Tensor,
        targets: Sequence[Target],
        total: float,
    ) -> float:
        """Add the gradient of this rank's part of the mean loss over `total` items, and give its value.

        The rows are cut into `accumulate` parts; ranks exchange gradients with the last one. A share whose rows are all
        padding weighs nothing, and still takes part in the exchange.
        """
        parts, value = min(self.settings.accumulate, len(inputs)), 0.0
        cut = [rows.tensor_split(parts) for rows in (inputs, *(part for target in targets for part in target))]
        for number, (some, *asked) in enumerate(zip(*cut, strict=True), start=1):
            alone = number < parts and self.ranks > 1
            with self.parallel.no_sync() if alone else nullcontext():  # type: ignore[operator]
                with torch.autocast(self.device.type, torch.bfloat16, enabled=self.settings.precision == "bfloat16"):
                    outputs = self.parallel(rows := self._to_device(some)).float()
                logits, costs = self.task.priced(outputs)
                loss, items = torch.zeros((), device=self.device), self.task.items(rows)
                for truth, weight in zip(asked[::2], asked[1::2], strict=True):
                    weight = weight.to(self.device)
                    losses = (
                        self.task.losses(logits, self.task.targets(truth.to(self.device), rows), self.settings)
                        if self.trainee.elder is None
                        else self.trainee.lesson(rows, logits)
                    )
                    weight = weight if items is None else weight.repeat_interleave(items)
                    losses = losses if costs is None else losses + costs
                    loss = loss + (losses * weight).sum() / total
                (loss * self.ranks).backward()  # DDP takes the mean over ranks; the shares add up
            value += float(loss.detach())
        return value

    def _mixed(
        self, inputs: torch.Tensor, target: Target, random: np.random.Generator
    ) -> tuple[torch.Tensor, list[Target]]:
        """This rank's rows, mixed with each other, and what is asked of them: their own target and their partner's."""
        mix = None
        if self.settings.mixing is not None:
            mix = draw_mix(self.settings.mixing, inputs.shape[-2:], random)
        if mix is None:
            return inputs, [target]
        (truth, weights), partner = target, draw_partners(len(inputs), random)
        targets = [(truth, mix.lam * weights), (truth[partner], (1.0 - mix.lam) * weights[partner])]
        return mix(inputs, partner), targets

    def _share(self, rows: NDArray[Any]) -> NDArray[Any]:
        """This rank's rows of a global batch, filled up so that every rank has as many.

        Rows that fill up weigh nothing: the first ones again for positions, zeros for weights.
        """
        size = -(-len(rows) // self.ranks)
        missing = size * self.ranks - len(rows)
        fill = np.zeros(missing, rows.dtype) if rows.dtype.kind == "f" else np.resize(rows, missing)
        return np.concatenate([rows, fill])[self.rank * size : (self.rank + 1) * size]

    def _to_device(self, inputs: torch.Tensor) -> torch.Tensor:
        if inputs.ndim == 4:
            return inputs.to(self.device, memory_format=torch.channels_last)
        return inputs.to(self.device)

    def _end_epoch(self, loss: float) -> None:
        """Validate, keep what is best so far, write a checkpoint if the last is old; stop where no gain is seen."""
        state = copied(self.trainee.module.state_dict())
        for name, value in state.items():
            if value.is_floating_point() and not bool(torch.isfinite(value).all()):
                raise TrainingFailed(self._not_finite(f"'{name}' is not finite after epoch {self.epoch}"))
        quality = self._validate()
        self.history.append(EpochQuality(epoch=self.epoch, loss=loss, validation=quality))
        figure = figure_of(self.task, quality)
        if figure is None or self.settings.keep == "last" or figure > self.kept_figure:
            self.kept, self.kept_epoch, self.kept_figure = self.trainee.kept(), self.epoch, figure or 0.0
        if time.monotonic() - self.saved >= checkpoints.EVERY_SECONDS:
            self._save()
            self.saved = time.monotonic()
        self._stop()

    def _stop(self) -> None:
        """End here if validation has shown no gain for long enough."""
        if self.epoch < self.epochs and self.trainee.grown:
            self.ended_early = reason_to_stop(self.settings.early_stopping, self.history, self.task, self.after)

    def _agree(self) -> None:
        """Every rank learns whether the first one, which alone validates, ends here."""
        if self.ranks > 1 and self.settings.early_stopping is not None:
            ends = torch.tensor(self.ended_early is not None, device=self.device)
            torch.distributed.broadcast(ends, 0)
            if ends and self.ended_early is None:
                self.ended_early = "with the first rank"

    def _validate(self) -> dict[str, float]:
        """Metrics on the validation rows of the budget, of the average where there is one; nothing without any."""
        positions = self.rows.validation
        if not len(positions):
            return {}
        self.trainee.module.eval()
        logits = []
        with torch.no_grad():
            for start in range(0, len(positions), VALIDATION_BATCH):
                inputs = self.rows.batch(self.task, self.preprocessing, positions[start : start + VALIDATION_BATCH])
                logits.append(self.trainee.answer(self._to_device(inputs)).float().cpu().numpy())
        return self.task.score(np.concatenate(logits), self.rows.validation_truth, self.task.metrics)

    def _save(self) -> None:
        tensors, trainee = self.trainee.pack()
        tensors |= checkpoints.with_prefix("kept", self.kept)
        meta = {
            "trainee": trainee,
            "after": self.after,
            "history": [line.dump() for line in self.history],
            "kept_epoch": self.kept_epoch,
            "kept_figure": self.kept_figure,
        }
        checkpoints.save(self.work.checkpoints, self.epoch, tensors, meta)
        checkpoints.drop_older(self.work.checkpoints, self.epoch)

    def _resume(self, epoch: int, tensors: dict[str, torch.Tensor], meta: dict[str, Any]) -> None:
        self.trainee.unpack(tensors, meta["trainee"])
        self.after = meta["after"]
        self.epoch, self.kept = epoch, checkpoints.under_prefix("kept", tensors)
        self.history = [EpochQuality.model_validate(line) for line in meta["history"]]
        self.kept_epoch, self.kept_figure = meta["kept_epoch"], meta["kept_figure"]
        self._stop()

    def _not_finite(self, what: str) -> str:
        clip = "" if self.settings.gradient_clip else ", or set `training.gradient_clip`"
        return f"{what}: lower `training.learning_rate` (now {self.settings.learning_rate:g}){clip}"
