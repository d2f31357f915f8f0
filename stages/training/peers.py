"""The ranks of a data-parallel group as one: they share the rows of each batch and agree on everything else.

Every rank computes the loss over the whole batch from everybody's outputs, of which it holds its own with a gradient:
so any loss works that compares rows, and the gradients of the ranks add up to that of the whole batch. Batch norm
takes the statistics of the whole batch. What is random (dropout) is drawn per rank; the rest equals one rank's work up
to the order of sums.

A rank on which a student fails in the middle of a step says so in its next exchange, which the others are waiting in:
they leave that step at the same exchange, and nobody waits for what never comes.

Costs an exchange (a 8 KiB all-reduce, and one of the rest where there is more) per output, batch norm (twice) and
gradient. Shapes: B rows of the whole batch, N of this rank's share, C channels, R ranks.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor
from torch.nn import functional
from torch.overrides import TorchFunctionMode

HEAD = 2048
"""Numbers of the first all-reduce of an exchange, which has one form whatever is exchanged: it says who failed."""


class PeerFailed(Exception):
    """Another rank failed in this step."""


class GroupBroken(BaseException):
    """Another rank is gone: nobody's student is to blame."""


class Peers:
    """This rank among those of its group; alone, everything is as it is."""

    def __init__(self, rank: int = 0, size: int = 1, device: torch.device | None = None) -> None:
        self.rank, self.size = rank, size
        self._device = device or torch.device("cpu")
        self._within = False

    @property
    def first(self) -> bool:
        """Whether this rank speaks for all: it commits, and writes checkpoints."""
        return self.rank == 0

    def share(self, rows: int) -> slice:
        """This rank's rows of so many: contiguous, and as many as the others' or one less."""
        return slice(rows * self.rank // self.size, rows * (self.rank + 1) // self.size)

    @contextmanager
    def step(self) -> Iterator[None]:
        """Exchanges of one step: a failure in here is told to the others, where they still wait for one."""
        self._within = self.size > 1
        try:
            yield
        except PeerFailed:
            self._within = False
            raise
        except Exception:
            if self._within:
                self._within = False
                self._reduce(self._head(failed=True))
            raise

    def last(self) -> None:
        """No exchange of this step follows: what fails now is told with `agree`."""
        self._within = False

    def whole(self, mine: Tensor, rows: int) -> Tensor:
        """Everybody's rows (B, ...) from this rank's (N, ...), which keep their gradient."""
        if self.size == 1:
            return mine
        share = self.share(rows)
        everyone = mine.new_zeros(rows, *mine.shape[1:])
        everyone[share] = mine.detach()
        everyone = self.add(everyone)
        return torch.cat([everyone[: share.start], mine, everyone[share.stop :]])

    def add_gradients(self, weights: Iterable[Tensor]) -> None:
        """Each weight's gradient becomes the sum over the ranks."""
        if self.size == 1:
            return
        held = [weight.grad for weight in weights if weight.grad is not None]
        if not held:
            return
        total = self.add(torch.cat([gradient.flatten() for gradient in held]))
        for gradient, part in zip(held, total.split([gradient.numel() for gradient in held]), strict=True):
            gradient.copy_(part.view_as(gradient))

    def agree(self, values: Sequence[int]) -> list[int]:
        """The largest of each value over the ranks; all must ask for as many."""
        if self.size == 1 or not values:
            return list(values)
        found = torch.tensor(values, dtype=torch.int64, device=self._device)
        self._reduce(found, dist.ReduceOp.MAX)
        return [int(value) for value in found]

    def batch_norm(self) -> Any:
        """In here, batch norm in training takes its statistics over all ranks."""
        return nullcontext() if self.size == 1 else _WholeBatchNorm(self)

    def add(self, tensor: Tensor) -> Tensor:
        """The sum over the ranks, without gradient. Raises PeerFailed if one of them failed in this step."""
        head = self._head(failed=False)
        inside = tensor.dtype == torch.float32 and tensor.numel() < HEAD
        if inside:
            head[1 : 1 + tensor.numel()] = tensor.detach().flatten()
        self._reduce(head)
        if head[0] > 0:
            raise PeerFailed("another worker of its group failed in this step")
        if inside:
            return head[1 : 1 + tensor.numel()].view(tensor.shape)
        total = tensor.detach().clone(memory_format=torch.contiguous_format)
        self._reduce(total)
        return total

    def _head(self, failed: bool) -> Tensor:
        head = torch.zeros(HEAD, device=self._device)
        head[0] = float(failed)
        return head

    def _reduce(self, tensor: Tensor, operation: Any = dist.ReduceOp.SUM) -> None:
        try:
            dist.all_reduce(tensor, operation)
        except RuntimeError as error:
            raise GroupBroken(str(error).splitlines()[0]) from None


ALONE = Peers()
"""One rank that holds every row."""


class _Sum(torch.autograd.Function):
    """The sum over the ranks of a value that all of them go on with: its gradient is summed as well."""

    @staticmethod
    def forward(context: Any, value: Tensor, peers: Peers) -> Tensor:
        context.peers = peers
        return peers.add(value)

    @staticmethod
    def backward(context: Any, *gradients: Tensor) -> Any:
        return context.peers.add(gradients[0].contiguous()), None


class _WholeBatchNorm(TorchFunctionMode):
    """Takes the place of `torch.nn.functional.batch_norm`, which every batch norm calls, whatever it does beside."""

    def __init__(self, peers: Peers) -> None:
        super().__init__()
        self._peers = peers

    def __torch_function__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if function is functional.batch_norm:
            return self._batch_norm(function, *args, **(kwargs or {}))
        return function(*args, **(kwargs or {}))

    def _batch_norm(
        self,
        function: Any,
        inputs: Tensor,
        running_mean: Tensor | None,
        running_var: Tensor | None,
        weight: Tensor | None = None,
        bias: Tensor | None = None,
        training: bool = False,
        momentum: float = 0.1,
        eps: float = 1e-5,
    ) -> Tensor:
        if not training:
            normal: Tensor = function(inputs, running_mean, running_var, weight, bias, training, momentum, eps)
            return normal
        return batch_norm(self._peers, inputs, running_mean, running_var, weight, bias, momentum, eps)


def batch_norm(
    peers: Peers,
    inputs: Tensor,
    running_mean: Tensor | None,
    running_var: Tensor | None,
    weight: Tensor | None,
    bias: Tensor | None,
    momentum: float,
    eps: float,
) -> Tensor:
    """`torch.nn.functional.batch_norm` in training over the rows of all ranks; inputs are (N, C, ...).

    Each rank's (n, mean, sum of squares about it) is exchanged once and merged as Chan et al. (1979) do, which loses
    nothing where a mean is large beside its deviation.
    """
    channels = inputs.shape[1]
    flat = inputs.transpose(0, 1).reshape(channels, -1).float()
    mean_C = flat.mean(1)
    own = torch.cat([mean_C, (flat - mean_C[:, None]).square().sum(1), flat.new_full((1,), flat.shape[1])])
    slots = [own if rank == peers.rank else torch.zeros_like(own) for rank in range(peers.size)]
    parts = _Sum.apply(torch.stack(slots), peers)
    means_RC, squares_RC, counts_R1 = parts[:, :channels], parts[:, channels:-1], parts[:, -1:].detach()
    count = counts_R1.sum()
    mean_C = (counts_R1 * means_RC).sum(0) / count
    squares_C = squares_RC.sum(0) + (counts_R1 * (means_RC - mean_C).square()).sum(0)
    variance_C = squares_C / count
    if running_mean is not None and running_var is not None:
        with torch.no_grad():
            running_mean.lerp_(mean_C.to(running_mean.dtype), momentum)
            running_var.lerp_((squares_C / (count - 1)).to(running_var.dtype), momentum)
    form = (1, channels, *[1] * (inputs.dim() - 2))
    scaled = (inputs - mean_C.view(form)) * torch.rsqrt(variance_C + eps).view(form)
    if weight is not None:
        scaled = scaled * weight.view(form)
    if bias is not None:
        scaled = scaled + bias.view(form)
    normal: Tensor = scaled.to(inputs.dtype)
    return normal
