"""A wider network that answers as a narrower one does: Net2WiderNet (Chen et al. 2016, arXiv:1511.05641).

Both networks are traced and must be one architecture in two widths: convolutions (also depthwise), linear layers and
batch norms in chains, with residual sums, gates and poolings between them. Channels that are added or multiplied are
widened alike. What cannot be traced, or does not give the same answers afterwards, is refused, and nothing is changed.
Costs two traces and three forward passes.

Where a channel k of n stands c(k) times among m >= n, whoever reads it takes each copy with a share, and a reader's
shares of the copies add up to 1. The paper's are 1 / c(k), and twins part by noise or dropout; ours are drawn, so that
twins part by their gradients and the function stays as it is.

Shapes: n channels of the narrow network, m of the wide one, O channels that a layer gives, I that it reads.
"""

from __future__ import annotations

import operator
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, fx, nn
from torch.fx.passes.shape_prop import ShapeProp
from torch.nn import functional
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.conv import _ConvNd
from torch.nn.modules.dropout import _DropoutNd

TOLERANCE = 1e-4
"""Largest difference of an answer, relative to the largest answer: sums in another order, float32."""
ELEMENTWISE = (
    nn.ReLU, nn.ReLU6, nn.LeakyReLU, nn.ELU, nn.SiLU, nn.GELU, nn.Mish, nn.Hardswish, nn.Hardsigmoid, nn.Hardtanh,
    nn.Sigmoid, nn.Tanh, nn.Identity, _DropoutNd, nn.MaxPool1d, nn.AvgPool1d, nn.AdaptiveAvgPool1d,
    nn.AdaptiveMaxPool1d, nn.MaxPool2d, nn.AvgPool2d, nn.AdaptiveAvgPool2d, nn.AdaptiveMaxPool2d,
)  # fmt: skip
"""Modules that treat every channel alike and by itself."""
FUNCTIONS = frozenset({
    torch.relu, torch.sigmoid, torch.tanh, torch.neg, functional.relu, functional.relu6, functional.silu,
    functional.gelu, functional.mish, functional.hardswish, functional.hardsigmoid, functional.hardtanh,
    functional.leaky_relu, functional.dropout, functional.adaptive_avg_pool2d, functional.adaptive_max_pool2d,
    functional.avg_pool2d, functional.max_pool2d,
})  # fmt: skip
METHODS = frozenset({"relu", "relu_", "sigmoid", "tanh", "contiguous", "clone", "float"})
PAIRS = frozenset({
    operator.add, operator.iadd, operator.sub, operator.mul, operator.imul, operator.truediv, torch.add, torch.sub,
    torch.mul, torch.div,
})  # fmt: skip
"""Functions of two, channel by channel: both sides are widened alike."""
PAIR_METHODS = frozenset({"add", "add_", "sub", "mul", "mul_", "div"})


class CannotWiden(Exception):
    """The two networks are not one architecture in two widths, as far as can be told."""


@dataclass(eq=False)
class _Channels:
    """Channels that are widened alike."""

    narrow: int
    wide: int
    fixed: bool = False
    """Whether they are seen from outside: input and output."""
    joined: _Channels | None = None
    of_n: NDArray[np.int64] = field(default_factory=lambda: np.zeros(0, np.int64))
    """(m,) the narrow channel that each wide one is a copy of."""

    def root(self) -> _Channels:
        return self if self.joined is None else self.joined.root()


@dataclass(frozen=True)
class _Value:
    """A tensor on its way through both networks."""

    channels: _Channels
    axis: int
    """The dimension that they lie along."""
    repeat: int = 1
    """Places that each channel takes there, side by side (after a flattening)."""


def widen(narrow: nn.Module, wide: nn.Module, batch: Tensor, random: np.random.Generator) -> None:
    """Give `wide` weights with which it answers as `narrow` does, in training mode too but for dropout.

    `batch`: rows to compare the answers on, on the networks' device. What is drawn (which channels are copied, and
    shares) comes from `random`. Raises CannotWiden with the reason, and leaves `wide` as it was.
    """
    before = {name: value.clone() for name, value in wide.state_dict().items()}
    modes = narrow.training, wide.training
    try:
        with torch.no_grad():
            wide.load_state_dict(_Widening(narrow.eval(), wide.eval(), batch, random).state())
            there, here = narrow(batch), wide(batch)
            difference = float((there - here).abs().max() / there.abs().max().clamp(min=1e-6))
            if not difference <= TOLERANCE:
                raise CannotWiden(f"the answers differ by {difference:.1g} of their size")
    except CannotWiden:
        wide.load_state_dict(before)
        raise
    finally:
        narrow.train(modes[0])
        wide.train(modes[1])


