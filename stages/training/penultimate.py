"""The penultimate features of any model: what its head reads, taken by a hook while it runs.

The head is the last module called in a forward pass that owns a weight of two or more dimensions (a linear layer, a
1x1 convolution, a class of a user's own); it must give one number for each output. Finding it costs one forward pass
of two rows; the hook costs nothing measurable, and neither weights nor outputs change.

Shapes: B rows, F features, O outputs.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from schemas.errors import ModelError

FAKE_ROWS = 2
"""Rows of the batch that a head is found with."""


class Penultimate:
    """Takes the features of each forward pass of a model from here on."""

    width: int
    """F."""

    def __init__(self, module: nn.Module, batch: Tensor, outputs: int, name: str) -> None:
        """`batch`: rows of the right form to find the head with. Raises ModelError naming a model without a head."""
        found = _last_called(module, batch)
        if found is None or outputs not in (found[2].shape[1], found[2].shape[-1]):
            raise ModelError(
                f"model '{name}' has no penultimate features: no module of it with weights of its own gives the "
                f"{outputs} outputs (a linear layer that is called last does). Use a method that reads logits alone, "
                "or end the model in such a layer"
            )
        self._name, self._seen = name, None
        head, read, _ = found
        self._channels_first = isinstance(head, (nn.Conv1d, nn.Conv2d, nn.Conv3d))
        self.width = self._flat(read).shape[1]
        head.register_forward_pre_hook(self._keep)

    _seen: Tensor | None

    def take(self) -> Tensor:
        """Features (B, F) of the forward pass that just ran, with its gradient; positions are averaged. Once a pass."""
        seen, self._seen = self._seen, None
        if seen is None:
            raise ModelError(f"model '{self._name}' did not call its head in this forward pass: it has no features")
        return self._flat(seen)

    def _keep(self, head: nn.Module, args: tuple[Any, ...]) -> None:
        self._seen = args[0]

    def _flat(self, features: Tensor) -> Tensor:
        if features.dim() == 2:
            return features
        return features.flatten(2).mean(2) if self._channels_first else features.flatten(1, -2).mean(1)


def _last_called(module: nn.Module, batch: Tensor) -> tuple[nn.Module, Tensor, Tensor] | None:
    """The last module called that owns a matrix of weights, with what it read and what it gave."""
    calls: list[tuple[nn.Module, Tensor, Tensor]] = []
    begun: list[int] = []

    def before(part: nn.Module, args: tuple[Any, ...]) -> None:
        begun.append(id(part))

    def after(part: nn.Module, args: tuple[Any, ...], output: Any) -> None:
        if args and isinstance(args[0], Tensor) and isinstance(output, Tensor) and min(args[0].dim(), output.dim()) > 1:
            calls.append((part, args[0], output))

    hooks: list[Any] = []
    training = module.training
    module.eval()  # first: reading a parametrised weight may change its state in training
    try:
        for part in module.modules():
            if any(weight.dim() > 1 for weight in (*part.parameters(recurse=False), *_weight(part))):
                hooks += [part.register_forward_pre_hook(before), part.register_forward_hook(after)]
        with torch.no_grad(), torch.random.fork_rng(devices=[]):
            module(batch)
    finally:
        module.train(training)
        for hook in hooks:
            hook.remove()
    # By when they begin: a model that keeps a table of its own (positions, a class token) ends after its head.
    last_begun = {part: when for when, part in enumerate(begun)}
    return max(calls, key=lambda call: last_begun[id(call[0])], default=None)


def _weight(part: nn.Module) -> list[Tensor]:
    """A weight that is worked out from others (`torch.nn.utils.parametrize`)."""
    weight = getattr(part, "weight", None)
    return [weight] if isinstance(weight, Tensor) else []
