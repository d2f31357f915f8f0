"""A student's passes over the rows of a step: forward, and backward from what its method asks, whole or in parts.

Shapes: R rows of one lot (shared, labelled or source), C classes, F features.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from schemas.training import Training
from stages.training.penultimate import Penultimate

Outputs = tuple[Tensor, Tensor | None]
"""Logits (R, C), and penultimate features (R, F) where they are needed."""


class Passes:
    """The passes of one student.

    With `accumulate`, gradients are cached as in Gao et al., "Scaling Deep Contrastive Learning Batch Size under Memory
    Limited Setup", 2021 (arXiv:2101.06983): all parts go forward without a graph, the loss is that of the whole batch,
    and each part goes forward again to carry its share of the loss's gradient back. So any loss may be cut, also one
    that compares the rows of a batch; memory is that of one part, and time a forward pass more.
    """

    def __init__(
        self,
        module: torch.nn.Module,
        penultimate: Penultimate | None,
        training: Training,
        seed: Callable[[int], None],
        items: Callable[[Tensor], Tensor | None] = lambda rows: None,
    ) -> None:
        """`seed(part)` sets what layers draw (dropout) in a part of the step; part 0 is seeded by the caller too.

        `items` tells how many outputs each row has; none: one each.
        """
        self._module, self._penultimate, self._seed, self._items = module, penultimate, seed, items
        self._parts, self._narrow = training.accumulate, training.precision == "bfloat16"
        self._chunks: list[list[Tensor]] = []
        self._whole: list[Outputs] = []

    def forward(self, lots: Sequence[Tensor]) -> list[Outputs]:
        """The outputs of each lot of rows, to be used in one loss.

        Lots are concatenated, which copies: a model that writes into its input does not reach other students' rows.
        """
        if self._parts == 1:
            return self._run(lots)
        cut = [lot.tensor_split(self._parts) for lot in lots]
        self._chunks = [[pieces[part] for pieces in cut] for part in range(self._parts)]
        own = dict(self._module.named_buffers())
        spare = {name: buffer.clone() for name, buffer in own.items()}  # statistics count each part once
        answers: list[list[Outputs]] = []
        with torch.no_grad():
            for part, chunk in enumerate(self._chunks):
                self._seed(part)
                answers.append(self._run(chunk, spare))
        self._whole = [_joined([answer[lot] for answer in answers]) for lot in range(len(lots))]
        return self._whole

    def backward(self, loss: Tensor) -> None:
        """The loss's gradient on the student's weights, and on those of whatever else it rests on."""
        loss.backward()
        if self._parts == 1:
            return
        sizes = [[self._size(lot) for lot in chunk] for chunk in self._chunks]
        for part, chunk in enumerate(self._chunks):
            self._seed(part)
            leaves, grads = [], []
            for lot, (outputs, whole) in enumerate(zip(self._run(chunk), self._whole, strict=True)):
                for output, cached in zip(outputs, whole, strict=True):
                    if output is not None and cached is not None and cached.grad is not None:
                        leaves.append(output)
                        grads.append(cached.grad.split([chunk[lot] for chunk in sizes])[part])
            torch.autograd.backward(leaves, grads)
        self._chunks, self._whole = [], []

    def _run(self, lots: Sequence[Tensor], buffers: dict[str, Tensor] | None = None) -> list[Outputs]:
        sizes, rows = [self._size(lot) for lot in lots], torch.cat(list(lots))
        with torch.autocast(rows.device.type, torch.bfloat16, enabled=self._narrow):
            logits = torch.func.functional_call(self._module, buffers, (rows,)) if buffers else self._module(rows)
        features = None if self._penultimate is None else self._penultimate.take()
        if self._narrow:
            logits, features = logits.float(), None if features is None else features.float()
        if features is None:
            return [(lot, None) for lot in logits.split(sizes)]
        return list(zip(logits.split(sizes), features.split(sizes), strict=True))

    def _size(self, lot: Tensor) -> int:
        """Outputs of a lot of rows."""
        items = self._items(lot)
        return len(lot) if items is None else int(items.sum())


def _joined(answers: Sequence[Outputs]) -> Outputs:
    """The outputs of a lot's parts as leaves whose gradient can be asked for."""
    logits = torch.cat([logits for logits, _ in answers]).requires_grad_()
    features = [features for _, features in answers if features is not None]
    return logits, torch.cat(features).requires_grad_() if features else None
