"""Small honest fakes: a task that scores by counting, and models that say what they are told."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import numpy as np
import torch

from schemas.base import Contract, Part
from stages.tasks.base import Sample, Task


class Nothing(Contract):
    """No settings."""


class CountingTask(Task):
    """Rows are vectors; metrics are written out as loops over rows, so that they can be followed by eye."""

    Config = Prepare = Preprocessing = Augmentation = Nothing
    roles = ("vector",)
    metrics: ClassVar[tuple[str, ...]] = ("accuracy", "macro_recall", "nll")
    errors: ClassVar[frozenset[str]] = frozenset({"nll"})
    unbounded: ClassVar[frozenset[str]] = frozenset({"nll"})
    models = ("linear",)

    def score(self, logits: np.ndarray, truth: np.ndarray, metrics: Sequence[str]) -> dict[str, float]:
        ones = np.ones((1, len(truth)), np.int64)
        return {name: float(self.score_rows(logits, truth, name, ones)[0]) for name in metrics}

    def score_rows(self, logits: np.ndarray, truth: np.ndarray, metric: str, weights: np.ndarray) -> np.ndarray:
        shifted = logits.astype(np.float64) - logits.max(axis=1, keepdims=True)
        surprise = np.log(np.exp(shifted).sum(axis=1)) - shifted[np.arange(len(truth)), truth]
        right = logits.argmax(axis=1) == truth
        if metric == "accuracy":
            return np.asarray((weights * right).sum(axis=1) / weights.sum(axis=1))
        if metric == "nll":
            return np.asarray((weights * surprise).sum(axis=1) / weights.sum(axis=1))
        recalls = []
        for row in weights:
            seen = [k for k in range(logits.shape[1]) if row[truth == k].sum()]
            recalls.append(np.mean([(row * right)[truth == k].sum() / row[truth == k].sum() for k in seen]))
        return np.array(recalls)

    def batch(self, packed: Mapping[str, Any], preprocessing: Any) -> torch.Tensor:
        return torch.from_numpy(np.array(packed["vector"], np.float32))

    def build(self, model: Part, outputs: int, preprocessing: Any) -> torch.nn.Module:
        return torch.nn.Linear(4, outputs)

    def pack(self, row: Mapping[str, Any], prepare: Any) -> Sample:
        raise NotImplementedError

    def pack_truth(self, value: Any, classes: Sequence[str]) -> int:
        return list(classes).index(value)

    def class_name(self, value: Any) -> str:
        return str(value)

    def augmented(self, packed: Mapping[str, Any], preprocessing: Any, augmentation: Any, draws: Any) -> torch.Tensor:
        return self.batch(packed, preprocessing)

    def fake_batch(self, rows: int, preprocessing: Any) -> torch.Tensor:
        return torch.zeros(rows, 4)


def task() -> CountingTask:
    """The fake, ready."""
    return CountingTask(Nothing())


def logits_that_are_right(truth: np.ndarray, share: float, seed: int, classes: int = 3) -> np.ndarray:
    """Logits (B, C) whose largest is the truth on about `share` of the rows."""
    rng = np.random.default_rng(seed)
    logits = rng.normal(size=(len(truth), classes)).astype(np.float32)
    right = rng.random(len(truth)) < share
    logits[np.flatnonzero(right), truth[right]] += 10
    return logits
