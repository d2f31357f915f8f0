"""Optimisers by name, of torch and of timm. torch is loaded by what needs it, so that a plan may check a name."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from schemas.errors import ModelError, did_you_mean
from schemas.training import Training

if TYPE_CHECKING:
    import torch

OWN = ("adamw", "adam", "sgd")
"""Optimisers of torch, by the name in `training.optimizer`."""
WITH_BETAS = (
    "adabelief", "adafactor", "adamax", "adamp", "adamuon", "adopt", "adoptw", "lamb", "lambw", "laprop", "lion",
    "mars", "muon", "nadam", "nadamw", "novograd", "radam", "radamw",
)  # fmt: skip
WITHOUT_BETAS = (
    "adadelta", "adafactorbv", "adagrad", "adan", "adanw", "larc", "lars", "madgrad", "madgradw", "momentum",
    "rmsprop", "rmsproptf", "sgdp", "sgdw",
)  # fmt: skip
"""Optimisers of timm, spelled `timm/NAME`: those that run on every device and go on from a checkpoint to the bit."""
NAMES = (*OWN, *(f"timm/{name}" for name in (*WITH_BETAS, *WITHOUT_BETAS)))


def optimizer_faults(training: Training) -> Iterator[str]:
    """What is wrong with the optimiser that is asked for, one sentence each. Loads no torch."""
    name = training.optimizer
    if name not in NAMES:
        yield f"no optimiser is called '{name}'{did_you_mean(name, NAMES)}"
    elif training.betas is not None and (name == "sgd" or name.removeprefix("timm/") in WITHOUT_BETAS):
        yield f"the optimiser '{name}' takes no pair of `betas`: leave them out"


def make_optimizer(training: Training, module: torch.nn.Module) -> torch.optim.Optimizer:
    """The optimiser over all weights of `module` that take a gradient; its rate is set before each step.

    torch's own do the update in one fused kernel: with many small tensors that is the smaller part of a small student's
    step. Raises ModelError for a name that is unknown.
    """
    import torch

    weights = [weight for weight in module.parameters() if weight.requires_grad]
    rate, decay = training.learning_rate, training.weight_decay
    betas: dict[str, Any] = {} if training.betas is None else {"betas": training.betas}
    match training.optimizer:
        case "adamw":
            return torch.optim.AdamW(weights, lr=rate, weight_decay=decay, fused=True, **betas)
        case "adam":
            return torch.optim.Adam(weights, lr=rate, weight_decay=decay, fused=True, **betas)
        case "sgd":
            return torch.optim.SGD(
                weights,
                lr=rate,
                momentum=training.momentum,
                weight_decay=decay,
                nesterov=training.nesterov and training.momentum > 0,
                fused=True,
            )
    if problems := list(optimizer_faults(training)):
        raise ModelError(*problems)
    from timm.optim import create_optimizer_v2  # type: ignore[attr-defined]  # named in its __init__ all the same

    name = training.optimizer.removeprefix("timm/")
    return create_optimizer_v2(weights, name, rate, decay, training.momentum, **betas)


def set_learning_rate(optimizer: torch.optim.Optimizer, rate: float) -> None:
    """Give all weights of an optimiser one rate."""
    for group in optimizer.param_groups:
        group["lr"] = rate


def clip(training: Training, module: torch.nn.Module) -> None:
    """Scale the gradient of all weights together down to `gradient_clip`, where that is set."""
    import torch

    if training.gradient_clip is not None:
        torch.nn.utils.clip_grad_norm_(module.parameters(), training.gradient_clip)
