"""Checkpoints: whole or not there, damaged ones passed over, an optimiser that goes on as if nothing had been."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from schemas.training import Training
from stages.places import Place
from stages.training import checkpoints
from stages.training.optim import NAMES, make_optimizer


@pytest.fixture
def place(tmp_path: Path) -> Place:
    return Place(str(tmp_path / "checkpoints"))


def test_newest_wins_and_older_ones_go(place: Place) -> None:
    assert checkpoints.latest(place) is None
    for number in (1, 2, 10):
        checkpoints.save(place, number, {"w": torch.full((2,), float(number))}, {"number": number})
    found = checkpoints.latest(place)
    assert found is not None
    assert (found[0], found[1]["w"].tolist(), found[2]) == (10, [10.0, 10.0], {"number": 10})
    checkpoints.drop_older(place, 10)
    assert [name[:6] for name in place.names()] == ["000010", "000010"]


def test_the_first_writer_of_a_number_wins_whole(place: Place) -> None:
    checkpoints.save(place, 1, {"w": torch.zeros(1)}, {"who": "first"})
    checkpoints.save(place, 1, {"w": torch.ones(1)}, {"who": "second"})
    found = checkpoints.latest(place)
    assert found is not None
    assert (float(found[1]["w"]), found[2]["who"]) == (0.0, "first")
    assert len(place.names()) == 2


@pytest.mark.parametrize("what", [".json", ".safetensors"])
@pytest.mark.parametrize("how", ["cut", "flip", "gone"])
def test_a_damaged_checkpoint_is_named_and_passed_over(place: Place, what: str, how: str) -> None:
    for number in (1, 2):
        checkpoints.save(place, number, {"w": torch.arange(9.0)}, {"number": number})
    path = next(place.path / name for name in place.names() if name.startswith("000002") and name.endswith(what))
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 0xFF
    path.write_bytes(data[: len(data) // 2] if how == "cut" else data)
    if how == "gone":
        path.unlink()
    told: list[str] = []
    found = checkpoints.latest(place, told.append)
    assert found is not None
    assert found[0] == 1
    assert len(told) == (0 if (what, how) == (".json", "gone") else 1)
    assert all("checkpoint 2" in line for line in told)
    # The number is free again, for the training that goes on from checkpoint 1.
    checkpoints.save(place, 2, {"w": torch.zeros(1)}, {"number": 2})
    again = checkpoints.latest(place)
    assert again is not None
    assert again[0] == 2


def test_nothing_that_is_not_json_enters_meta(place: Place) -> None:
    with pytest.raises(ValueError):
        checkpoints.save(place, 1, {}, {"loss": float("nan")})
    assert checkpoints.latest(place) is None


@pytest.mark.parametrize("name", NAMES)
def test_an_optimiser_goes_on(name: str) -> None:
    """To the bit, whatever it remembers and wherever: those of timm count some of it beside their settings."""
    training = Training.model_validate({"optimizer": name, "learning_rate": 0.01})

    def network() -> torch.nn.Module:
        with torch.random.fork_rng():
            torch.manual_seed(0)
            layers = torch.nn.Sequential(torch.nn.Conv2d(2, 8, 3), torch.nn.Flatten(), torch.nn.Linear(8, 8))
        return layers.to(memory_format=torch.channels_last)

    def steps(network: torch.nn.Module, optimizer: torch.optim.Optimizer, count: int) -> None:
        for number in range(count):
            optimizer.zero_grad()
            network(torch.arange(36.0).view(2, 2, 3, 3) / 36 * (number + 1)).square().sum().backward()
            optimizer.step()

    whole, first, second = network(), network(), network()
    optimizer = make_optimizer(training, whole)
    steps(whole, optimizer, 3)
    steps(whole, optimizer, 3)
    before = make_optimizer(training, first)
    steps(first, before, 3)
    tensors, plain = checkpoints.pack_optimizer(before)
    after = make_optimizer(training, second)
    second.load_state_dict(first.state_dict())
    checkpoints.unpack_optimizer(after, tensors, json.loads(json.dumps(plain)))
    steps(second, after, 3)
    for one, other in zip(second.parameters(), whole.parameters(), strict=True):
        assert torch.equal(one, other)
    assert not torch.equal(next(first.parameters()), next(second.parameters()))


def test_prefixes_keep_sets_apart() -> None:
    both = {
        **checkpoints.with_prefix("a", {"w": torch.zeros(1)}),
        **checkpoints.with_prefix("ab", {"w": torch.ones(1)}),
    }
    assert checkpoints.under_prefix("a", both) == {"w": torch.zeros(1)}


def test_equal_tensors_give_equal_bytes() -> None:
    layer = torch.nn.Linear(2, 2)
    one = {"a": layer.weight, "tied": layer.weight, "b": layer.bias}
    other = {"b": layer.bias.detach().clone(), "tied": layer.weight.clone(), "a": layer.weight.t().contiguous().t()}
    assert checkpoints.to_bytes(one) == checkpoints.to_bytes(other)
