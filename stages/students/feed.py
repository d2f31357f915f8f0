"""What the students of a rank step on: every batch read, decoded, augmented and moved to the device once.

A pure function of (stream, step): it does not know which students there are. Counters prove how often a row
was touched. The shared rows of a step cost one gather of samples and one of logits per label set; labelled
rows one gather per draw of the budget.

Shapes: B shared rows, L labelled rows, V validation rows of a chunk.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray

from schemas.canonical import digest
from schemas.errors import DataError
from schemas.labels import VIEWS, LabelSchema, Space
from schemas.students import Stream
from schemas.teachers import DomainSize
from stages.cache import Ahead
from stages.labels.decoded import Decoded
from stages.labels.layout import labels_of
from stages.labels.views import view_inputs, view_of
from stages.random import Draws, step_draws
from stages.registry import validate_settings
from stages.students.ensemble import EnsembleLabels
from stages.students.teacher import TeacherRows, teacher_rows
from stages.tasks.base import Packed, Task
from stages.training.balance import balanced_weights, drawn
from stages.training.peers import ALONE
from stages.training.stream import Positions, Rows, RowStream, rng, shard_order
from stages.truth import Truth, counts

VALIDATION_CHUNK = 256
"""Validation rows of a forward pass."""
NOTHING: Mapping[str, Collection[str]] = {}
"""No label sets."""


class SampleReader(Protocol):
    """What is needed of `stages.domains.reader.Samples`."""

    def gather(self, positions: Positions, /) -> Packed:
        """Packed samples of some rows."""

    def content_ids_at(self, positions: Positions, /) -> NDArray[np.uint8]:
        """Content ids (B, 16) of some rows."""


class LabelReader(Protocol):
    """What is needed of `stages.labels.reader.LabelSet`."""

    @property
    def classes(self) -> Sequence[str]:
        """Classes in the order of the logits."""

    @property
    def schema(self) -> LabelSchema:
        """What a label is."""

    def gather(
        self, positions: Positions, view: NDArray[np.int64], /, *, extras: Collection[str]
    ) -> Mapping[str, NDArray[Any]]:
        """Labels of some rows, each in a view of its own, as stored, and some of the fields beside them."""

    def decode(self, stored: Mapping[str, NDArray[Any]], /) -> Decoded:
        """What stored labels say."""


class BudgetRows(Protocol):
    """What is needed of `stages.domains.reader.Budget`."""

    @property
    def train_positions(self) -> Positions:
        """Rows to learn from."""

    @property
    def train_truth(self) -> Truth:
        """Their truth."""

    @property
    def validation_positions(self) -> Positions:
        """Rows to choose on."""

    @property
    def validation_truth(self) -> Truth:
        """Their truth."""


@dataclass(frozen=True)
class SharedBatch:
    """The rows that every student with a teacher steps on."""

    inputs: torch.Tensor
    """(B, ...) augmented, on the device; of several ranks, each has its share, and all have the rest."""
    weights_B: torch.Tensor
    """1, or 0 for rows that only fill up the batch."""
    teachers: Mapping[str, TeacherRows]
    """What the teacher says of each item, by digest of the label set."""
    asked: Mapping[str, torch.Tensor] = field(default_factory=dict)
    """What students are forced on (B, T), by digest of the label set; of tasks that force."""


@dataclass(frozen=True)
class LabelledBatch:
    """Rows with true labels, for the students of one draw of the budget."""

    inputs: torch.Tensor
    """(L, ...) augmented, on the device; of several ranks, each has its share, and all have the rest. Forced on the
    truth by tasks that force."""
    truth_L: torch.Tensor
    """Class numbers of their items, int64, as `Task.targets` has them."""
    weights_L: torch.Tensor
    """What each item counts where classes are to count alike, with a mean of 1 over the budget; float32."""
    teachers: Mapping[str, TeacherRows]
    """What the teacher says of each row, by digest of the label set; of those that were asked for."""


@dataclass(frozen=True)
class SourceBatch:
    """Rows of a source domain."""

    inputs: torch.Tensor
    """(S, ...) augmented, on the device; of several ranks, each has its share, and all have the rest. Forced on the
    truth by tasks that force."""
    truth_S: torch.Tensor | None
    """Class numbers of their items, int64, as `Task.targets` has them; none where no truth may be seen."""
    weights_S: torch.Tensor | None
    """As those of labelled rows."""


@dataclass(frozen=True)
class SourceDomain:
    """The source domain: the rows of it that are read."""

    samples: SampleReader
    positions: Positions
    """Its train rows, or those of them whose truth may be seen."""
    truth: Truth | None = None
    """Truth of these rows, its classes in the students' order of the classes; none: they are read without."""


