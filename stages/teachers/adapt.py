"""Carrying a teacher over to a target by its inputs alone: its batch-norm statistics are re-estimated there."""

from __future__ import annotations

from typing import cast

import torch

from schemas.errors import ModelError
from schemas.teachers import AdaptTeacher
from stages.domains.reader import Samples, read_split
from stages.places import Place
from stages.teachers.work import Finished, Work, leave
from stages.training.models import load_model
from stages.training.statistics import re_estimate


def carry(work: Work) -> None:
    """Re-estimate the teacher's statistics and leave it as a finished teacher; card and other weights stay.

    Raises ModelError if it has no batch-norm layers, DataError for a target with fewer than two train rows.
    """
    torch.set_num_threads(work.threads)
    way = cast(AdaptTeacher, work.inputs.way)
    teacher = load_model(Place(way.teacher.uri, work.storage), way.teacher)
    samples = Samples.open(Place(way.samples.uri, work.storage), way.samples)
    split = read_split(Place(way.split.uri, work.storage), way.split)

    def told(done: int, of: int) -> None:
        work.reporter.progress(done, of, "batches")

    if not re_estimate(teacher, samples, split, way.batch_size, told):
        raise ModelError(
            f"model '{teacher.card.model.name}' has no batch-norm layers, so there is nothing to re-estimate: "
            "use the teacher as it is, without `adapt`"
        )
    leave(work, 1, Finished(teacher.card, teacher.network.state_dict()))
