"""A network that only infers: batch norm folded into the convolutions before it, and channels last.

A fixed rule of the network alone, never of the host, since labels belong to who said them and how: a change here raises
the version of stage `labels`. Folding is torch.fx's; a network that it cannot trace (control flow on values, say) keeps
its batch norm.
"""

from __future__ import annotations

import torch
from torch.nn.modules.batchnorm import _BatchNorm


def for_inference(network: torch.nn.Module) -> torch.nn.Module:
    """The network in evaluation mode, for inference alone; its weights may be shared with the one given.

    w' = w * g / sqrt(var + eps), b' = (b - mean) * g / sqrt(var + eps) + beta, for each batch norm that reads one
    convolution. Outputs are equal to rounding.
    """
    network.eval()
    if any(isinstance(part, _BatchNorm) for part in network.modules()):
        from torch.fx.experimental.optimization import fuse

        try:
            network = fuse(network)
        except Exception:  # noqa: BLE001 (users' networks fail to trace in any way)
            pass
    return network.to(memory_format=torch.channels_last)
