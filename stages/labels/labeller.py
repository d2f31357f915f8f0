"""A teacher at work: one shard from its first sample to its receipt.
 Threads, so that the teacher never waits: two decode batches ahead, one runs the teacher, one encodes what it
said, and the caller's writes the finished unit while the next one runs (two callers keep it busy). One unit
is in memory as stored, two at most. Batches never span shards, so bytes do not depend on who labels what
or in which order.

Shapes: B rows of a batch, C classes.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, Protocol

import numpy as np
import torch

from schemas.errors import DataError, Interrupted, ModelError
from schemas.labels import FEATURES, Receipt, UnitPlan, UnitResult
from stages.labels.alignment import Samples
from stages.labels.builder import How, Said, UnitBuilder, exact_rows
from stages.labels.store import Store
from stages.labels.views import view_inputs
from stages.tasks.base import Packed, Task, rows_of
from stages.training.penultimate import Penultimate

DECODERS = 2
"""Threads that turn packed samples into batches."""
BATCHES_AHEAD = 3
"""Decoded batches that wait for the teacher, per unit."""
BATCHES_BEHIND = 2
"""Outputs that wait to be encoded."""
UNITS_AT_ONCE = 2
"""Units in the hands of one labeller: one at the teacher, one being decoded or written."""


class Shards(Samples, Protocol):
    """The samples, with their inputs."""

    def read(self, shard: int) -> Packed: ...


class Teacher(Protocol):
    """Who says it, as `stages.training.models.LoadedModel` gives it."""

    @property
    def module(self) -> torch.nn.Module: ...
    @property
    def task(self) -> Task: ...
    @property
    def preprocessing(self) -> Any: ...
    def answer(self, batch: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]: ...
    def penultimate(self) -> Penultimate: ...


class Labeller:
    """Owns a teacher and labels units with it; `label` may be called from `UNITS_AT_ONCE` threads."""

    def __init__(
        self,
        store: Store,
        samples: Shards,
        teacher: Teacher,
        how: How,
        device: str = "cpu",
        told: Callable[[int], None] | None = None,
    ) -> None:
        """`told` is called with the rows of each batch that the teacher has done."""
        self._store, self._samples, self._teacher, self._how, self._told = store, samples, teacher, how, told
        self._shards = {shard.name: number for number, shard in enumerate(samples.shards)}
        self._device = torch.device(device)
        wants_features = any(field.name == FEATURES for field in how.schema.fields)
        self._penultimate = teacher.penultimate() if wants_features else None
        teacher.module.to(self._device).eval()
        self._decoders = ThreadPoolExecutor(DECODERS, "decode")
        self._inference = ThreadPoolExecutor(1, "infer")
        self._encoder = ThreadPoolExecutor(1, "encode")
        self._closed = threading.Event()

    def close(self) -> None:
        """Stop within a batch; units in work are left without a receipt."""
        self._closed.set()
        for pool in (self._inference, self._encoder, self._decoders):
            pool.shutdown(wait=False, cancel_futures=True)

    def label(self, unit: UnitPlan) -> UnitResult:
        """Label one shard and commit it, or adopt what another writer committed.

        Raises ModelError for an output that is not finite or has another shape, DataError if the shard is not
        the planned one, StoreError if a logit does not fit the encoding.
        """
        begun = time.monotonic()
        receipt = self._store.receipt(unit.key)
        made = receipt is None
        if receipt is None:
            mine = self._make(unit)
            receipt = self._store.commit_unit(mine)
            made = receipt.attempt == mine.attempt
        return UnitResult(key=unit.key, made=made, rows=receipt.rows, seconds=time.monotonic() - begun)

    def outputs(self, threshold: int) -> np.ndarray:
        """What the teacher says about the samples of all shards whose hash lies below a threshold: logits (N, C).

        Nothing is stored. Raises ModelError for an output that is not finite.
        """
        found = [np.empty((0, len(self._how.schema.classes)), np.float32)]
        for number in range(len(self._samples.shards)):
            rows = np.flatnonzero(exact_rows(np.ascontiguousarray(self._samples.content_ids(number)), threshold))
            packed = self._samples.read(number)
            for start in range(0, len(rows), self._how.batch_size):
                chosen = rows[start : start + self._how.batch_size]
                batch = self._teacher.task.batch(rows_of(packed, chosen), self._teacher.preprocessing)
                found.append(self._forward(batch).logits.reshape(-1, len(self._how.schema.classes)))
        logits_NC = np.concatenate(found)
        if not np.isfinite(logits_NC).all():
            raise ModelError("the teacher gives outputs that are not finite: check it, or label with float32 precision")
        return logits_NC

    def _make(self, unit: UnitPlan) -> Receipt:
        number = self._shards.get(unit.shard)
        if number is None or self._samples.shards[number].digest != unit.shard_digest:
            raise DataError(f"the samples have no shard '{unit.shard}' with digest {unit.shard_digest}: plan again")
        packed = self._samples.read(number)
        sample_ids = [str(item) for item in self._samples.sample_ids(number)]
        content_ids = np.ascontiguousarray(self._samples.content_ids(number))
        builder = UnitBuilder(self._how, unit, sample_ids, content_ids)

        def decode(rows: slice) -> torch.Tensor:
            some, ids = rows_of(packed, rows), content_ids[rows]
            view_B = np.full(len(ids), unit.view)
            return view_inputs(self._teacher.task, some, ids, view_B, self._how.views, self._teacher.preprocessing)

        batches = _Ahead(self._decoders, decode, builder.batches())
        self._inference.submit(self._infer, batches, builder).result()
        return builder.write(self._store)

    def _infer(self, batches: _Ahead, builder: UnitBuilder) -> None:
        """All batches of a unit through the teacher, in the one inference thread."""
        behind: deque[Future[None]] = deque()
        for rows, batch in batches:
            if self._closed.is_set():
                raise Interrupted("labelling was stopped")
            behind.append(self._encoder.submit(builder.add, rows, self._forward(batch)))
            if len(behind) > BATCHES_BEHIND:
                behind.popleft().result()
            if self._told is not None:
                self._told(rows.stop - rows.start)
        for encoded in behind:
            encoded.result()

    def _forward(self, batch: torch.Tensor) -> Said:
        """What the teacher says about a batch, in float32."""
        bfloat16, task = self._how.precision == "bfloat16", self._teacher.task
        items_B: torch.Tensor | None = None
        with torch.inference_mode(), torch.autocast(self._device.type, torch.bfloat16, enabled=bfloat16):
            batch = batch.to(self._device, non_blocking=True)
            beside: dict[str, torch.Tensor] = {}
            if task.forces:
                own_BT = task.own(self._teacher.module, batch)
                batch, beside = task.forced(batch, own_BT), task.recorded(own_BT)
                items_B = task.items(batch)
            logits_NC, unmapped_N = self._teacher.answer(batch)
            if self._penultimate is not None:
                beside[FEATURES] = self._penultimate.take().float()
        shape = self._how.schema.shape
        return Said(
            logits_NC.float().reshape(-1, *shape.grid, logits_NC.shape[-1]).cpu().numpy(),
            items=None if items_B is None else items_B.cpu().numpy(),
            unmapped=unmapped_N.float().cpu().numpy(),
            extras={name: values.cpu().numpy() for name, values in beside.items()},
        )


class _Ahead:
    """Batches in order, decoded ahead from the moment that this is made."""

    def __init__(self, pool: ThreadPoolExecutor, decode: Callable[[slice], torch.Tensor], batches: list[slice]) -> None:
        self._pool, self._decode, self._todo = pool, decode, deque(batches)
        self._waiting: deque[tuple[slice, Future[torch.Tensor]]] = deque()
        self._fill()

    def _fill(self) -> None:
        while self._todo and len(self._waiting) < BATCHES_AHEAD:
            rows = self._todo.popleft()
            self._waiting.append((rows, self._pool.submit(self._decode, rows)))

    def __iter__(self) -> Iterator[tuple[slice, torch.Tensor]]:
        while self._waiting:
            rows, batch = self._waiting.popleft()
            decoded = batch.result()
            self._fill()
            yield rows, decoded
