"""The moving average of weights: by hand, against torch's, and without a trace in the model."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from stages.training.averaging import Average


def network() -> nn.Module:
    return nn.Sequential(nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2), nn.Flatten(), nn.Linear(8, 2))


def walk(module: nn.Module, step: int) -> None:
    """Some change of every weight and statistic."""
    with torch.no_grad():
        for number, value in enumerate(module.state_dict().values()):
            value.add_(1 if value.dtype == torch.int64 else 0.1 * (step + number))


def test_by_hand() -> None:
    """The decay rises: 2 / 11 after the first step, 3 / 12 after the second, then the one that is asked for."""
    module = nn.Linear(1, 1, bias=False)
    nn.init.zeros_(module.weight)
    average = Average(module, 0.3)
    for step, weight in enumerate((1.0, 2.0, 3.0, 4.0), start=1):
        nn.init.constant_(module.weight, weight)
        average.update(module, step)
    one = 9 / 11
    two = one * 3 / 12 + 2 * 9 / 12
    three = two * 0.3 + 3 * 0.7  # 4 / 13 would be more
    assert float(average.state["weight"]) == pytest.approx(three * 0.3 + 4 * 0.7, rel=1e-6)


def test_once_risen_it_is_that_of_torch() -> None:
    module = network()
    average, reference = (
        Average(module, 0.5),
        AveragedModel(module, multi_avg_fn=get_ema_multi_avg_fn(0.5), use_buffers=True),
    )
    reference.n_averaged += 1  # torch's copies at its first update, ours begins with a copy
    for step in range(100, 106):
        walk(module, step)
        average.update(module, step)
        reference.update_parameters(module)
    wanted = reference.module.state_dict()
    assert average.state.keys() == wanted.keys()
    for name, value in average.state.items():
        if value.is_floating_point():
            torch.testing.assert_close(value, wanted[name], rtol=1e-6, atol=0)
        else:
            assert torch.equal(value, module.state_dict()[name]), "a count is the model's own"


def test_it_answers_without_a_trace_in_the_model() -> None:
    module = network().eval()
    average, batch = Average(module, 0.9), torch.rand(3, 1, 4, 4)
    first = module(batch)
    walk(module, 1)
    before = {name: value.clone() for name, value in module.state_dict().items()}
    assert torch.equal(average.answer(module, batch), first)
    assert not torch.equal(module(batch), first)
    assert all(torch.equal(value, before[name]) for name, value in module.state_dict().items())


def test_it_goes_on_from_what_was_kept() -> None:
    module = network()
    whole, first = Average(module, 0.9), Average(module, 0.9)
    walk(module, 1)
    for average in (whole, first):
        average.update(module, 1)
    resumed = Average(network(), 0.9)
    resumed.load(first.state)
    walk(module, 2)
    for average in (whole, resumed):
        average.update(module, 2)
    assert all(torch.equal(value, whole.state[name]) for name, value in resumed.state.items())
