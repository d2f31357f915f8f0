"""Weights that a user brings: read without running anything, matched by name, refused with the names that differ."""

from __future__ import annotations

import pickle
from collections import OrderedDict
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch
from torch import nn

from schemas.artifacts import WeightsRef
from schemas.errors import ModelError
from stages.places import checksum
from stages.training.weights import load_given, read_given, weights_digest


def network(outputs: int = 2, seed: int = 0) -> nn.Sequential:
    torch.manual_seed(seed)
    layers = OrderedDict(first=nn.Linear(4, 3), norm=nn.BatchNorm1d(3), head=nn.Linear(3, outputs))
    return nn.Sequential(OrderedDict(normalise=nn.Identity(), network=nn.Sequential(layers)))


def same(one: nn.Module, other: nn.Module, but: str = "nothing") -> bool:
    pairs = zip(one.state_dict().items(), other.state_dict().values(), strict=True)
    return all(torch.equal(a, b) for (name, a), b in pairs if but not in name)


@pytest.fixture
def file(tmp_path: Path) -> str:
    return str(tmp_path / "weights")


def bare(state: dict[str, Any]) -> dict[str, Any]:
    return {name.removeprefix("network."): value for name, value in state.items()}


@pytest.mark.parametrize(
    "form",
    [
        lambda state: state,
        bare,
        lambda state: {f"module.{name}": value for name, value in bare(state).items()},
        lambda state: {f"module.model.{name}": value for name, value in bare(state).items()},
        lambda state: {"state_dict": bare(state), "epoch": 3},
        lambda state: {"model": {f"module.{name}": value for name, value in bare(state).items()}, "lr": 0.1},
        lambda state: {name: value for name, value in state.items() if "num_batches" not in name},
    ],
)
def test_common_forms_of_a_state_dict(file: str, form: Any) -> None:
    given, own = network(seed=1), network(seed=2)
    torch.save(form(given.state_dict()), file)
    report = load_given(file, own)
    assert same(given, own)
    assert report.fresh == report.unused == ()
    safetensors.torch.save_file(read_given(file), file)
    assert same(given, _loaded(file))


def _loaded(file: str) -> nn.Module:
    own = network(seed=3)
    load_given(file, own)
    return own


class Attack:
    def __reduce__(self) -> Any:
        return print, ("this ran",)


def test_a_pickle_with_code_is_refused_and_not_run(file: str, capsys: pytest.CaptureFixture[str]) -> None:
    torch.save({"state_dict": network().state_dict(), "hook": Attack()}, file)
    with pytest.raises(ModelError, match="could run code, and is refused"):
        read_given(file)
    Path(file).write_bytes(pickle.dumps(Attack()))
    with pytest.raises(ModelError, match=r"could run code|neither safetensors"):
        read_given(file)
    assert "this ran" not in capsys.readouterr().out


@pytest.mark.parametrize("data", [b"", b"hello", b"\x10\0\0\0\0\0\0\0{not a header}  ", b"PK\x03\x04 cut"])
def test_other_files_are_refused(file: str, data: bytes) -> None:
    Path(file).write_bytes(data)
    with pytest.raises(ModelError, match=r"neither safetensors nor|damaged safetensors|could run code"):
        read_given(file)


def test_what_is_not_there_or_has_changed(file: str) -> None:
    with pytest.raises(ModelError, match="there is no file of weights"):
        weights_digest(file)
    torch.save({"lr": 0.1}, file)
    with pytest.raises(ModelError, match="holds no tensors by name"):
        read_given(file)
    torch.save(network().state_dict(), file)
    known = WeightsRef(uri=file, digest=weights_digest(file))
    assert known.digest == checksum(Path(file).read_bytes())
    assert read_given(known)
    torch.save(network(seed=5).state_dict(), file)
    with pytest.raises(ModelError, match="have changed"):
        read_given(known)


def test_a_file_is_found_by_relative_path(file: str, monkeypatch: pytest.MonkeyPatch) -> None:
    torch.save(network().state_dict(), file)
    monkeypatch.chdir(Path(file).parent)
    assert weights_digest("weights") == weights_digest(file)


def test_strict_names_what_differs(file: str) -> None:
    state = network().state_dict()
    state["network.stray"] = torch.zeros(1)
    del state["network.norm.bias"]
    state["network.head.weight"] = torch.zeros(5, 3)
    torch.save(state, file)
    with pytest.raises(ModelError) as caught:
        load_given(file, network())
    for part in ("1 missing (network.norm.bias)", "1 unexpected (network.stray)", "network.head.weight 5x3 for 2x3"):
        assert part in str(caught.value)


def test_a_head_of_another_size_may_start_anew(file: str) -> None:
    given, own, before = network(outputs=5, seed=1), network(seed=2), network(seed=2)
    torch.save(bare(given.state_dict()), file)
    with pytest.raises(ModelError, match="2 of another shape"):
        load_given(file, own)
    report = load_given(file, own, strict=False)
    assert report.fresh == ("network.head.bias", "network.head.weight")
    assert report.unused == ()
    assert same(given, own, but="head")
    assert torch.equal(own.state_dict()["network.head.weight"], before.state_dict()["network.head.weight"])


def test_more_than_the_head_may_not(file: str) -> None:
    state = network(outputs=5).state_dict()
    state["network.first.weight"] = torch.zeros(3, 9)
    torch.save(state, file)
    with pytest.raises(ModelError, match="only one layer, the head, may differ"):
        load_given(file, network(), strict=False)
    torch.save({"other.weight": torch.zeros(1)}, file)
    with pytest.raises(ModelError, match="do not fit the model"):
        load_given(file, network(), strict=False)


def test_a_refused_file_changes_nothing(file: str) -> None:
    own, before = network(seed=2), network(seed=2)
    torch.save(network(outputs=5, seed=1).state_dict(), file)
    with pytest.raises(ModelError):
        load_given(file, own)
    assert same(own, before)


def test_tied_weights_may_stand_once(file: str) -> None:
    def tied(seed: int) -> nn.Sequential:
        torch.manual_seed(seed)
        layers = nn.Sequential(OrderedDict(one=nn.Linear(3, 3), two=nn.Linear(3, 3)))
        layers.two.weight = layers.one.weight  # type: ignore[union-attr]
        return layers

    given, own = tied(1), tied(2)
    torch.save({name: value for name, value in given.state_dict().items() if name != "two.weight"}, file)
    load_given(file, own)
    assert same(given, own)
    safetensors.torch.save_model(given, file)
    load_given(file, third := tied(3))
    assert same(given, third)
