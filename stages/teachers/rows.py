"""The labelled rows of one domain or of several as one: positions count on from domain to domain.

Shapes: B rows of a batch.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from schemas.errors import DataError, ModelError
from schemas.spec import Storage
from schemas.teachers import DomainSize, LabelledDomain
from stages.classes import class_numbers
from stages.domains.reader import Samples, read_budget
from stages.places import Place
from stages.random import Draws
from stages.tasks.base import Packed, Task
from stages.training.balance import balanced_weights
from stages.truth import Truth, counts


class LabelledRows:
    """Samples with the truth that may be seen, and nothing of what may not."""

    def __init__(
        self,
        domains: Sequence[LabelledDomain],
        classes: tuple[str, ...],
        storage: Storage,
        reads: tuple[str, ...] | None = None,
    ) -> None:
        """Open the domains; their truth counts in `classes`, whatever order their own stand in.

        `reads`: the only columns to read; none: all.

        Raises DataError without a row to train on, ModelError for other classes.
        """
        opened = [Samples.open(Place(domain.samples.uri, storage), domain.samples).only(reads) for domain in domains]
        budgets = []
        for domain, samples in zip(domains, opened, strict=True):
            known = samples.manifest.classes or classes
            if set(known) != set(classes):
                raise ModelError(
                    f"the model speaks of {len(classes)} classes ({', '.join(classes[:5])}, …), the domain of "
                    f"{len(known)} ({', '.join(known[:5])}, …): give both the same `classes`"
                )
            budget = read_budget(Place(domain.budget.uri, storage), domain.budget)
            budgets.append(budget.renumbered(class_numbers(known, classes)))
        self._samples = opened
        self._starts = np.cumsum([0, *(samples.rows for samples in opened)], dtype=np.int64)
        starts = self._starts[:-1]
        self.train = _joined([b.train_positions + start for b, start in zip(budgets, starts, strict=True)])
        self.validation = _joined([b.validation_positions + start for b, start in zip(budgets, starts, strict=True)])
        seen = [counts(budget.train_truth, len(classes)) for budget in budgets]
        self.sizes = tuple(DomainSize(rows=sum(known), labelled=known) for known in seen)
        """What is learned from each domain."""
        self._train_truth = np.concatenate([budget.train_truth for budget in budgets])
        self.validation_truth = np.concatenate([budget.validation_truth for budget in budgets])
        if not len(self.train):
            raise DataError("a teacher needs true labels to train on: raise `label_budget.train` of its domains")
        parts = [samples.offsets[:-1] + start for samples, start in zip(opened, starts, strict=True)]
        self.offsets = _joined([*parts, self._starts[-1:]])
        """First row of each shard of all domains, and the number of rows."""
        sizes = sum(shard.samples.size for samples in opened for shard in samples.shards)
        self.bytes_per_row = sizes / max(1, int(self._starts[-1]))

    def balanced(self, between: Collection[str]) -> NDArray[np.float64]:
        """What each train row counts, in the order of `train`, with a mean of 1."""
        domain_N = np.searchsorted(self._starts, self.train, side="right") - 1
        return balanced_weights(self._train_truth, domain_N, between)

    def truth(self, positions: NDArray[np.int64]) -> Truth:
        """Truth (B,) of train rows."""
        return self._train_truth[np.searchsorted(self.train, positions)]

    def batch(self, task: Task, preprocessing: Any, positions: NDArray[np.int64]) -> torch.Tensor:
        """The inputs of B rows, in their order."""
        return self._read(positions, lambda packed, rows: task.batch(packed, preprocessing))

    def augmented(
        self, task: Task, preprocessing: Any, augmentation: Any, positions: NDArray[np.int64], draws: Draws
    ) -> torch.Tensor:
        """The inputs of B rows, in their order, augmented by their draws."""
        return self._read(
            positions, lambda packed, rows: task.augmented(packed, preprocessing, augmentation, draws.of(rows))
        )

    def _read(
        self, positions: NDArray[np.int64], make: Callable[[Packed, NDArray[np.int64]], torch.Tensor]
    ) -> torch.Tensor:
        """One batch of the rows of each domain; `make` is told which rows of the batch it makes."""
        domain_B = np.searchsorted(self._starts, positions, side="right") - 1
        batch: torch.Tensor | None = None
        for domain in np.unique(domain_B):
            rows = np.flatnonzero(domain_B == domain)
            packed = self._samples[domain].gather(positions[rows] - self._starts[domain])
            part = make(packed, rows)
            if len(rows) == len(positions):
                return part
            batch = part.new_empty((len(positions), *part.shape[1:])) if batch is None else batch
            batch[torch.from_numpy(rows)] = part
        if batch is None:
            raise DataError("a batch has at least one row")
        return batch


def _joined(parts: Sequence[NDArray[np.int64]]) -> NDArray[np.int64]:
    return np.concatenate(parts).astype(np.int64)