class _Tracer(fx.Tracer):
    def is_leaf_module(self, module: nn.Module, name: str) -> bool:
        return isinstance(module, (*ELEMENTWISE, _ConvNd, nn.Linear, _BatchNorm, nn.Flatten))


class _Widening:
    """One pass over both graphs side by side: which channels belong together, then the weights."""

    def __init__(self, narrow: nn.Module, wide: nn.Module, batch: Tensor, random: np.random.Generator) -> None:
        self.modules = dict(narrow.named_modules()), dict(wide.named_modules())
        self.states = narrow.state_dict(), wide.state_dict()
        self.random = random
        self.values: dict[fx.Node, _Value] = {}
        self.layers: dict[str, tuple[_Value, _Value]] = {}
        self.loose: set[str] = set()
        graphs = _traced(narrow, batch), _traced(wide, batch)
        if [(n.op, n.name) for n in graphs[0].nodes] != [(n.op, n.name) for n in graphs[1].nodes]:
            raise CannotWiden("their layers are not the same")
        for one, other in zip(graphs[0].nodes, graphs[1].nodes, strict=True):
            self._node(one, other)

    def state(self) -> dict[str, Tensor]:
        """Weights of the wide network."""
        state: dict[str, Tensor] = {name: self.states[0][name] for name in self.loose}
        for name, (read, given) in self.layers.items():
            state |= {f"{name}.{key}": value for key, value in self._weights(name, read, given).items()}
        for name, value in self.states[1].items():
            if name not in state:
                raise CannotWiden(f"'{name}' belongs to no layer that is understood")
            if state[name].shape != value.shape:
                raise CannotWiden(f"'{name}' is of another shape")
        return state

    # --- which channels belong together ----------------------------------------------------------------------

    def _node(self, one: fx.Node, other: fx.Node) -> None:
        if one.op == "placeholder":
            if _shape(one):  # others are arguments that stay at their defaults
                self.values[one] = self._fresh(one, other, fixed=True)
        elif one.op == "output":
            for read in one.all_input_nodes:
                if read in self.values:
                    self.values[read].channels.root().fixed = True
        elif one.op == "get_attr":
            # A tensor that stands by itself is taken as it is, so what it meets is as wide in both.
            if _shape(one) != _shape(other):
                raise CannotWiden(f"'{one.target}' is of another shape, and belongs to no layer that is understood")
            if str(one.target) in self.states[0]:
                self.loose.add(str(one.target))
        elif one.op == "call_module":
            self.values[one] = self._module(one, other)
        elif value := self._function(one, other):
            self.values[one] = value

    def _module(self, one: fx.Node, other: fx.Node) -> _Value:
        name, read = str(one.target), self._value(one.args[0])
        small, large = (modules[name] for modules in self.modules)
        if type(small) is not type(large) or _settings(small) != _settings(large):
            raise CannotWiden(f"'{name}' is another layer: {small} and {large}")
        if isinstance(small, nn.Flatten):
            return self._flattened(one, other, read)
        if isinstance(small, ELEMENTWISE):
            return read
        given = read
        if isinstance(small, nn.Linear) or (isinstance(small, _ConvNd) and not _depthwise(small, large)):
            given = self._fresh(one, other, axis=len(_shape(one)) - 1 if isinstance(small, nn.Linear) else 1)
        if name in self.layers:
            for known, now in zip(self.layers[name], (read, given), strict=True):
                self._join(known, now)
        self.layers[name] = read, given
        return given

    def _function(self, one: fx.Node, other: fx.Node) -> _Value | None:
        read = [self.values[node] for node in one.all_input_nodes if node in self.values]
        if not isinstance(one.meta.get("tensor_meta"), tuple) or not read:
            return None  # a number, such as a size: what is made of it is compared at the end
        target: Any = one.target
        pair = target in (PAIR_METHODS if one.op == "call_method" else PAIRS)
        if pair:
            constants = [node for node in one.all_input_nodes if node not in self.values]
            if any(_shape(node) for node in constants):
                read[0].channels.root().fixed = True
            if len(read) == 2:
                self._join(*read)
            return max(read, key=lambda value: value.axis)
        if target in ("flatten", torch.flatten):
            return self._flattened(one, other, read[0])
        if target in ("mean", torch.mean):
            return self._mean(one, read[0])
        if target in (METHODS if one.op == "call_method" else FUNCTIONS):
            return read[0]
        raise CannotWiden(f"'{one.name}' is not understood")

    def _flattened(self, one: fx.Node, other: fx.Node, read: _Value) -> _Value:
        before, after = _shape(_first(one)), _shape(one)
        if read.axis != 1 or len(after) != 2 or before[2:] != _shape(_first(other))[2:]:
            raise CannotWiden(f"'{one.name}' flattens in a way that is not understood")
        return _Value(read.channels, 1, read.repeat * int(np.prod(before[2:], dtype=np.int64)))

    def _mean(self, one: fx.Node, read: _Value) -> _Value:
        before, after = _shape(_first(one)), _shape(one)
        if read.axis != 1 or before[:2] != after[:2] or len(before) != 4:
            raise CannotWiden(f"'{one.name}' takes a mean in a way that is not understood")
        return read

    def _value(self, node: Any) -> _Value:
        if node not in self.values:
            raise CannotWiden(f"'{node}' is not understood")
        return self.values[node]

    def _fresh(self, one: fx.Node, other: fx.Node, axis: int = 1, fixed: bool = False) -> _Value:
        small, large = _shape(one), _shape(other)
        if not axis < len(small) == len(large):
            raise CannotWiden(f"'{one.name}' gives no channels")
        return _Value(_Channels(small[axis], large[axis], fixed), axis)

    def _join(self, one: _Value, other: _Value) -> None:
        first, second = one.channels.root(), other.channels.root()
        if (first.narrow, first.wide, one.repeat) != (second.narrow, second.wide, other.repeat):
            raise CannotWiden("channels that meet are not as many in both networks")
        if first is not second:
            second.joined, first.fixed = first, first.fixed or second.fixed

    # --- weights ---------------------------------------------------------------------------------------------

    def _weights(self, name: str, read: _Value, given: _Value) -> dict[str, Tensor]:
        small, large = (modules[name] for modules in self.modules)
        out = self._copies(given)
        if isinstance(small, _BatchNorm):
            counted = {"num_batches_tracked"}
            return {key: value if key in counted else value[out] for key, value in small.state_dict().items()}
        weights: dict[str, Tensor] = {}
        for key, value in small.state_dict().items():
            if key != "weight" or (isinstance(small, _ConvNd) and _depthwise(small, large)):
                weights[key] = value[out]
                continue
            of_I = self._copies(read)
            shares_OI = self._shares(len(out), of_I, value.shape[1])
            shares = torch.from_numpy(shares_OI).to(value).view(*shares_OI.shape, *[1] * (value.dim() - 2))
            weights[key] = value[out][:, of_I] * shares
        return weights

    def _copies(self, value: _Value) -> NDArray[np.int64]:
        """(m * repeat,) the place in the narrow network of each place in the wide one."""
        channels = value.channels.root()
        if not len(channels.of_n):
            if channels.wide < channels.narrow or (channels.fixed and channels.wide != channels.narrow):
                raise CannotWiden(f"{channels.narrow} channels cannot become {channels.wide}")
            more = self.random.integers(channels.narrow, size=channels.wide - channels.narrow)
            channels.of_n = np.concatenate([np.arange(channels.narrow), more]).astype(np.int64)
        return (channels.of_n[:, None] * value.repeat + np.arange(value.repeat)).ravel()

    def _shares(self, outside: int, of_I: NDArray[np.int64], narrow: int) -> NDArray[np.float64]:
        """(O, I) what a reader takes of each copy: 1 of a single one, else drawn, adding up to 1."""
        drawn_OI = self.random.uniform(0.5, 1.5, size=(outside, len(of_I)))
        total_nO = np.zeros((narrow, outside))
        np.add.at(total_nO, of_I, drawn_OI.T)
        return drawn_OI / total_nO[of_I].T


