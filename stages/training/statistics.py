"""Batch-norm statistics re-estimated on a domain by its inputs alone (AdaBN, Li et al. 2016, arXiv:1603.04779).

One pass over the inputs of the train split; no truth, no gradient, nothing of its other rows. Each layer's mean and
variance become the mean over batches of those of the batch, batches being equal in size to a row and drawn across the
domain, while all else is in evaluation mode.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import NDArray
from torch.nn.modules.batchnorm import _BatchNorm

from schemas.errors import DataError
from stages.domains.reader import TRAIN
from stages.training.launch import device
from stages.training.stream import shuffled

if TYPE_CHECKING:
    from stages.domains.reader import Samples
    from stages.training.models import LoadedModel

SEED = 0
"""Of the order that batches are drawn in: a part of the method, not a choice."""
WINDOW_BYTES = 256 * 2**20
"""Bytes of samples within which rows are shuffled."""


def re_estimate(
    model: LoadedModel,
    samples: Samples,
    split: NDArray[np.int8],
    batch_size: int,
    told: Callable[[int, int], None] = lambda done, of: None,
) -> bool:
    """Re-estimate a model's statistics in place, on this process's device; False if it has no batch-norm layers.

    `told` hears (batches done, of how many). Raises DataError for a domain with fewer than two train rows.
    """
    network = model.network.to(device()).to(memory_format=torch.channels_last)
    layers = [part for part in network.modules() if isinstance(part, _BatchNorm) and part.track_running_stats]
    if not layers:
        return False
    read = samples.only(model.task.reads(model.preprocessing))
    positions = np.flatnonzero(split == TRAIN).astype(np.int64)
    if len(positions) < 2:
        raise DataError(f"adapting to a domain takes 2 rows of its train split or more, found {len(positions)}")
    sizes = sum(shard.samples.size for shard in read.shards)
    order = shuffled(positions, read.offsets, sizes / read.rows, WINDOW_BYTES, SEED, 0)
    # Sizes differ by one row at most: the running mean gives every batch the same weight.
    batches = np.array_split(order, max(1, min(-(-len(order) // batch_size), len(order) // 2)))
    momentum = [layer.momentum for layer in layers]
    for layer in layers:
        layer.reset_running_stats()
        layer.momentum = None
        layer.train()
    with torch.no_grad():
        for number, rows in enumerate(batches):
            inputs = model.task.batch(read.gather(rows), model.preprocessing)
            network(inputs.to(device()))
            told(number + 1, len(batches))
    for layer, before in zip(layers, momentum, strict=True):
        layer.momentum = before
        layer.eval()
    return True
