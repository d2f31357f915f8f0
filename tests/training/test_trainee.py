"""A model that starts small: the switch keeps what it answers, or teaches it, and is no seam for a checkpoint."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from schemas.base import Part
from schemas.training import Training
from stages.training.trainee import Trainee

BATCH = torch.rand(8, 3, generator=torch.Generator().manual_seed(0))
TRUTH = torch.arange(8) % 2
STEPS = 20


def build(model: Part) -> nn.Module:
    """`chain` has a width, `deep` one layer more."""
    width = model.settings.get("width", 8)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        layers = [nn.Linear(3, width), nn.Tanh(), *([nn.Linear(width, width)] if model.name == "deep" else [])]
        return nn.Sequential(*layers, nn.Linear(width, 2))


def trainee(model: str = "chain", **scaling: Any) -> Trainee:
    training = Training.model_validate(
        {"learning_rate": 0.02, "ema": 0.5, "scaling": {"start": {"name": "chain", "width": 2}, **scaling}}
    )
    return Trainee(training, Part(name=model), build, STEPS, 0, lambda: BATCH)


def take(one: Trainee, steps: range) -> list[float]:
    """Some steps, and the loss of each."""
    losses = []
    for step in steps:
        one.begin_step(step)
        logits = one.module.train()(BATCH)
        losses_R = (
            nn.functional.cross_entropy(logits, TRUTH, reduction="none")
            if one.elder is None
            else one.lesson(BATCH, logits)
        )
        one.optimizer.zero_grad()
        losses_R.mean().backward()
        one.update(step)
        losses.append(float(losses_R.detach().mean()))
    return losses


def answers(one: Trainee) -> Tensor:
    with torch.no_grad():
        return one.module(BATCH)  # type: ignore[no-any-return]


def width(one: Trainee) -> int:
    return len(next(iter(one.module.state_dict().values())))


def test_widened_it_answers_as_before_and_goes_on() -> None:
    one = trainee()
    take(one, range(10))
    before = answers(one)
    assert (width(one), one.grown, one.switch) == (2, False, 10)
    assert one.begin_step(10)
    assert (width(one), one.grown, one.elder) == (8, True, None)
    torch.testing.assert_close(answers(one), before, rtol=1e-4, atol=1e-5)
    assert one.average is not None
    torch.testing.assert_close(one.answer(BATCH), before, rtol=1e-4, atol=1e-5)
    assert not one.begin_step(11)
    losses = take(one, range(11, STEPS))
    assert losses[-1] < losses[0]


def test_what_cannot_be_widened_learns_the_small_ones_answers_first() -> None:
    one = trainee("deep", distil=0.3)
    take(one, range(10))
    said = answers(one).log_softmax(1)
    assert one.begin_step(10)
    assert one.elder is not None
    logits = answers(one)
    wanted = (said.exp() * (said - logits.log_softmax(1))).sum(1)
    torch.testing.assert_close(one.lesson(BATCH, logits), wanted, rtol=1e-5, atol=1e-7)
    lesson = take(one, range(10, 16))
    assert one.elder is not None
    assert lesson[-1] < lesson[0]
    take(one, range(16, 17))
    assert one.elder is None, "after 0.3 of 20 steps"


def test_without_steps_to_learn_in_it_begins_by_itself() -> None:
    one = trainee("deep", distil=0.0)
    take(one, range(11))
    assert one.grown
    assert one.elder is None


@pytest.mark.parametrize(("switch_at", "switch"), [(0.25, 5), (0.01, 0), (0.999, 19)])
def test_the_switch_is_a_share_of_the_steps(switch_at: float, switch: int) -> None:
    one = trainee(switch_at=switch_at)
    assert one.switch == switch
    take(one, range(STEPS))
    assert (width(one), one.grown) == (8, True), "what is asked for is what ends"


@pytest.mark.parametrize("model", ["chain", "deep"])
@pytest.mark.parametrize("at", [4, 10, 11, 13])
def test_a_checkpoint_on_either_side_of_the_switch(model: str, at: int) -> None:
    """The fourteenth step is one of the lessons' last."""
    whole, first, second = (trainee(model, distil=0.2) for _ in range(3))
    take(whole, range(STEPS))
    take(first, range(at))
    second.unpack(*first.pack())
    assert (second.elder is None) == (first.elder is None)
    take(second, range(at, STEPS))
    ours, theirs = second.kept(), whole.kept()
    assert all(torch.equal(value, theirs[name]) for name, value in ours.items())
    assert torch.equal(answers(second), answers(whole))
