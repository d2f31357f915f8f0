"""Checkpoints of a training: safetensors and JSON in a place of the project's own, no pickle.

`000007-ATTEMPT.safetensors` holds the tensors, `000007.json` says which attempt's they are, with their checksum; it is
written last and once. A checkpoint without it does not exist, so a killed write costs one checkpoint and no more.
Ray Train's own checkpoints are not used: in local mode it persists none.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from typing import Any

import safetensors.torch
import torch

from schemas.artifacts import ObjectInfo
from schemas.errors import ContractError
from stages.places import Place, checksum, new_attempt

EVERY_SECONDS = 20.0
"""Least time between two checkpoints of a training: a circumstance, like the kill that it costs something in."""

Tensors = dict[str, torch.Tensor]
Saved = tuple[int, Tensors, dict[str, Any]]


def to_bytes(tensors: Mapping[str, torch.Tensor]) -> bytes:
    """Tensors as a safetensors file; equal tensors give equal bytes. Tied weights are written once per name."""
    # `clone` parts what shares memory, which safetensors refuses.
    own = {name: tensor.detach().to("cpu", copy=True).contiguous().clone() for name, tensor in tensors.items()}
    data: bytes = safetensors.torch.save(own)
    return data


def save(place: Place, number: int, tensors: Mapping[str, torch.Tensor], meta: Mapping[str, Any]) -> None:
    """Write checkpoint `number`, or leave the one that exists. `meta` is plain JSON."""
    data = to_bytes(tensors)
    name = f"{number:06d}-{new_attempt()}.safetensors"
    place.put(name, data)
    info = ObjectInfo(name=name, size=len(data), checksum=checksum(data))
    text = json.dumps({"tensors": info.dump(), "meta": meta}, indent=2, allow_nan=False)
    if not place.put_new(f"{number:06d}.json", text.encode()):
        place.remove(name)


def latest(place: Place, tell: Callable[[str], None] | None = None) -> Saved | None:
    """(number, tensors, meta) of the newest whole checkpoint, or None.

    One listing and two reads. A damaged checkpoint is named through `tell`, removed, and the one before it is taken.
    """
    numbers = sorted((int(name[:-5]) for name in place.names() if name.endswith(".json")), reverse=True)
    for number in numbers:
        try:
            return number, *_read(place, number)
        except (FileNotFoundError, ContractError) as fault:
            if tell is not None:
                tell(f"checkpoint {number} at {place.uri} is damaged ({fault}); going on from an earlier one")
            _remove(place, number)
    return None


def drop_older(place: Place, number: int) -> None:
    """Remove every checkpoint before `number`, those of killed writers included."""
    for older in {int(name[:6]) for name in place.names() if name[:6].isdigit()}:
        if older < number:
            _remove(place, older)


def _remove(place: Place, number: int) -> None:
    # The JSON goes first: what it no longer names is no checkpoint.
    place.remove(f"{number:06d}.json")
    for name in place.names():
        if name.startswith(f"{number:06d}-"):
            place.remove(name)


def _read(place: Place, number: int) -> tuple[Tensors, dict[str, Any]]:
    name = f"{number:06d}.json"
    try:
        head = json.loads(place.read(name))
        info, meta = ObjectInfo.model_validate(head["tensors"]), dict(head["meta"])
    except (ValueError, KeyError, TypeError) as error:
        raise ContractError(f"{name}: {type(error).__name__}") from None
    data = place.read(info.name)
    if (len(data), checksum(data)) != (info.size, info.checksum):
        raise ContractError(f"{info.name}: its bytes are not those that were written")
    return safetensors.torch.load(data), meta


GROUP = "group"


def pack_optimizer(optimizer: torch.optim.Optimizer) -> tuple[Tensors, dict[str, Any]]:
    """(flat tensors, plain JSON) of an optimiser's state. Its settings are the recipe's and are not kept.

    Some of a library's count their steps in the group of weights, beside its settings: that counts as state.
    """
    packed = optimizer.state_dict()
    lots: dict[Any, dict[str, Any]] = dict(packed["state"])
    for number, group in enumerate(packed["param_groups"]):
        lots[f"{GROUP}{number}"] = {
            key: group[key] for key in group if key != "params" and key not in optimizer.defaults
        }
    tensors: Tensors = {}
    plain: dict[str, Any] = {}
    for index, state in lots.items():
        for key, value in state.items():
            if isinstance(value, torch.Tensor):
                tensors[f"{index}.{key}"] = value
            else:
                plain[f"{index}.{key}"] = value
    return tensors, plain


def unpack_optimizer(
    optimizer: torch.optim.Optimizer, tensors: Mapping[str, torch.Tensor], plain: Mapping[str, Any]
) -> None:
    """Give a freshly made optimiser over the same weights the state that `pack_optimizer` took."""
    groups = optimizer.state_dict()["param_groups"]
    state: dict[int, dict[str, Any]] = {}
    for name, value in {**tensors, **plain}.items():
        index, _, key = name.partition(".")
        if index.startswith(GROUP):
            groups[int(index.removeprefix(GROUP))][key] = value
        else:
            state.setdefault(int(index), {})[key] = value
    optimizer.load_state_dict({"state": state, "param_groups": groups})
    # Fused kernels walk weights and state side by side in memory: state must lie as its weight does (channels-last).
    for weight, entries in optimizer.state.items():
        for key, value in entries.items():
            if isinstance(value, torch.Tensor) and value.shape == weight.shape:
                entries[key] = torch.empty_like(weight, dtype=value.dtype).copy_(value)


def with_prefix(prefix: str, tensors: Mapping[str, torch.Tensor]) -> Tensors:
    """Tensors under `prefix.name`, so that several sets share one checkpoint."""
    return {f"{prefix}.{name}": tensor for name, tensor in tensors.items()}


def under_prefix(prefix: str, tensors: Mapping[str, torch.Tensor]) -> Tensors:
    """What `with_prefix` put under a prefix, without it."""
    start = f"{prefix}."
    return {name[len(start) :]: tensor for name, tensor in tensors.items() if name.startswith(start)}