def _traced(module: nn.Module, batch: Tensor) -> fx.Graph:
    try:
        graph = _Tracer().trace(module)
        ShapeProp(fx.GraphModule(module, graph)).propagate(batch)
    except Exception as error:  # noqa: BLE001 - a user's network may fail in any way
        raise CannotWiden(f"it cannot be traced: {type(error).__name__}: {str(error).splitlines()[0][:200]}") from None
    return graph


def _first(node: fx.Node) -> fx.Node:
    return node.all_input_nodes[0]


def _shape(node: fx.Node) -> tuple[int, ...]:
    meta = node.meta.get("tensor_meta")
    return tuple(meta.shape) if meta is not None and hasattr(meta, "shape") else ()


def _depthwise(small: _ConvNd, large: _ConvNd) -> bool:
    """Whether each channel is read by itself, in both."""
    alone = [one.groups == one.in_channels == one.out_channels and one.groups > 1 for one in (small, large)]
    if alone[0] != alone[1] or (not alone[0] and max(small.groups, large.groups) > 1):
        raise CannotWiden("convolutions in groups are not understood")
    return alone[0]


def _settings(module: nn.Module) -> object:
    """What a layer is beside its width."""
    if isinstance(module, _ConvNd):
        names: Iterable[str] = ("kernel_size", "stride", "padding", "dilation", "padding_mode", "transposed")
        return [getattr(module, name) for name in names], module.bias is None
    if isinstance(module, nn.Linear):
        return module.bias is None
    if isinstance(module, _BatchNorm):
        return module.eps, module.affine, module.track_running_stats
    return module.extra_repr()
