"""A small honest world to train students in: real pictures' task, samples and labels in memory, models that misbehave.

Used in place of `open_feed`, so that these tests need no domain and no store.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from schemas.artifacts import BudgetRef, LabelSetRef, SamplesRef, SplitRef
from schemas.base import Part
from schemas.encodings import Dense
from schemas.labels import Extra, LabelSchema
from schemas.spec import Storage
from schemas.students import CohortInputs, Ensemble, Stream, StudentInputs
from schemas.training import Training
from stages.labels.decoded import DenseLabels
from stages.labels.encodings import label_schema
from stages.students import checks, cohort
from stages.students.feed import Feed, SourceDomain
from stages.students.fit import Fit
from stages.tasks import get_task
from stages.training.stream import Positions, RowStream

CLASSES = ("one", "two", "three")
TASK = Part.model_validate({"name": "image-classification", "image_size": 6, "channels": 1})
ROWS, TRAIN_ROWS, BATCH = 60, 42, 8
"""42 train rows in batches of 8: the last batch of an epoch (6 steps) is filled up with 6 rows."""


class Killed(BaseException):
    """Stands for the end of the process: nothing may catch it."""


class Small(torch.nn.Module):
    """Convolution, batch norm, dropout: all that could carry state from a neighbour."""

    def __init__(self, num_classes: int, dropout: float = 0.3) -> None:
        super().__init__()
        self.layers = torch.nn.Sequential(
            torch.nn.Conv2d(1, 4, 3, padding=1),
            torch.nn.BatchNorm2d(4),
            torch.nn.ReLU(),
            torch.nn.Conv2d(4, 4, 3),
            torch.nn.Flatten(),
            torch.nn.Dropout(dropout),
            torch.nn.Linear(64, num_classes),
        )
        self.forwards = 0

    def forward(self, batch: torch.Tensor) -> torch.Tensor:
        self.forwards += self.training
        logits: torch.Tensor = self.layers(batch)
        return logits


class NotFinite(Small):
    """Answers NaN from its third training step on."""

    def forward(self, batch: torch.Tensor) -> torch.Tensor:
        logits = super().forward(batch)
        return logits * torch.nan if self.forwards > 2 else logits


class Raises(Small):
    """Fails in its fourth training step, as CUDA does when its memory is full."""

    def forward(self, batch: torch.Tensor) -> torch.Tensor:
        logits = super().forward(batch)
        if self.forwards > 3:
            raise torch.OutOfMemoryError("no memory")
        return logits


class Uneven(Small):
    """Fails in its third training step on the second rank alone: in its forward pass, or in the backward pass."""

    def __init__(self, num_classes: int, backward: bool) -> None:
        super().__init__(num_classes, dropout=0.0)
        self.backward = backward

    def forward(self, batch: torch.Tensor) -> torch.Tensor:
        here = self.training and self.forwards == 2 and torch.distributed.get_rank() == 1
        if here and not self.backward:
            raise RuntimeError("only here")
        logits = super().forward(batch)
        if here:
            logits.register_hook(self.fail)
        return logits

    def fail(self, gradient: torch.Tensor) -> None:
        raise RuntimeError("only in the backward pass")


class Vandal(Small):
    """Writes into its input."""

    def forward(self, batch: torch.Tensor) -> torch.Tensor:
        batch.zero_()
        return super().forward(batch)


def small(num_classes: int) -> torch.nn.Module:
    return Small(num_classes)


def sized(num_classes: int, width: int, more: bool = False) -> torch.nn.Module:
    """In any width, and with a convolution more where two networks are not to be alike."""
    layers: list[torch.nn.Module] = [torch.nn.Conv2d(1, width, 3), torch.nn.BatchNorm2d(width), torch.nn.ReLU()]
    layers += [torch.nn.Conv2d(width, width, 1)] if more else []
    head = torch.nn.Linear(16 * width, num_classes)
    return torch.nn.Sequential(*layers, torch.nn.Flatten(), torch.nn.Dropout(0.1), head)


def plain(num_classes: int) -> torch.nn.Module:
    """Without batch norm or dropout: the rows of a batch do not meet."""
    layers = [torch.nn.Conv2d(1, 4, 3), torch.nn.ReLU(), torch.nn.Flatten(), torch.nn.Linear(64, num_classes)]
    return torch.nn.Sequential(*layers)


def steady(num_classes: int) -> torch.nn.Module:
    return Small(num_classes, dropout=0.0)


def uneven(num_classes: int) -> torch.nn.Module:
    return Uneven(num_classes, backward=False)


def late(num_classes: int) -> torch.nn.Module:
    return Uneven(num_classes, backward=True)


def unbuildable_once(num_classes: int) -> torch.nn.Module:
    if torch.distributed.get_rank() == 1:
        raise RuntimeError("not built here")
    return Small(num_classes)


def not_finite(num_classes: int) -> torch.nn.Module:
    return NotFinite(num_classes)


def raises(num_classes: int) -> torch.nn.Module:
    return Raises(num_classes)


def vandal(num_classes: int) -> torch.nn.Module:
    return Vandal(num_classes)


def unbuildable(num_classes: int) -> torch.nn.Module:
    raise RuntimeError("no such layer")


@dataclass
class Samples:
    """Pictures in memory; the process dies before the `die_at`-th read."""

    images: NDArray[np.uint8]
    die_at: int | None = None
    read: list[Positions] = field(default_factory=list)

    def gather(self, positions: Positions) -> dict[str, Any]:
        if len(self.read) == self.die_at:
            raise Killed
        self.read.append(positions)
        return {"image": self.images[positions]}

    def content_ids_at(self, positions: Positions) -> NDArray[np.uint8]:
        return np.repeat(positions.astype("<u4").view(np.uint8).reshape(-1, 4), 4, axis=1)


@dataclass
class Labels:
    """Logits in memory."""

    values: NDArray[np.float32]
    classes: Sequence[str] = CLASSES
    beside: Mapping[str, NDArray[np.float32]] = field(default_factory=dict)

    @property
    def schema(self) -> LabelSchema:
        extras = [Extra(name=name, width=(*values.shape, None)[1]) for name, values in self.beside.items()]
        return label_schema(tuple(self.classes), Dense(dtype="float32"), extras=tuple(extras))

    def gather(
        self, positions: Positions, view: NDArray[np.int64], *, extras: Collection[str]
    ) -> dict[str, NDArray[np.float32]]:
        return {"logits": self.values[positions]} | {name: self.beside[name][positions] for name in extras}

    def decode(self, stored: Mapping[str, NDArray[np.float32]]) -> DenseLabels:
        return DenseLabels(stored["logits"])


@dataclass
class Budget:
    """Some rows with their truth."""

    train_positions: Positions
    train_truth: NDArray[np.int32]
    validation_positions: Positions
    validation_truth: NDArray[np.int32]


class World:
    """Two label sets and three budgets (draws 0 and 1, and a budget of 0) over one domain."""

    def __init__(self, seed: int = 0) -> None:
        draw = np.random.default_rng(seed)
        self.truth = draw.integers(3, size=ROWS).astype(np.int32)
        images = draw.integers(0, 60, size=(ROWS, 6, 6, 1))
        images[np.arange(ROWS), self.truth * 2] += 150
        self.samples = Samples(images.astype(np.uint8))
        logits = draw.normal(size=(2, ROWS, 3)) + 3 * np.eye(3)[self.truth]
        features = {"features": (logits[0] @ draw.normal(size=(3, 5))).astype(np.float32)}
        self.label_sets = {
            f"{number:032x}": Labels(logits[number].astype(np.float32), beside=features) for number in range(2)
        }
        self.budgets = {f"{draw:032x}": self._budget(draw, 5, 6) for draw in range(2)}
        self.budgets[f"{2:032x}"] = self._budget(2, 0, 0)
        self.source = Samples(draw.integers(0, 250, size=(20, 6, 6, 1)).astype(np.uint8))
        self.source_truth = np.array([0] * 14 + [1] * 4 + [2] * 2, np.int32)
        self.feeds: list[Feed] = []

    def _budget(self, number: int, train: int, validation: int) -> Budget:
        draw = np.random.default_rng(number)
        rows = np.sort(draw.permutation(TRAIN_ROWS)[:train])
        held = TRAIN_ROWS + np.arange(validation)
        return Budget(rows, self.truth[rows], held, self.truth[held])

    def feed(self, fits: Sequence[Fit], storage: Storage, device: torch.device) -> Feed:
        """In place of `open_feed`."""
        asked = fits[0].order.asked
        rows = RowStream(
            positions=np.arange(TRAIN_ROWS),
            offsets=np.array([0, 20, 40, ROWS]),
            bytes_per_row=36.0,
            batch_size=asked.stream.batch_size,
            window_bytes=asked.stream.window_bytes,
            seed=asked.stream.seed,
        )
        task = get_task(asked.task)
        label_sets = {ref.digest: self.label_sets[ref.digest] for fit in fits for ref in fit.reads}
        seen = {fit.source: fit.student.source.budget for fit in fits if fit.source and fit.student.source}
        sources = {
            name: SourceDomain(self.source, np.arange(20), None if budget is None else self.source_truth)
            for name, budget in seen.items()
        }
        feed = Feed(task, asked.classes, asked.stream, self.samples, rows, self.budgets, label_sets, device, sources)
        self.feeds.append(feed)
        return feed

    def use(self, monkeypatch: pytest.MonkeyPatch) -> World:
        """Let cohorts train in this world."""
        monkeypatch.setattr(cohort, "open_feed", self.feed)
        monkeypatch.setattr(checks, "check_students", lambda *_: None)
        return self


def ref(number: int) -> dict[str, Any]:
    return {"uri": "nowhere", "fingerprint": f"{number:032x}", "digest": f"{number:032x}"}


def student(
    name: str,
    method: str | Part = "soft",
    *,
    model: str = "small",
    labels: int | Ensemble = 0,
    budget: int | None = 0,
    **more: Any,
) -> StudentInputs:
    """A student of 14 steps: two epochs and two steps of a third."""
    training: dict[str, Any] = {"learning_rate": 0.02} | more.pop("training", {})
    fields: dict[str, Any] = {"steps": 14, "seed": 0} | more
    return StudentInputs(
        name=name,
        model=Part(name=f"tests.students.world:{model}"),
        method=Part(name=method) if isinstance(method, str) else method,
        training=Training(**training),
        labels=None if method == "none" else LabelSetRef(**ref(labels)) if isinstance(labels, int) else labels,
        budget=None if budget is None else BudgetRef(**ref(budget)),
        **fields,
    )


def cohort_of(*students: StudentInputs, **stream: Any) -> CohortInputs:
    """A cohort over the world's domain, with augmentation."""
    return CohortInputs(
        task=TASK,
        classes=CLASSES,
        stream=Stream(
            samples=SamplesRef(**ref(0)),
            split=SplitRef(**ref(0)),
            batch_size=BATCH,
            labelled_batch_size=4,
            augmentation={"rotate": 10.0, "translate": 0.1},
            window_bytes=36 * 16,
            **stream,
        ),
        students=students,
    )
