"""Models by import path, for every task: `package.module:factory`, called with `num_classes` and the settings.

A factory returns a torch Module, or any callable from a batch to outputs: an ONNX session, a served model.

Shapes: B rows, O outputs.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable
from typing import Any

import numpy as np
import torch

from schemas.base import Part
from schemas.errors import ModelError, did_you_mean


class Callback(torch.nn.Module):
    """A foreign callable as a module without weights: numpy float32 batch in, array or tensor (B, O) out.

    It is never differentiated, runs on the CPU, and brings its own weights.
    """

    def __init__(self, function: Callable[[np.ndarray], Any]) -> None:
        super().__init__()
        self.function = function

    def forward(self, batch: torch.Tensor) -> torch.Tensor:
        """The callable's answer as a float32 tensor on the batch's device."""
        outputs = self.function(np.ascontiguousarray(batch.detach().cpu().numpy()))
        return torch.as_tensor(outputs, dtype=torch.float32, device=batch.device)


def from_factory(model: Part, outputs: int) -> torch.nn.Module:
    """The model of a user's factory. Raises ModelError with what went wrong in it."""
    module_name, _, name = model.name.partition(":")
    try:
        module = importlib.import_module(module_name)
    except ModuleNotFoundError as error:
        raise ModelError(
            f"model '{model.name}': there is no module '{error.name}'. Put its folder beside the spec or on PYTHONPATH"
        ) from None
    except Exception as error:
        raise ModelError(f"model '{model.name}': its module cannot be imported: {error!r}") from error
    factory = getattr(module, name, None)
    if not callable(factory):
        known = [key for key, value in vars(module).items() if callable(value) and not key.startswith("_")]
        raise ModelError(f"model '{model.name}': '{module_name}' has no function '{name}'{did_you_mean(name, known)}")
    try:
        built = factory(num_classes=outputs, **model.settings)
    except Exception as error:
        raise ModelError(f"model '{model.name}': its factory failed: {error!r}") from error
    if isinstance(built, torch.nn.Module):
        return built
    if callable(built):
        return Callback(built)
    raise ModelError(f"model '{model.name}': its factory returned {type(built).__name__}, not a Module or a callable")