class Feed:
    """The inputs of every step. Label sets, budgets and sources are opened by the caller and go by their digests."""

    def __init__(
        self,
        task: Task,
        classes: Sequence[str],
        stream: Stream,
        samples: SampleReader,
        rows: RowStream,
        budgets: Mapping[str, BudgetRows],
        label_sets: Mapping[str, LabelReader],
        device: torch.device,
        sources: Mapping[str, SourceDomain] | None = None,
        coming: Callable[[int], Iterable[Callable[[], object]]] = lambda shard: (),
    ) -> None:
        """`coming`: the downloads that a shard of the samples and its labels rest on."""
        self.counters: Counter[str] = Counter()
        """Rows read and decoded, rows augmented, and labels gathered, since the start."""
        self.peers = ALONE
        """The ranks that share each batch."""
        self.rows = rows
        self._task, self._stream, self.samples, self._device = task, stream, samples, device
        self.budgets, self.label_sets, self._sources = budgets, dict(label_sets), sources or {}
        self._coming, self._ahead = coming, (-1, Ahead([], coming))
        self._classes = tuple(classes)
        self._columns = {digest: _columns(labels.classes, classes) for digest, labels in label_sets.items()}
        self._counts: dict[str, NDArray[np.float64]] = {}
        self._preprocessing = validate_settings(task.Preprocessing, dict(stream.preprocessing), "preprocessing")
        self._augmentation = validate_settings(task.Augmentation, dict(stream.augmentation), "augmentation")

    def shared(self, step: int, label_sets: Mapping[str, Collection[str]]) -> SharedBatch:
        """The shared rows of a step, with the logits of some label sets, and the fields beside them that are named."""
        rows, views = self.rows.at(step), self._stream.views
        self._reach(step, rows)
        view_B = view_of(rows.positions, rows.epoch, views)
        if views.count > 1:
            share = self.peers.share(len(rows.positions))
            inputs = self._read_views(rows.positions[share], view_B[share])
        else:
            draws = step_draws(rng(self._stream.seed, "augment", step), len(rows.positions))
            inputs = self._read_share(rows.positions, draws)
        seen = inputs if views.count > 1 else None
        said = {
            name: self._teacher(name, rows.positions, view_B, fields, inputs, seen)
            for name, fields in label_sets.items()
        }
        return SharedBatch(
            inputs=inputs,
            weights_B=torch.from_numpy(rows.weights).to(self._device),
            teachers={name: teacher for name, (teacher, _) in said.items()},
            asked={name: asked for name, (_, asked) in said.items() if asked is not None},
        )

    def labelled(
        self, step: int, budget: str, label_sets: Mapping[str, Collection[str]] = NOTHING
    ) -> LabelledBatch | None:
        """Rows drawn with replacement from one budget, alike in all arms; None at a budget of 0.

        Each row is as likely as another, or each class where the stream is balanced.

        With what some label sets say of them, and the fields beside those that are named.
        """
        rows = self.budgets[budget]
        if not len(rows.train_positions):
            return None
        draw = rng(self._stream.seed, "labelled", budget, step)
        counts_N = self._balance(budget, rows.train_truth)
        chosen = self._chosen(draw, counts_N, self._stream.labelled_batch_size)
        positions = rows.train_positions[chosen]
        plain = np.zeros_like(positions)
        inputs = self._read_share(positions, step_draws(draw, len(chosen)))
        return LabelledBatch(
            *self._told(inputs, rows.train_truth[chosen], counts_N[chosen]),
            teachers={
                name: self._teacher(name, positions, plain, fields, inputs)[0] for name, fields in label_sets.items()
            },
        )

    def source(self, step: int, source: str) -> SourceBatch:
        """As many rows of a source as there are shared ones, drawn with replacement and augmented alike.

        Where their truth may be seen they come with it; each class is then as likely where the stream is balanced.
        """
        rows, draw = self._sources[source], rng(self._stream.seed, "source", source, step)
        size = self._stream.batch_size
        if rows.truth is None:
            chosen = draw.integers(len(rows.positions), size=size)
            return SourceBatch(
                self._read_share(rows.positions[chosen], step_draws(draw, size), rows.samples), None, None
            )
        counts_N = self._balance(source, rows.truth)
        chosen = self._chosen(draw, counts_N, size)
        inputs = self._read_share(rows.positions[chosen], step_draws(draw, size), rows.samples)
        return SourceBatch(*self._told(inputs, rows.truth[chosen], counts_N[chosen]))

    @property
    def views(self) -> int:
        """Views of a sample that the label sets hold."""
        return self._stream.views.count

    def sizes(self, budget: str | None, source: str | None) -> tuple[DomainSize, DomainSize | None]:
        """What a student with this budget and this source learns from, on target and source."""
        truth = self.budgets[budget].train_truth if budget else np.zeros(0, np.int32)
        target = DomainSize(rows=len(self.rows.positions), labelled=self._by_class(truth))
        if source is None:
            return target, None
        rows = self._sources[source]
        seen = np.zeros(0, np.int32) if rows.truth is None else rows.truth
        return target, DomainSize(rows=len(rows.positions), labelled=self._by_class(seen))

    def _by_class(self, truth: Truth) -> tuple[int, ...]:
        return counts(truth, len(self._classes))

    def _balance(self, name: str, truth: Truth) -> NDArray[np.float64]:
        """What each of these rows counts where classes count alike; worked out once."""
        if name not in self._counts:
            one = np.ones(len(truth))
            alike = self._task.coded
            self._counts[name] = one if alike else balanced_weights(truth, np.zeros(len(truth), np.int64), ("classes",))
        return self._counts[name]

    def _told(
        self, inputs: torch.Tensor, truth: Truth, counts: NDArray[np.float64]
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """(inputs, forced on the truth where the task forces; class of each item; what each item counts)."""
        asked = self._task.asked(truth).to(self._device)
        inputs = self._task.forced(inputs, asked)
        weights = torch.from_numpy(counts.astype(np.float32)).to(self._device)
        items = self._task.items(inputs)
        return inputs, self._task.targets(asked, inputs), weights if items is None else weights.repeat_interleave(items)

    def _chosen(self, draw: np.random.Generator, counts_N: NDArray[np.float64], size: int) -> NDArray[np.int64]:
        return drawn(counts_N, draw, size) if self._stream.balanced else draw.integers(len(counts_N), size=size)

    def validation(self, budget: str) -> Iterator[torch.Tensor]:
        """The validation rows of one budget in chunks (V, ...), as they are."""
        positions = self.budgets[budget].validation_positions
        for start in range(0, len(positions), VALIDATION_CHUNK):
            yield self._read(positions[start : start + VALIDATION_CHUNK], None)

    def validation_truth(self, budget: str) -> Truth:
        """Truth of the validation rows of one budget, in order."""
        return self.budgets[budget].validation_truth

    def said_of_validation(self, digest: str, budget: str | None) -> tuple[Decoded, Truth, NDArray[np.int64] | None]:
        """(what a label set says of a budget's validation rows, their truth, place of our classes among the set's)."""
        labels, positions = self.label_sets[digest], np.zeros(0, np.int64)
        if budget is not None:
            positions = self.budgets[budget].validation_positions
        truth = self.validation_truth(budget) if budget is not None else np.zeros(0, np.int32)
        stored = labels.gather(positions, np.zeros_like(positions), extras=())
        return labels.decode(stored), truth, self._columns[digest]

    def together(self, sets: Sequence[str], weights: Sequence[float], space: Space) -> str:
        """The name under which some label sets are read as one from now on: one name for one asking."""
        name = digest({"sets": sets, "weights": weights, "space": space})
        if name not in self.label_sets:
            parts = [(self.label_sets[one], self._columns[one]) for one in sets]
            self.label_sets[name] = EnsembleLabels(parts, weights, self._classes, space)
            self._columns[name] = None
        return name

    def _reach(self, step: int, rows: Rows) -> None:
        """Have the shards of some rows on this machine, and those that the epoch comes to next on their way."""
        epoch, ahead = self._ahead
        if epoch != rows.epoch:
            order = shard_order(self.rows.offsets, self.rows.seed, rows.epoch).tolist()
            ahead.close()
            ahead = Ahead(order, self._coming)
            self._ahead = rows.epoch, ahead
            if step % self.rows.steps_per_epoch == 0:  # else a training that goes on, past shards that it had
                ahead.reach(order[0])
        ahead.reach(*np.unique(np.searchsorted(self.rows.offsets, rows.positions, side="right") - 1).tolist())

    def _read_share(self, positions: Positions, draws: Draws, samples: SampleReader | None = None) -> torch.Tensor:
        """This rank's rows of a batch, under their own draws of the whole batch's."""
        share = self.peers.share(len(positions))
        return self._read(positions[share], draws.of(np.arange(len(positions))[share]), samples)

    def _read(self, positions: Positions, draws: Draws | None, samples: SampleReader | None = None) -> torch.Tensor:
        packed = (samples or self.samples).gather(positions)
        self.counters["decoded"] += len(positions)
        if draws is None:
            batch = self._task.batch(packed, self._preprocessing)
        else:
            batch = self._task.augmented(packed, self._preprocessing, self._augmentation, draws)
            self.counters["augmented"] += len(positions)
        return self._moved(batch)

    def _read_views(self, positions: Positions, view_B: NDArray[np.int64]) -> torch.Tensor:
        """The rows as the teacher saw them, each in its view."""
        packed, content_ids = self.samples.gather(positions), self.samples.content_ids_at(positions)
        self.counters["decoded"] += len(positions)
        self.counters["augmented"] += int((view_B > 0).sum())
        return self._moved(
            view_inputs(self._task, packed, content_ids, view_B, self._stream.views, self._preprocessing)
        )

    def _moved(self, batch: torch.Tensor) -> torch.Tensor:
        memory: Any = torch.channels_last if batch.dim() == 4 else torch.preserve_format
        return batch.to(self._device, memory_format=memory)

    def _teacher(
        self,
        digest: str,
        positions: Positions,
        view_B: NDArray[np.int64],
        fields: Collection[str],
        inputs: torch.Tensor,
        seen: torch.Tensor | None = None,
    ) -> tuple[TeacherRows, torch.Tensor | None]:
        """What a label set says of each item of some rows, and what a student is forced on then.

        `seen`: the rows as the teacher saw them, where that is not as they are.
        """
        labels, task, kept = self.label_sets[digest], self._task, set(fields) - {VIEWS}
        stored = labels.gather(positions, view_B, extras={*kept, *task.recalls} if task.forces else kept)
        self.counters["labels"] += len(positions)
        decoded, beside, asked = labels.decode(stored), {name: stored[name] for name in kept}, None
        if VIEWS in fields:
            beside[VIEWS] = self._all_views(digest, positions)
        if task.forces:
            items = labels_of(stored, labels.schema.shape, len(positions))
            asked = task.recalled(items, stored, seen).to(self._device)
            if (taught := task.taught(task.forced(inputs, asked))) is not None:
                chosen = taught.cpu().numpy()
                decoded, beside = decoded.rows(chosen), {name: values[chosen] for name, values in beside.items()}
        return teacher_rows(decoded, self._columns[digest], self._device, beside), asked

    def _all_views(self, digest: str, positions: Positions) -> NDArray[np.float64]:
        """Log-probabilities (B, views, C) of some rows, in our order of the classes."""
        labels, columns, found = self.label_sets[digest], self._columns[digest], []
        for view in range(self.views):
            stored = labels.gather(positions, np.full_like(positions, view), extras=())
            self.counters["labels"] += len(positions)
            said = labels.decode(stored).log_probabilities(1.0)
            found.append(said if columns is None else said[:, columns])
        return np.stack(found, axis=1)


def _columns(theirs: Sequence[str], ours: Sequence[str]) -> NDArray[np.int64] | None:
    """Column of each of our classes in a label set, none if they stand alike. Raises DataError for different ones."""
    if tuple(theirs) == tuple(ours):
        return None
    if differing := sorted(set(theirs) ^ set(ours)):
        raise DataError(
            f"label set ({len(theirs)} classes) and students ({len(ours)}) do not speak of the same classes: "
            f"{len(differing)} stand on one side only (first: '{differing[0]}'). "
            "Give the teacher a `class_map` onto the target's classes"
        )
    places = {name: number for number, name in enumerate(theirs)}
    return np.array([places[name] for name in ours], dtype=np.int64)
