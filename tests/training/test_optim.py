"""The optimisers as they were asked for: of torch and of timm, refused by name before any work."""

from __future__ import annotations

import math
from typing import Any

import pytest
import timm.optim
import torch

from schemas.errors import ModelError
from schemas.training import Training
from stages.training.optim import (
    NAMES,
    WITH_BETAS,
    WITHOUT_BETAS,
    clip,
    make_optimizer,
    optimizer_faults,
    set_learning_rate,
)


def asked(optimizer: str, **more: Any) -> Training:
    return Training.model_validate({"optimizer": optimizer, "weight_decay": 0.0, **more})


@pytest.mark.parametrize("name", ["adamw", "adam", "sgd", "timm/lion", "timm/momentum"])
def test_optimisers_go_downhill_at_the_rate_that_is_set(name: str) -> None:
    weight = torch.nn.Linear(1, 1, bias=False)
    before = float(weight.weight.detach())
    optimizer = make_optimizer(asked(name), weight)
    set_learning_rate(optimizer, 0.25)
    weight.weight.grad = torch.ones(1, 1)
    optimizer.step()
    # Adam's first step is the rate whatever the gradient; so is that of Nesterov's (1 + momentum) for a gradient of 1.
    wanted = 0.25 * (1.9 if name == "sgd" else 1.0)
    assert before - float(weight.weight.detach()) == pytest.approx(wanted, rel=1e-5)


def test_momentum_with_and_without_looking_ahead_by_hand() -> None:
    """Two steps of rate 1 with gradients of 1: momentum m moves 1 + (1 + m); looking ahead 1 + m + (1 + m + m^2)."""
    for nesterov, wanted in ((False, 1 + 1.5), (True, 1.5 + 1.75)):
        weight = torch.nn.Linear(1, 1, bias=False)
        before = float(weight.weight.detach())
        optimizer = make_optimizer(asked("sgd", learning_rate=1.0, momentum=0.5, nesterov=nesterov), weight)
        for _ in range(2):
            weight.weight.grad = torch.ones(1, 1)
            optimizer.step()
        assert before - float(weight.weight.detach()) == pytest.approx(wanted, rel=1e-5)


def test_settings_reach_the_optimiser() -> None:
    network = torch.nn.Linear(2, 2)
    for name in ("adam", "adamw", "timm/lamb", "timm/lion"):
        defaults = make_optimizer(asked(name, betas=(0.5, 0.75), weight_decay=0.125), network).defaults
        assert (tuple(defaults["betas"]), defaults["weight_decay"]) == ((0.5, 0.75), 0.125)
    assert make_optimizer(asked("timm/rmsprop", momentum=0.25), network).defaults["momentum"] == 0.25


def test_the_names_are_those_of_timm() -> None:
    for names, betas in ((WITH_BETAS, True), (WITHOUT_BETAS, False)):
        for name in names:
            info = timm.optim.get_optimizer_info(name)  # type: ignore[attr-defined]
            assert (info.has_betas and info.num_betas == 2) == betas, name
            make_optimizer(asked(f"timm/{name}"), torch.nn.Linear(2, 2))


@pytest.mark.parametrize(
    ("training", "words"),
    [
        (asked("timm/lamp"), "did you mean 'timm/lamb'"),
        (asked("lion"), "did you mean 'timm/lion'"),
        (asked("sgd", betas=(0.9, 0.99)), "'sgd' takes no pair of `betas`"),
        (asked("timm/adan", betas=(0.9, 0.99)), "'timm/adan' takes no pair of `betas`"),
    ],
)
def test_what_does_not_exist_is_refused_with_the_probable_one(training: Training, words: str) -> None:
    assert words in next(optimizer_faults(training))
    if training.optimizer not in NAMES:
        with pytest.raises(ModelError, match=words):
            make_optimizer(training, torch.nn.Linear(2, 2))


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
