"""What students of pixels are fed: of each item what the teacher says of the very place that the student sees."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from schemas.artifacts import SamplesRef, SplitRef
from schemas.base import Part
from schemas.encodings import Dense
from schemas.labels import LabelSchema, Views
from schemas.students import Stream
from stages.labels.decoded import DenseLabels
from stages.labels.encodings import label_schema
from stages.labels.views import view_inputs
from stages.students.feed import Feed
from stages.students.teacher import DenseTeacher
from stages.tasks import get_task
from stages.training.stream import Positions, RowStream
from tests.students.world import Samples, ref

SIDE, ROWS, VIEWS = 16, 8, 3
TASK = get_task(
    Part.model_validate(
        {"name": "segmentation", "classes": ["dark", "light"], "image_size": SIDE, "channels": 1, "stride": 2}
    )
)
CHANGES = {"flip": True, "crop": [0.4, 0.8], "rotate": 40.0}
CELLS = (SIDE // 2) ** 2


@dataclass
class Greys:
    """A teacher that says of each cell how light it is, in the view that is asked for."""

    samples: Samples
    views: Views
    classes: tuple[str, ...] = ("dark", "light")

    @property
    def schema(self) -> LabelSchema:
        return label_schema(self.classes, Dense(dtype="float32"), TASK.label_shape)

    def gather(
        self, positions: Positions, view: NDArray[np.int64], *, extras: Collection[str]
    ) -> dict[str, NDArray[np.float32]]:
        ids, how = self.samples.content_ids_at(positions), TASK.Preprocessing()
        seen = view_inputs(TASK, {"image": self.samples.images[positions]}, ids, view, self.views, how)
        light = grey(seen).numpy()
        return {"logits": np.stack([1 - light, light], axis=-1).reshape(len(positions), *self.schema.shape.grid, 2)}

    def decode(self, stored: Mapping[str, NDArray[np.float32]]) -> DenseLabels:
        return DenseLabels(stored["logits"].reshape(-1, 2))


def grey(batch: torch.Tensor) -> torch.Tensor:
    """Mean grey of the cells (B, M) of pictures as they are seen."""
    pictures = batch[:, : SIDE**2].reshape(-1, 1, SIDE, SIDE)
    return torch.nn.functional.avg_pool2d(pictures, 2).flatten(1)


@pytest.mark.parametrize("views", [1, VIEWS])
def test_labels_are_of_what_is_seen(views: int) -> None:
    """In a view cell for cell; under a student's own changes as near as cells go: the pictures are smooth."""
    down, across = np.mgrid[0:SIDE, 0:SIDE] / SIDE
    slopes = np.random.default_rng(0).uniform(-1, 1, (ROWS, 2, 1, 1))
    images = 128 + 60 * (slopes[:, 0] * (down - 0.5) + slopes[:, 1] * (across - 0.5))
    samples = Samples(images.astype(np.uint8)[..., None])
    asked = Views(count=views, settings=CHANGES)
    stream = Stream(
        samples=SamplesRef(**ref(0)),
        split=SplitRef(**ref(0)),
        batch_size=ROWS,
        labelled_batch_size=1,
        augmentation=CHANGES,
        views=asked,
    )
    order = RowStream(np.arange(ROWS), np.array([0, ROWS]), 256.0, ROWS, 2**20, 0)
    feed = Feed(
        TASK, TASK.vocabulary() or (), stream, samples, order, {}, {"a": Greys(samples, asked)}, torch.device("cpu")
    )
    kept = []
    for step in range(4):
        batch = feed.shared(step, {"a": ()})
        said = batch.teachers["a"]
        assert isinstance(said, DenseTeacher)
        forced = TASK.forced(batch.inputs, batch.asked["a"])
        items = TASK.items(forced)
        assert items is not None
        kept.append(int(items.sum()))
        light = grey(batch.inputs)[forced[:, -CELLS:] >= 0]
        assert len(said.logits_BC) == len(light) == items.sum()
        off = (said.logits_BC[:, 1] - light).abs()
        if views > 1:
            assert off.max() == 0, "the student sees the very pixels that the teacher saw"
        else:
            away = (said.logits_BC[:, 1].roll(1) - light).abs()
            assert off.median() < 0.01 < away.median(), "a cell aside would be off by more"
    assert max(kept) == ROWS * CELLS if views > 1 else max(kept) < ROWS * CELLS
