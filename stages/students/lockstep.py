"""Students in lockstep: each batch is read once, and every student that is due steps on it.

A student that is ahead (its checkpoint was newer) waits until the others have caught up. What there is memory for is
measured as students are built, each with its next step: those that do not fit train after the others, on a second
reading of the stream. A student's result depends neither on that nor on who else is there.

Where ranks share the batches (`stages.training.peers`) all of them hold all students, take the same steps in the same
order, and agree on each student's health by one all-reduce a step; the first one validates, saves and commits.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from stages.students.feed import Feed, LabelledBatch, SharedBatch, SourceBatch
from stages.students.fit import Fit
from stages.students.memory import UNLIMITED, Memory
from stages.training.peers import PeerFailed


def train(
    fits: Sequence[Fit],
    feed: Feed,
    over: Callable[[Fit], None],
    progress: Callable[[int], None],
    checkpoint_seconds: float,
    memory: Memory = UNLIMITED,
    warn: Callable[[str], None] = lambda message: None,
) -> None:
    """Take every student to its goal; `over` is called for each one that ends, well or by failure.

    `progress` is told the steps taken by all of them. Costs one read of the inputs per step, for all that fit into
    `memory` together; `warn` is told where these are not all.
    """
    waiting = []
    for fit in fits:
        fit.peers = feed.peers
        with fit.guard():
            fit.meet(feed)
        if fit.failure is None:
            waiting.append(fit)
        else:
            over(fit)
    while waiting:
        group = _Lockstep(feed, over, lambda: progress(sum(fit.done for fit in fits)))
        put_off = group.admit(waiting, memory)
        if put_off:
            together = len(waiting) - len(put_off)
            warn(
                f"{together} of {len(waiting)} students fit into memory at once ({_size(memory.held())} of "
                f"{_size(memory.limit or 0)} are taken); the others train after them"
            )
        group.run(checkpoint_seconds)
        waiting = put_off
        if waiting:
            memory.give_back()


@dataclass(frozen=True)
class _Batch:
    """What some students step on."""

    shared: SharedBatch | None
    labelled: Mapping[str, LabelledBatch | None]
    """By budget."""
    sources: Mapping[str, SourceBatch]
    """By the name of the rows."""


class _Lockstep:
    """Students that are in memory together."""

    def __init__(self, feed: Feed, over: Callable[[Fit], None], progress: Callable[[], None]) -> None:
        self._feed, self._over, self._progress = feed, over, progress
        self._peers = feed.peers
        self._running: list[Fit] = []

    def admit(self, waiting: Sequence[Fit], memory: Memory) -> list[Fit]:
        """Build students and let each take its next step, while memory lasts; the answer is who does not fit."""
        limit = math.inf if memory.limit is None else memory.limit
        batches: dict[int, _Batch] = {}
        taken: dict[str, int] = {}
        stepped: dict[int, list[Fit]] = {}
        put_off: list[Fit] = []
        for number, fit in enumerate(waiting):
            memory.begin()
            before = memory.held()
            full = bool(self._running) and before + taken.get(fit.built_like, 0) > limit
            if any(self._peers.agree([int(full)])):
                put_off = list(waiting[number:])
                break
            with fit.guard():
                fit.build()
            self._agree([fit])
            step = fit.done
            if fit.training:
                if step not in batches:
                    batches[step] = self._read(step, waiting[number:])
                self._step(fit, batches[step])
                self._agree([fit])
            full = bool(self._running) and (fit.exhausted or memory.peak() > limit)
            if any(self._peers.agree([int(full)])):
                fit.put_off()
                put_off = list(waiting[number:])
                break
            taken[fit.built_like] = memory.peak() - before
            self._running.append(fit)
            stepped.setdefault(step, []).append(fit)
        for step, group in stepped.items():
            self._settle(group, step)
        self._progress()
        return put_off

    def run(self, checkpoint_seconds: float) -> None:
        """Step until all are over."""
        saved = time.monotonic()
        while self._running:
            step = min(fit.done for fit in self._running)
            ready = [fit for fit in self._running if fit.done == step]
            batch = self._read(step, ready)
            for fit in ready:
                self._step(fit, batch)
            self._settle(ready, step)
            if self._peers.first and time.monotonic() - saved >= checkpoint_seconds:
                for fit in self._running:
                    fit.save()
                saved = time.monotonic()
            self._progress()

    def _read(self, step: int, fits: Sequence[Fit]) -> _Batch:
        label_sets = _asked(fits)
        budgets = sorted({fit.budget for fit in fits if fit.budget})
        told = [fit for fit in fits if fit.needs.labelled]
        return _Batch(
            self._feed.shared(step, label_sets) if label_sets else None,
            {
                budget: self._feed.labelled(step, budget, _asked(fit for fit in told if fit.budget == budget))
                for budget in budgets
            },
            {name: self._feed.source(step, name) for name in sorted({fit.source for fit in fits if fit.source})},
        )

    def _step(self, fit: Fit, batch: _Batch) -> None:
        with fit.guard():
            fit.step(
                batch.shared if fit.labels else None,
                batch.labelled[fit.budget] if fit.budget else None,
                batch.sources[fit.source] if fit.source else None,
            )

    def _settle(self, fits: Sequence[Fit], step: int) -> None:
        """After a step: the end of an epoch, and of those that have no step to take."""
        epoch_ends = (step + 1) % self._feed.rows.steps_per_epoch == 0
        self._end_epoch([fit for fit in fits if fit.failure is None and fit.done > step and (epoch_ends or fit.ended)])
        self._agree(fits)
        for fit in [fit for fit in fits if not fit.training]:
            self._running.remove(fit)
            self._over(fit)
            fit.unload()

    def _agree(self, fits: Sequence[Fit]) -> None:
        """A student that failed on one rank has failed on all."""
        for fit, failed in zip(fits, self._peers.agree([int(fit.failure is not None) for fit in fits]), strict=True):
            if failed and fit.failure is None:
                with fit.guard():
                    raise PeerFailed("it failed on another worker of its group")

    def _end_epoch(self, fits: Sequence[Fit]) -> None:
        """A line of history for each student, on its own validation rows; these are decoded once per budget."""
        by_budget: dict[str | None, list[Fit]] = {}
        for fit in fits:
            by_budget.setdefault(fit.budget, []).append(fit)
        for budget, group in by_budget.items() if self._peers.first else ():
            logits: dict[int, list[Any]] = {index: [] for index in range(len(group))}
            for inputs in self._feed.validation(budget) if budget else ():
                for index, fit in enumerate(group):
                    with fit.guard():
                        if fit.failure is None:
                            logits[index].append(fit.predict(inputs))
            for index, fit in enumerate(group):
                with fit.guard():
                    if fit.failure is None:
                        epoch = -(-fit.done // self._feed.rows.steps_per_epoch)
                        rows = np.concatenate(logits[index]) if logits[index] else None
                        truth = self._feed.validation_truth(budget) if budget else None
                        fit.end_epoch(epoch, rows, truth)


def _asked(fits: Iterable[Fit]) -> dict[str, frozenset[str]]:
    """The label sets that some students read, and the fields beside them that any of these needs."""
    asked: dict[str, frozenset[str]] = {}
    for fit in fits:
        if fit.labels:
            asked[fit.labels] = asked.get(fit.labels, frozenset()) | fit.needs.fields
    return asked


def _size(held: int) -> str:
    return f"{held / 2**30:.1f} GiB"
