"""The comparison against loops written out by hand, and what must hold of any interval."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from schemas.base import Part
from schemas.evaluation import ArmQuality, Comparison, SeedQuality
from schemas.spec import Evaluation
from stages.evaluation.compare import (
    ROWS_SEED,
    SEEDS_SEED,
    best_baseline,
    compare,
    draw_differences,
    percentile_interval,
    row_weights,
)
from stages.tasks import get_task
from tests.evaluation.fakes import logits_that_are_right, task

RNG = np.random.default_rng(7)
TRUTH = RNG.integers(0, 3, 40).astype(np.int32)


def arm(name: str, finals: dict[int, float], metric: str = "accuracy") -> ArmQuality:
    seeds = tuple(SeedQuality(seed=seed, final={metric: value}) for seed, value in finals.items())
    return ArmQuality.model_validate(
        {"arm": name, "seeds": seeds, "mean": {metric: float(np.mean(list(finals.values())))}}
    )


def compared(models: dict[tuple[str, int], np.ndarray], metric: str = "accuracy", draws: int = 200) -> Comparison:
    """`compare` of the models' own figures, distilled against no-teacher."""
    arms = {
        name: arm(
            name,
            {s: task().score(logits, TRUTH, [metric])[metric] for (a, s), logits in models.items() if a == name},
            metric,
        )
        for name in ("distilled", "no-teacher")
    }
    found = compare(
        task(),
        metric,
        arms["distilled"],
        arms["no-teacher"],
        lambda name, seed: models[name, seed],
        TRUTH,
        Evaluation(bootstrap=draws),
    )
    assert found is not None
    return found


def slow_interval(pairs: list[tuple[np.ndarray, np.ndarray]], draws: int, confidence: float) -> tuple[float, float]:
    """The bootstrap with nothing vectorised: draw rows, draw seeds, count right answers, sort, interpolate."""
    rows_rng = np.random.Generator(np.random.PCG64(ROWS_SEED))
    chosen = np.random.Generator(np.random.PCG64(SEEDS_SEED)).integers(0, len(pairs), (len(pairs), draws))
    means = []
    for draw in range(draws):
        rows = [int(rows_rng.integers(0, len(TRUTH))) for _ in TRUTH]
        total = 0.0
        for seed in chosen[:, draw]:
            ours, theirs = pairs[seed]
            right = sum(int(ours[row].argmax() == TRUTH[row]) - int(theirs[row].argmax() == TRUTH[row]) for row in rows)
            total += right / len(rows)
        means.append(total / len(pairs))
    means.sort()
    ends = []
    for share in ((1 - confidence) / 2, (1 + confidence) / 2):
        place = share * (draws - 1)
        below = int(place)
        above = min(below + 1, draws - 1)
        ends.append(means[below] + (place - below) * (means[above] - means[below]))
    return ends[0], ends[1]


def test_interval_equals_the_slow_way() -> None:
    models = {
        (name, seed): logits_that_are_right(TRUTH, share, seed + 10 * (name == "distilled"))
        for name, share in (("distilled", 0.8), ("no-teacher", 0.5))
        for seed in range(3)
    }
    found = compared(models)
    pairs = [(models["distilled", seed], models["no-teacher", seed]) for seed in range(3)]
    low, high = slow_interval(pairs, 200, 0.95)
    assert (found.difference.low, found.difference.high) == pytest.approx((low, high), abs=1e-12)
    expected = np.mean([(o.argmax(1) == TRUTH).mean() - (t.argmax(1) == TRUTH).mean() for o, t in pairs])
    assert found.difference.value == pytest.approx(expected)


@pytest.mark.parametrize("metric", ["accuracy", "macro_f1", "balanced_accuracy", "calibration_error", "nll"])
def test_drawn_rows_score_as_rows_that_stand_there_so_often(metric: str) -> None:
    image = get_task(Part.model_validate({"name": "image-classification", "image_size": 8}))
    ours, theirs = logits_that_are_right(TRUTH, 0.8, 1), logits_that_are_right(TRUTH, 0.5, 2)
    drawn = draw_differences(image, metric, ours, theirs, TRUTH, 20)
    for weights, difference in zip(np.concatenate(list(row_weights(len(TRUTH), 20))), drawn, strict=True):
        rows = np.repeat(np.arange(len(TRUTH)), weights)
        one, other = (image.score(logits[rows], TRUTH[rows], [metric])[metric] for logits in (ours, theirs))
        assert difference == pytest.approx(one - other, abs=1e-6)


def test_identical_arms_show_no_difference_at_all() -> None:
    one = logits_that_are_right(TRUTH, 0.7, 0)
    found = compared({(name, seed): one for name in ("distilled", "no-teacher") for seed in range(3)})
    assert (found.difference.low, found.difference.value, found.difference.high) == (0.0, 0.0, 0.0)
    assert (found.seeds_better, found.seeds_worse) == (0, 0)


