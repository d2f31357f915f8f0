"""Carrying a teacher over to a target by its inputs alone: batch-norm statistics re-estimated (AdaBN, Li et al. 2016).

One pass over the inputs of the target's train split; no truth, no gradient, nothing of its other rows. Each layer's
mean and variance become the mean over batches of those of the batch, batches being equal in size to a row and drawn
across the domain, while all else is in evaluation mode.
"""

from __future__ import annotations

from typing import cast

import numpy as np
import torch
from torch.nn.modules.batchnorm import _BatchNorm

from schemas.errors import DataError, ModelError
from schemas.teachers import AdaptTeacher
from stages.domains.reader import TRAIN, Samples, read_split
from stages.places import Place
from stages.teachers.work import WINDOW_BYTES, Finished, Work, leave
from stages.training.launch import device
from stages.training.models import load_model
from stages.training.stream import shuffled

SEED = 0
"""Of the order that batches are drawn in: a part of the method, not a choice."""


def carry(work: Work) -> None:
    """Re-estimate the teacher's statistics and leave it as a finished teacher; card and other weights stay.

    Raises ModelError if it has no batch-norm layers, DataError for a target with fewer than two train rows.
    """
    torch.set_num_threads(work.threads)
    way = cast(AdaptTeacher, work.inputs.way)
    teacher = load_model(Place(way.teacher.uri, work.storage), way.teacher)
    network = teacher.network.to(device()).to(memory_format=torch.channels_last)
    layers = [part for part in network.modules() if isinstance(part, _BatchNorm) and part.track_running_stats]
    if not layers:
        raise ModelError(
            f"model '{teacher.card.model.name}' has no batch-norm layers, so there is nothing to re-estimate: "
            "use the teacher as it is, without `adapt`"
        )
    samples = Samples.open(Place(way.samples.uri, work.storage), way.samples).only(
        teacher.task.reads(teacher.preprocessing)
    )
    split = read_split(Place(way.split.uri, work.storage), way.split)
    positions = np.flatnonzero(split == TRAIN).astype(np.int64)
    if len(positions) < 2:
        raise DataError(f"adapting to a domain takes 2 rows of its train split or more, found {len(positions)}")
    sizes = sum(shard.samples.size for shard in samples.shards)
    order = shuffled(positions, samples.offsets, sizes / samples.rows, WINDOW_BYTES, SEED, 0)
    # Sizes differ by one row at most: the running mean gives every batch the same weight.
    batches = np.array_split(order, max(1, min(-(-len(order) // way.batch_size), len(order) // 2)))
    for layer in layers:
        layer.reset_running_stats()
        layer.momentum = None
        layer.train()
    with torch.no_grad():
        for number, rows in enumerate(batches):
            inputs = teacher.task.batch(samples.gather(rows), teacher.preprocessing)
            network(inputs.to(device()))
            work.reporter.progress(number + 1, len(batches), "batches")
    leave(work, 1, Finished(teacher.card, network.state_dict()))
