"""Weights that a user brings: a file of safetensors or a torch state dict, known by its bytes, matched by name.

Nothing in such a file is ever run: a pickle that holds more than tensors is refused. Finding the digest reads the
file once (about 1 GB/s) and loads no torch.
"""

from __future__ import annotations

import pickle
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING, Any

from schemas.artifacts import WeightsRef
from schemas.errors import ModelError
from schemas.spec import Storage
from stages.places import Place, checksum

if TYPE_CHECKING:
    import torch

PREFIXES = ("module.", "_orig_mod.", "model.", "network.")
"""What wrappers put before every name: DistributedDataParallel, torch.compile, trainers, this project."""
NESTED = ("state_dict", "model_state_dict", "model", "module")
"""Keys under which trainers nest the weights in a checkpoint."""
SHOWN = 3


@dataclass(frozen=True)
class GivenReport:
    """What loading gave."""

    loaded: int
    """Tensors that were taken from the file."""
    fresh: tuple[str, ...]
    """Names of the model that start anew."""
    unused: tuple[str, ...]
    """Names of the file that the model has no place for."""


def weights_digest(uri: str, storage: Storage | None = None) -> str:
    """blake2b-128 of the file's bytes, as in `WeightsRef`. Raises ModelError if there is no such file."""
    return checksum(_read(uri, storage))


def read_given(given: WeightsRef | str, storage: Storage | None = None) -> dict[str, torch.Tensor]:
    """Tensors by name, as they stand in the file, out of a checkpoint's nesting.

    Raises ModelError if the file is gone, has changed since it was referred to, holds code, or holds no tensors.
    """
    uri = given if isinstance(given, str) else given.uri
    data = _read(uri, storage)
    if isinstance(given, WeightsRef) and checksum(data) != given.digest:
        raise ModelError(f"the weights {uri} have changed since they were read: run again")
    value: Any = _tensors(uri, data)
    while isinstance(value, Mapping) and (inner := next((key for key in NESTED if _is_state(value, key)), None)):
        value = value[inner]
    state = _only_tensors(value)
    if not state:
        raise ModelError(f"{uri} holds no tensors by name: give a state dict, as `model.state_dict()` returns it")
    return state


def load_given(
    given: WeightsRef | str, module: torch.nn.Module, strict: bool = True, storage: Storage | None = None
) -> GivenReport:
    """Load a file into `module`, in place. Prefixes of common wrappers are understood.

    Not `strict`: one layer may differ (the head, for other classes) and keeps the values that it has.
    Raises ModelError naming the first few names that are missing, unexpected or of another shape.
    """
    import torch

    uri = given if isinstance(given, str) else given.uri
    own = module.state_dict(keep_vars=True)
    state = _named_alike(read_given(given, storage), own)
    known = {name for name in state if name in own}
    misshaped = {name for name in known if state[name].shape != own[name].shape}
    filled = {_memory(own[name]) for name in known - misshaped}
    missing = {
        name
        for name, tensor in own.items()
        # Weights that are tied to a loaded one are loaded with it; old files count no batches.
        if name not in known and _memory(tensor) not in filled and not name.endswith("num_batches_tracked")
    }
    unused = set(state) - known
    one_layer = len({_layer(name) for name in misshaped | missing}) <= 1 and len({_layer(name) for name in unused}) <= 1
    if (misshaped or missing or unused) and (strict or not one_layer or not filled):
        shapes = [f"{name} {_shape(state[name])} for {_shape(own[name])}" for name in sorted(misshaped)]
        faults = [
            ("missing", sorted(missing)),
            ("unexpected", sorted(unused)),
            ("of another shape", shapes),
        ]
        told = "; ".join(f"{len(names)} {kind} ({_some(names)})" for kind, names in faults if names)
        mend = "check `model`, its settings and `classes`" if strict else "only one layer, the head, may differ"
        raise ModelError(f"the weights {uri} do not fit the model: {told}. {mend}")
    with torch.no_grad():
        for name in sorted(known - misshaped):
            own[name].copy_(state[name])
    return GivenReport(len(known - misshaped), tuple(sorted(misshaped | missing)), tuple(sorted(unused)))


def _read(uri: str, storage: Storage | None) -> bytes:
    if "://" not in uri:
        uri = str(Path(uri).expanduser().absolute())
    folder, _, name = uri.rpartition("/")
    try:
        return Place(folder or "/", storage or Storage()).read(name)
    except FileNotFoundError:
        raise ModelError(f"there is no file of weights at {uri}") from None


def _tensors(uri: str, data: bytes) -> Any:
    import safetensors
    import safetensors.torch
    import torch

    if data[8:9] == b"{":
        try:
            return safetensors.torch.load(data)
        except safetensors.SafetensorError as error:
            raise ModelError(f"{uri} is a damaged safetensors file: {error}") from None
    try:
        return torch.load(BytesIO(data), map_location="cpu", weights_only=True)
    except pickle.UnpicklingError:
        raise ModelError(
            f"{uri} is a pickle that holds more than tensors, which could run code, and is refused: "
            "save `model.state_dict()` with safetensors or torch.save"
        ) from None
    except Exception as error:  # noqa: BLE001 - torch raises anything on a broken file
        raise ModelError(f"{uri} is neither safetensors nor a torch state dict ({type(error).__name__})") from None


def _is_state(value: Mapping[str, Any], key: str) -> bool:
    return isinstance(value.get(key), Mapping) and bool(_only_tensors(value[key]))


def _only_tensors(value: Any) -> dict[str, torch.Tensor]:
    import torch

    if not isinstance(value, Mapping):
        return {}
    return {str(name): tensor for name, tensor in value.items() if isinstance(tensor, torch.Tensor)}


def _named_alike(state: dict[str, torch.Tensor], own: Iterable[str]) -> dict[str, torch.Tensor]:
    """`state` in the model's names: of all ways to drop and add known prefixes, the one with most names in common."""
    names = set(own)
    bare = [state]
    while (prefix := next((p for p in PREFIXES if all(name.startswith(p) for name in bare[-1])), None)) is not None:
        bare.append({name.removeprefix(prefix): tensor for name, tensor in bare[-1].items()})
    ways = [{lead + name: tensor for name, tensor in way.items()} for way in bare for lead in ("", *PREFIXES)]
    return max(ways, key=lambda way: len(names & way.keys()))


def _layer(name: str) -> str:
    return name.rpartition(".")[0]


def _memory(tensor: torch.Tensor) -> tuple[int, tuple[int, ...]]:
    """Where a tensor lies: equal for tied weights. Empty ones all lie nowhere."""
    return (tensor.data_ptr(), tuple(tensor.shape)) if tensor.numel() else (id(tensor), ())


def _shape(tensor: torch.Tensor) -> str:
    return "x".join(map(str, tensor.shape)) or "scalar"


def _some(names: list[str]) -> str:
    return ", ".join(names[:SHOWN]) + (", …" if len(names) > SHOWN else "")
