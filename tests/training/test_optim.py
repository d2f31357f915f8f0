"""The learning rate against torch's schedulers and by hand; the optimisers as they were asked."""

from __future__ import annotations

import math
import warnings

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from schemas.spec import Training
from stages.training.optim import clip, learning_rate, make_optimizer, set_learning_rate, total_steps


@pytest.mark.parametrize(("steps", "warmup"), [(100, 0.2), (37, 0.3), (500, 0.1)])
def test_one_cycle_is_that_of_torch(steps: int, warmup: float) -> None:
    training = Training(learning_rate=0.3, schedule="one-cycle", warmup=warmup)
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=0.3)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the scheduler steps without the optimiser
        scheduler = torch.optim.lr_scheduler.OneCycleLR(optimizer, 0.3, total_steps=steps, pct_start=warmup)
        for step in range(steps):
            assert learning_rate(training, step, steps) == pytest.approx(optimizer.param_groups[0]["lr"], rel=1e-9)
            if step < steps - 1:
                scheduler.step()


def test_cosine_by_hand() -> None:
    training = Training(learning_rate=1.0, schedule="cosine", warmup=0.2)
    found = [learning_rate(training, step, 10) for step in range(10)]
    assert found[:3] == pytest.approx([0.5, 1.0, 1.0])
    assert found[6] == pytest.approx(0.5)
    assert found[9] == pytest.approx((1 + math.cos(math.pi * 7 / 8)) / 2)


@given(
    st.sampled_from(["constant", "cosine", "one-cycle"]),
    st.floats(0, 1),
    st.integers(1, 300).flatmap(lambda steps: st.tuples(st.integers(0, steps - 1), st.just(steps))),
)
def test_a_rate_is_never_above_the_peak_nor_below_zero(schedule: str, warmup: float, at: tuple[int, int]) -> None:
    training = Training.model_validate({"learning_rate": 0.5, "schedule": schedule, "warmup": warmup})
    assert 0 <= learning_rate(training, *at) <= 0.5


@pytest.mark.parametrize("name", ["adamw", "adam", "sgd"])
def test_optimisers_go_downhill_at_the_rate_that_is_set(name: str) -> None:
    weight = torch.nn.Linear(1, 1, bias=False)
    before = float(weight.weight.detach())
    optimizer = make_optimizer(Training.model_validate({"optimizer": name, "weight_decay": 0.0}), weight)
    set_learning_rate(optimizer, 0.25)
    weight.weight.grad = torch.ones(1, 1)
    optimizer.step()
    # Adam's first step is the rate whatever the gradient; so is that of Nesterov's (1 + momentum) for a gradient of 1.
    wanted = 0.25 * (1.9 if name == "sgd" else 1.0)
    assert before - float(weight.weight.detach()) == pytest.approx(wanted, rel=1e-5)


def test_frozen_weights_are_left_alone() -> None:
    network = torch.nn.Linear(2, 2)
    network.bias.requires_grad = False
    groups = make_optimizer(Training(), network).param_groups
    assert [len(group["params"]) for group in groups] == [1]


def test_clip_scales_all_gradients_together() -> None:
    network = torch.nn.Linear(2, 1)
    for weight in network.parameters():
        weight.grad = torch.full_like(weight, 3.0)
    clip(Training(), network)
    assert float(network.bias.grad) == 3.0  # type: ignore[arg-type]
    clip(Training(gradient_clip=1.0), network)
    assert float(network.bias.grad) == pytest.approx(1 / math.sqrt(3), rel=1e-4)  # type: ignore[arg-type]


def test_steps() -> None:
    assert total_steps(Training(steps=7), 1000) == 7
    assert total_steps(Training(epochs=3, batch_size=64), 65) == 6
    assert total_steps(Training(batch_size=64), 1) == 10
