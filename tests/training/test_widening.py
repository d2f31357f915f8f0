"""Networks made wider: the same function to rounding, twins that part, and every refusal leaves all as it was."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import pytest
import timm
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from stages.tasks._networks import _mobile, _resnet, with_normalisation
from stages.training.widening import CannotWiden, widen

ROUNDING = 1e-5
"""Largest difference of a logit, relative to the largest: float32 sums in another order."""


def seeded(make: Callable[[], nn.Module], seed: int = 0) -> nn.Module:
    """A network whose batch norms have seen something."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        network = make()
        for part in network.modules():
            if isinstance(part, _BatchNorm):
                for name, value in part.state_dict().items():
                    if value.is_floating_point():
                        value.uniform_(*((-0.5, 0.5) if name in ("running_mean", "bias") else (0.5, 1.5)))
    return network


def pictures(channels: int = 1, size: int = 16) -> Tensor:
    return torch.rand(4, channels, size, size, generator=torch.Generator().manual_seed(1))


def chain(width: int, classes: int = 3) -> nn.Module:
    """Convolution, batch norm, flattening of 3x3 places, two linear layers."""
    return nn.Sequential(
        nn.Conv2d(1, width, 3, 2), nn.BatchNorm2d(width), nn.ReLU(), nn.AdaptiveAvgPool2d(3), nn.Flatten(),
        nn.Linear(9 * width, 2 * width), nn.Tanh(), nn.Dropout(0.1), nn.Linear(2 * width, classes),
    )  # fmt: skip


def alike(narrow: nn.Module, wide: nn.Module, batch: Tensor) -> bool:
    """In evaluation, and in training with the same dropout."""
    answers = []
    for network in (narrow, wide):
        with torch.no_grad(), torch.random.fork_rng():
            torch.manual_seed(0)
            # In training mode first: batch norm then goes by the batch, and remembers it.
            training = None if any(isinstance(part, nn.Dropout) for part in network.modules()) else network(batch)
            answers.append((training, network.eval()(batch)))
    pairs = zip(*answers, strict=True)
    return all(
        one is None or float((one - other).abs().max()) <= ROUNDING * float(one.abs().max()) for one, other in pairs
    )


@pytest.mark.parametrize(
    ("make", "narrow", "wide"),
    [
        (chain, {"width": 4}, {"width": 7}),
        (partial(_mobile, 1, 10, 1.0, strides=(2, 2, 1)), {"widths": (8, 16, 32, 32)}, {"widths": (16, 32, 64, 64)}),
        (partial(_resnet, 1, 10, 1.0, depths=(1, 1, 2)), {"width": 6}, {"width": 8}),
        (lambda width: with_normalisation(chain(width), 1, [0.5], [0.2]), {"width": 2}, {"width": 9}),
    ],
)
def test_the_wide_network_answers_as_the_narrow_one(
    make: Callable[..., nn.Module], narrow: dict[str, Any], wide: dict[str, Any]
) -> None:
    small, large = seeded(lambda: make(**narrow)), seeded(lambda: make(**wide), 1)
    batch = pictures()
    assert not alike(small, large, batch)
    widen(small.train(), large.train(), batch, np.random.default_rng(0))
    assert small.training
    assert large.training
    assert alike(small, large, batch)


def test_networks_of_a_library_are_widened_too() -> None:
    """Gates (squeeze-and-excitation), depthwise convolutions, batch norms with an activation of their own."""
    small, large = (
        seeded(lambda name=name: timm.create_model(name, num_classes=5))  # type: ignore[misc]
        for name in ("mobilenetv3_small_075", "mobilenetv3_small_100")
    )
    widen(small, large, pictures(3, 32), np.random.default_rng(0))
    assert alike(small.eval(), large.eval(), pictures(3, 32))


@settings(max_examples=15)
@given(st.integers(1, 6), st.integers(0, 9), st.integers(0, 2**32))
def test_any_width_from_any_other(width: int, more: int, seed: int) -> None:
    small, large = seeded(lambda: chain(width)), seeded(lambda: chain(width + more), 1)
    widen(small, large, pictures(), np.random.default_rng(seed))
    assert alike(small, large, pictures())
    if not more:
        assert all(torch.equal(value, large.state_dict()[name]) for name, value in small.state_dict().items())


