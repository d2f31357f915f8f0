"""Views: augmented readings of a sample that teacher and student see alike, now and in a later version.

View 0 is the sample itself. What changes in view v of a sample is drawn from (seed, content id, v) by a counter-based
generator and is relative to the sample, so any reader in any order replays it for its own input size. Libraries may
still change pixels: a set keeps sketches of some of its views, which are compared before anything is trained on them.
Costs beside applying a change: about 1 µs a row.

Shapes: B rows, P sketched numbers.
"""

from __future__ import annotations

from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray

from schemas.errors import StoreError
from schemas.labels import Replay, Views
from stages.labels.alignment import AlignedLabels
from stages.labels.reader import LabelSet
from stages.random import view_draws
from stages.registry import validate_settings
from stages.tasks.base import Packed, Task, rows_of

REPLAYS = 16
"""Views of a set that are sketched."""
SKETCH = 16
"""Numbers of a sketch."""
TOLERANCE = 0.01
"""Root mean square difference of two inputs that count as alike: two and a half of a picture's 255 steps, above what
decoders of one file differ by, far below what another crop or flip does."""


class Rows(Protocol):
    """What is needed of `stages.domains.reader.Samples`."""

    @property
    def rows(self) -> int: ...
    def gather(self, positions: NDArray[np.int64], /) -> Packed: ...
    def content_ids_at(self, positions: NDArray[np.int64], /) -> NDArray[np.uint8]: ...


def view_inputs(
    task: Task, packed: Packed, content_ids: NDArray[np.uint8], view_B: NDArray[np.int64], views: Views, how: Any
) -> torch.Tensor:
    """Inputs of B packed samples, each in a view of its own, under a model's preprocessing `how`."""
    batch: torch.Tensor | None = None
    for view in np.unique(view_B).tolist():
        rows = np.flatnonzero(view_B == view)
        some = packed if len(rows) == len(view_B) else rows_of(packed, rows)
        if view == 0:
            part = task.batch(some, how)
        else:
            settings = validate_settings(task.Augmentation, dict(views.settings), "views.settings")
            part = task.augmented(some, how, settings, view_draws(content_ids[rows], views.seed, view))
        if len(rows) == len(view_B):
            return part
        batch = part.new_empty((len(view_B), *part.shape[1:])) if batch is None else batch
        batch[torch.from_numpy(rows)] = part
    return task.batch(packed, how) if batch is None else batch


def view_of(positions: NDArray[np.int64], epoch: int, views: Views) -> NDArray[np.int64]:
    """The view (B,) in which a training reads each row in an epoch: after `count` epochs it has read each once."""
    return (positions + epoch) % views.count


def replays(task: Task, samples: Rows, views: Views) -> tuple[Replay, ...]:
    """Sketches of some views, spread over the samples; none where there is but the sample itself."""
    if views.count == 1 or not samples.rows:
        return ()
    positions = np.unique(np.arange(REPLAYS) * samples.rows // REPLAYS)
    view_B = 1 + np.arange(len(positions)) % (views.count - 1)
    found = _sketches(task, samples, positions, view_B, views)
    return tuple(
        Replay(position=int(position), view=int(view), sketch=tuple(numbers))
        for position, view, numbers in zip(positions, view_B, found.tolist(), strict=True)
    )


def check_replays(labels: LabelSet | AlignedLabels, task: Task, samples: Rows) -> int:
    """How many of a set's sketched views could be compared: those of samples that are here.

    Raises StoreError if some come out differently than when the set was made.
    """
    manifest = labels.manifest
    known = {item.position: item for item in manifest.replays}
    if not known:
        return 0
    here = labels.samples_at(np.array(sorted(known)))
    kept = [(row, known[position]) for position, row in zip(sorted(known), here.tolist(), strict=True) if row >= 0]
    if not kept:
        return 0
    positions, items = np.array([row for row, _ in kept]), [item for _, item in kept]
    found = _sketches(task, samples, positions, np.array([item.view for item in items]), manifest.views)
    wanted = np.array([item.sketch for item in items])
    if found.shape != wanted.shape:
        raise StoreError(f"label set {manifest.fingerprint[:12]} sketches its views in another way: use its release")
    apart_B = np.sqrt(np.mean((found - wanted) ** 2, axis=1))
    bad = np.flatnonzero(~(apart_B <= TOLERANCE))
    if len(bad):
        first = items[bad[0]]
        raise StoreError(
            f"{len(bad)} of {len(items)} views of label set {manifest.fingerprint[:12]} cannot be replayed here "
            f"(first: view {first.view} of sample {first.position}, inputs {apart_B[bad[0]]:.2g} apart): the student "
            "would not see what the teacher saw. Use the task's settings and the library versions that the set was "
            "made with, or label again"
        )
    return len(items)


def alike(one: Replay, other: Replay) -> bool:
    """Whether two sketches are of the same input, but for what decoders differ by."""
    if len(one.sketch) != len(other.sketch):
        return False
    apart = np.sqrt(np.mean((np.array(one.sketch) - np.array(other.sketch)) ** 2))
    return bool(apart <= TOLERANCE)


def sketch(batch: torch.Tensor) -> NDArray[np.float64]:
    """(B, P) numbers whose root mean square difference estimates that of the inputs (B, ...) behind them.

    Projections on fixed random signs, by 1 / sqrt of the input's size (Johnson and Lindenstrauss 1984; signs:
    Achlioptas 2003).
    """
    flat = batch.reshape(len(batch), -1).double().numpy()
    bits = np.random.Philox(key=0).random_raw(-(-flat.shape[1] * SKETCH // 64)).astype("<u8").view(np.uint8)
    signs = 2.0 * np.unpackbits(bits, bitorder="little")[: flat.shape[1] * SKETCH].reshape(-1, SKETCH) - 1
    answer: NDArray[np.float64] = np.round(flat @ signs / np.sqrt(max(1, flat.shape[1])), 6)
    return answer


def _sketches(
    task: Task, samples: Rows, positions: NDArray[np.int64], view_B: NDArray[np.int64], views: Views
) -> NDArray[np.float64]:
    """Sketches (B, P) under the task's plain preprocessing, which every reader of the task has."""
    how = validate_settings(task.Preprocessing, {}, "preprocessing")
    packed, content_ids = samples.gather(positions), samples.content_ids_at(positions)
    return sketch(view_inputs(task, packed, content_ids, view_B, views, how))
