"""The learning rate against torch's schedulers, and by hand where torch has no such schedule."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.optim import lr_scheduler

from schemas.training import Training
from stages.training.schedules import learning_rate, total_steps

Schedulers = Callable[[torch.optim.Optimizer], lr_scheduler.LRScheduler]
SCHEDULES: list[Any] = [
    "constant",
    "cosine",
    "one-cycle",
    {"name": "inverse-time", "decay": 0.5},
    {"name": "step", "epochs": 2, "factor": 0.3},
]


def training(schedule: Any, **more: Any) -> Training:
    return Training.model_validate({"schedule": schedule, **more})


def of_torch(peak: float, make: Schedulers, count: int) -> list[float]:
    """The rates that a scheduler of torch's gives, one after another."""
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=peak)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the scheduler steps without the optimiser
        scheduler = make(optimizer)
        rates = [optimizer.param_groups[0]["lr"]]
        for _ in range(count - 1):
            scheduler.step()
            rates.append(optimizer.param_groups[0]["lr"])
    return rates


@pytest.mark.parametrize(("steps", "warmup"), [(100, 0.2), (37, 0.3), (500, 0.1)])
def test_one_cycle_is_that_of_torch(steps: int, warmup: float) -> None:
    wanted = of_torch(0.3, lambda o: lr_scheduler.OneCycleLR(o, 0.3, total_steps=steps, pct_start=warmup), steps)
    asked = training("one-cycle", learning_rate=0.3, warmup=warmup)
    assert [learning_rate(asked, step, steps, 7) for step in range(steps)] == pytest.approx(wanted, rel=1e-9)


def test_cosine_is_that_of_torch() -> None:
    wanted = of_torch(0.3, lambda o: lr_scheduler.CosineAnnealingLR(o, 40), 40)
    asked = training("cosine", learning_rate=0.3, warmup=0.0)
    assert [learning_rate(asked, step, 40, 7) for step in range(40)] == pytest.approx(wanted, rel=1e-9)


def test_step_and_inverse_time_are_those_of_torch_epoch_by_epoch() -> None:
    """Within an epoch of 3 steps the rate stands still."""
    makers: list[tuple[Any, Schedulers]] = [
        ({"name": "step", "epochs": 4, "factor": 0.3}, lambda o: lr_scheduler.StepLR(o, 4, 0.3)),
        (
            {"name": "inverse-time", "decay": 0.7},
            lambda o: lr_scheduler.LambdaLR(o, lambda e: 1 / (1 + 0.7 * e)),
        ),
    ]
    for schedule, make in makers:
        wanted = [rate for rate in of_torch(0.2, make, 10) for _ in range(3)]
        asked = training(schedule, learning_rate=0.2)
        assert [learning_rate(asked, step, 30, 3) for step in range(30)] == pytest.approx(wanted, rel=1e-9)


def test_warm_up_is_that_of_torch() -> None:
    """Linear from the first step on, as LinearLR from 1 / 8 over 7 steps."""
    wanted = of_torch(0.2, lambda o: lr_scheduler.LinearLR(o, 1 / 8, total_iters=7), 40)
    asked = training("constant", learning_rate=0.2, warmup=0.2)
    assert [learning_rate(asked, step, 40, 3) for step in range(40)] == pytest.approx(wanted, rel=1e-9)


def test_cosine_with_warm_up_by_hand() -> None:
    asked = training("cosine", learning_rate=1.0)
    found = [learning_rate(asked, step, 10, 10) for step in range(10)]
    assert found[:3] == pytest.approx([0.5, 1.0, 1.0])
    assert found[6] == pytest.approx(0.5)
    assert found[9] == pytest.approx((1 + math.cos(math.pi * 7 / 8)) / 2)


def test_a_rate_that_falls_while_it_warms_up_by_hand() -> None:
    """Epochs of 2 steps, warm-up over 5: the lower of the two."""
    asked = training({"name": "inverse-time", "decay": 1.0}, learning_rate=1.0, warmup=0.5)
    found = [learning_rate(asked, step, 10, 2) for step in range(6)]
    assert found == pytest.approx([1 / 5, 2 / 5, 1 / 2, 1 / 2, 1 / 3, 1 / 3])


@pytest.mark.parametrize(("schedule", "first"), [("constant", 1.0), ("cosine", 0.05), ("one-cycle", 0.04)])
def test_warm_up_is_left_out_only_where_it_shapes_nothing(schedule: str, first: float) -> None:
    assert learning_rate(training(schedule, learning_rate=1.0), 0, 100, 10) == pytest.approx(first)


@given(
    st.sampled_from(SCHEDULES),
    st.floats(0, 1) | st.none(),
    st.integers(1, 300).flatmap(lambda steps: st.tuples(st.integers(0, steps - 1), st.just(steps))),
    st.integers(1, 50),
)
def test_a_rate_is_never_above_the_peak_nor_below_zero(
    schedule: Any, warmup: float | None, at: tuple[int, int], steps_per_epoch: int
) -> None:
    asked = training(schedule, learning_rate=0.5, warmup=warmup)
    assert 0 <= learning_rate(asked, *at, steps_per_epoch) <= 0.5


def test_steps() -> None:
    assert total_steps(Training(steps=7), 1000) == 7
    assert total_steps(Training(epochs=3, batch_size=64), 65) == 6
    assert total_steps(Training(batch_size=64), 1) == 10