def test_by_hand() -> None:
    """One hidden unit becomes three: each has its weights, and what is read of them adds up."""
    small, large = (nn.Sequential(nn.Linear(2, width), nn.ReLU(), nn.Linear(width, 1)) for width in (1, 3))
    widen(small, large, torch.rand(4, 2), np.random.default_rng(0))
    read, given = small.state_dict()["0.weight"], small.state_dict()["2.weight"]
    wide = large.state_dict()
    assert torch.equal(wide["0.weight"], read.expand(3, 2))
    assert float(wide["2.weight"].sum()) == pytest.approx(float(given), rel=1e-5)
    assert len({round(float(share), 6) for share in wide["2.weight"].ravel()}) == 3


def test_twins_part_with_the_first_step() -> None:
    small, large = seeded(lambda: chain(4)).eval(), seeded(lambda: chain(8), 1).eval()
    widen(small, large, pictures(), np.random.default_rng(0))
    kernels: Any = large[0].weight  # type: ignore[index]
    assert len(torch.unique(kernels.detach().flatten(1), dim=0)) == 4
    large(pictures()).square().sum().backward()
    assert len(torch.unique((kernels - 0.1 * kernels.grad).detach().flatten(1), dim=0)) == 8


def test_what_is_drawn_belongs_to_the_generator() -> None:
    small = seeded(lambda: chain(4))
    states = []
    for seed in (0, 0, 1):
        large = seeded(lambda: chain(8), seed)
        widen(small, large, pictures(), np.random.default_rng(seed))
        states.append(large.state_dict())
    assert all(torch.equal(value, states[1][name]) for name, value in states[0].items())
    assert any(not torch.equal(value, states[2][name]) for name, value in states[0].items())


class Branching(nn.Module):
    """Takes a way that depends on its input."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.layer = nn.Linear(2, width)

    def forward(self, batch: Tensor) -> Tensor:
        return self.layer(batch) if float(batch.sum()) > 0 else -self.layer(batch)  # type: ignore[no-any-return]


class Shuffled(nn.Module):
    """Joins channels side by side, which is not understood."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.one, self.other = nn.Linear(2, width), nn.Linear(2 * width, 3)

    def forward(self, batch: Tensor) -> Tensor:
        half = self.one(batch)
        return self.other(torch.cat([half, half], dim=1))  # type: ignore[no-any-return]


def two(first: nn.Module, *others: nn.Module) -> nn.Module:
    return nn.Sequential(first, *others)


def pair(last: nn.Module) -> nn.Module:
    return two(nn.Flatten(), nn.Linear(256, 2), last)


@pytest.mark.parametrize(
    ("small", "large", "reason"),
    [
        (chain(4), chain(3), "4 channels cannot become 3"),
        (chain(4, 3), chain(8, 4), "3 channels cannot become 4"),
        (_resnet(1, 3, 1.0, 4, (1, 1, 1)), _resnet(1, 3, 1.0, 8, (1, 2, 1)), "layers are not the same"),
        (two(nn.Conv2d(1, 4, 3), nn.Flatten()), two(nn.Conv2d(1, 4, 3, padding=1), nn.Flatten()), "another layer"),
        (
            two(nn.Conv2d(1, 4, 3), nn.GroupNorm(2, 4), nn.Flatten(), nn.Linear(784, 3)),
            two(nn.Conv2d(1, 8, 3), nn.GroupNorm(2, 8), nn.Flatten(), nn.Linear(1568, 3)),
            "not understood|another shape",
        ),
        (
            two(nn.Conv2d(1, 4, 1), nn.Conv2d(4, 4, 1, groups=2), nn.Flatten(), nn.Linear(1024, 3)),
            two(nn.Conv2d(1, 8, 1), nn.Conv2d(8, 8, 1, groups=2), nn.Flatten(), nn.Linear(2048, 3)),
            "in groups are not understood",
        ),
        (pair(Branching(3)), pair(Branching(3)), "traced"),
        (pair(Shuffled(3)), pair(Shuffled(4)), "cat"),
    ],
)  # fmt: skip
def test_what_cannot_be_widened_is_left_as_it_was(small: nn.Module, large: nn.Module, reason: str) -> None:
    before = {name: value.clone() for name, value in large.state_dict().items()}
    with pytest.raises(CannotWiden, match=reason):
        widen(small, large, pictures(), np.random.default_rng(0))
    assert all(torch.equal(value, before[name]) for name, value in large.state_dict().items())
    assert small.training
    assert large.training
