"""The comparison: distilled against the best baseline, paired over seeds and test rows.

Percentile bootstrap (Efron & Tibshirani 1993): each draw takes seeds and test rows with replacement, the same ones
for both arms, and averages the difference of the metric. Costs draws x seeds x rows, in bounded memory; the same
numbers on every machine.

Shapes: D draws, S paired seeds, B test rows, C classes, W draws of one chunk.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from schemas.evaluation import ArmQuality, Comparison, Interval
from schemas.spec import Evaluation
from stages.tasks.base import Task
from stages.truth import Truth

CHUNK_BYTES = 32 * 2**20
"""Bytes of the row weights of one chunk; the task's scoring takes a small multiple of it."""
ROWS_SEED, SEEDS_SEED = 1, 2
"""Keys of the two streams of random numbers, so that rows and seeds are drawn apart."""

LogitsOf = Callable[[str, int], NDArray[Any]]
"""(arm, seed) to the logits (B, C) of the test rows."""


def best_baseline(
    arms: Sequence[ArmQuality], baselines: Sequence[str], metric: str, less_is_better: bool
) -> ArmQuality | None:
    """The baseline that is best in the mean of its final quality, so that the choice works against us."""
    able = [arm for arm in arms if arm.arm in baselines and metric in arm.mean]
    sign = -1 if less_is_better else 1
    return max(able, key=lambda arm: sign * arm.mean[metric], default=None)


def compare(
    task: Task,
    metric: str,
    distilled: ArmQuality,
    baseline: ArmQuality,
    logits_of: LogitsOf,
    truth: Truth,
    settings: Evaluation,
) -> Comparison | None:
    """Distilled minus baseline over the seeds that both have; None if they share none.

    Holds the logits of one pair of models at a time.
    """
    ours, theirs = _by_seed(distilled, metric), _by_seed(baseline, metric)
    seeds = sorted(ours.keys() & theirs.keys())
    if not seeds:
        return None
    differences = np.array([ours[seed] - theirs[seed] for seed in seeds])
    better = -differences if metric in task.errors else differences
    pairs = ((logits_of("distilled", seed), logits_of(str(baseline.arm), seed)) for seed in seeds)
    drawn = np.stack([draw_differences(task, metric, *pair, truth, settings.bootstrap) for pair in pairs])
    low, high = percentile_interval(drawn, settings.confidence)
    return Comparison.model_validate(
        {
            "metric": metric,
            "baseline": baseline.arm,
            "difference": Interval(value=float(differences.mean()), low=low, high=high),
            "confidence": settings.confidence,
            "seeds": len(seeds),
            "seeds_better": int((better > 0).sum()),
            "seeds_worse": int((better < 0).sum()),
        }
    )


def draw_differences(
    task: Task, metric: str, ours: NDArray[Any], theirs: NDArray[Any], truth: Truth, draws: int
) -> NDArray[np.float64]:
    """The difference of one pair of models under each draw of the test rows: (D,).

    The draws are the same for every pair, which is what pairs the seeds over samples.
    """
    parts = []
    for weights in row_weights(len(truth), draws):
        both = [task.score_rows(logits, truth, metric, weights) for logits in (ours, theirs)]
        parts.append(both[0].astype(np.float64) - both[1])
    return np.concatenate(parts)


def row_weights(rows: int, draws: int, chunk_bytes: int = CHUNK_BYTES) -> Iterator[NDArray[np.int64]]:
    """How often each row is drawn, (W, B) at a time; the same whatever the size of a chunk."""
    rng = np.random.Generator(np.random.PCG64(ROWS_SEED))
    chunk = max(1, chunk_bytes // (8 * rows))
    for start in range(0, draws, chunk):
        size = min(chunk, draws - start)
        drawn = rng.integers(0, rows, (size, rows)) + np.arange(size)[:, None] * rows
        yield np.bincount(drawn.ravel(), minlength=size * rows).reshape(size, rows)


def percentile_interval(drawn: NDArray[np.float64], confidence: float) -> tuple[float, float]:
    """Interval of the mean over seeds from the differences (S, D) by seed and draw of rows.

    Each draw also takes S seeds with replacement; with one seed only rows are drawn.
    """
    seeds, draws = drawn.shape
    rng = np.random.Generator(np.random.PCG64(SEEDS_SEED))
    chosen = rng.integers(0, seeds, (seeds, draws))
    means = np.take_along_axis(drawn, chosen, axis=0).mean(axis=0)
    tail = (1 - confidence) / 2
    low, high = np.quantile(means, [tail, 1 - tail])
    return float(low), float(high)


def _by_seed(arm: ArmQuality, metric: str) -> dict[int, float]:
    return {item.seed: item.final[metric] for item in arm.seeds if metric in item.final}