def test_equally_good_arms_have_an_interval_over_zero() -> None:
    models = {
        (name, seed): logits_that_are_right(TRUTH, 0.7, 100 * index + seed)
        for index, name in enumerate(("distilled", "no-teacher"))
        for seed in range(5)
    }
    found = compared(models)
    assert found.difference.low < 0 < found.difference.high


@pytest.mark.parametrize(("metric", "better"), [("accuracy", 2), ("nll", 2)])
def test_signs_are_counted_in_the_direction_of_the_metric(metric: str, better: int) -> None:
    good, bad = logits_that_are_right(TRUTH, 0.95, 1), logits_that_are_right(TRUTH, 0.2, 2)
    models = {("distilled", seed): good for seed in range(2)} | {("distilled", 2): bad}
    models |= {("no-teacher", seed): bad for seed in range(2)} | {("no-teacher", 2): good}
    found = compared(models, metric)
    assert (found.seeds, found.seeds_better, found.seeds_worse) == (3, better, 1)


def test_one_seed_draws_test_rows_only() -> None:
    models = {
        ("distilled", 4): logits_that_are_right(TRUTH, 0.9, 1),
        ("no-teacher", 4): logits_that_are_right(TRUTH, 0.4, 2),
    }
    found = compared(models)
    drawn = draw_differences(task(), "accuracy", models["distilled", 4], models["no-teacher", 4], TRUTH, 200)
    assert (found.difference.low, found.difference.high) == pytest.approx(tuple(np.quantile(drawn, [0.025, 0.975])))
    assert found.seeds == 1
    assert found.difference.low < found.difference.high


def test_only_seeds_of_both_arms_are_paired() -> None:
    one = logits_that_are_right(TRUTH, 0.9, 1)
    models = {("distilled", seed): one for seed in (0, 1, 2)} | {("no-teacher", seed): one for seed in (1, 2, 3)}
    assert compared(models).seeds == 2
    apart = compare(
        task(), "accuracy", arm("distilled", {0: 0.5}), arm("no-teacher", {1: 0.5}), lambda *_: one, TRUTH, Evaluation()
    )
    assert apart is None


def test_the_best_baseline_is_chosen_against_us() -> None:
    arms = [
        arm("teacher", {0: 0.99}),
        arm("distilled", {0: 0.9}),
        arm("no-teacher", {0: 0.7, 1: 0.7}),
        arm("source-only", {0: 0.6, 1: 0.9}),
        ArmQuality(arm="source-finetuned", seeds=(), note="not possible"),
    ]
    baselines = Evaluation().baselines
    best = best_baseline(arms, baselines, "accuracy", less_is_better=False)
    lowest = best_baseline(arms, baselines, "accuracy", less_is_better=True)
    assert best is not None
    assert lowest is not None
    assert (best.arm, lowest.arm) == ("source-only", "no-teacher")
    assert best_baseline(arms[:2], baselines, "accuracy", less_is_better=False) is None
    assert best_baseline(arms, ("source-finetuned",), "accuracy", less_is_better=False) is None


@given(rows=st.integers(1, 30), draws=st.integers(1, 30), chunk=st.integers(1, 3000))
@settings(deadline=None)
def test_row_weights_do_not_depend_on_the_chunk(rows: int, draws: int, chunk: int) -> None:
    whole = np.concatenate(list(row_weights(rows, draws)))
    parts = list(row_weights(rows, draws, chunk))
    assert np.array_equal(np.concatenate(parts), whole)
    assert whole.shape == (draws, rows)
    assert (whole.sum(axis=1) == rows).all()
    assert max(part.nbytes for part in parts) <= max(chunk, 8 * rows)


@given(st.integers(1, 6), st.integers(1, 50), st.sampled_from([0.5, 0.9, 0.95]))
@settings(deadline=None)
def test_an_interval_lies_within_what_was_drawn(seeds: int, draws: int, confidence: float) -> None:
    drawn = np.random.default_rng(seeds * 100 + draws).normal(size=(seeds, draws))
    low, high = percentile_interval(drawn, confidence)
    assert drawn.min() <= low <= high <= drawn.max()


def test_the_interval_covers_the_truth_as_often_as_it_says() -> None:
    """Seeds and samples both vary: over 200 repeated experiments the 90% interval holds the true gain of 0.2."""
    rng, held = np.random.default_rng(5), 0
    for _ in range(200):
        seeds, rows = 8, 60
        shift = rng.normal(0.2, 0.05, (seeds, 1))
        weights = next(row_weights(rows, 300))
        right = rng.normal(shift, 0.5, (seeds, rows))
        low, high = percentile_interval(right @ weights.T / rows, 0.9)
        held += low <= 0.2 <= high
    assert 0.8 <= held / 200 <= 0.97
