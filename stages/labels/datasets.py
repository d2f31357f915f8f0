"""Label sets as PyTorch datasets: for people's own training loops."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch.utils.data import Dataset, IterableDataset, get_worker_info

from stages.labels.batches import WINDOW_BYTES, Epoch

if TYPE_CHECKING:
    from stages.labels.reader import LabelSet

Tensors = dict[str, torch.Tensor]


class LabelStream(IterableDataset[Tensors]):
    """Shuffled batches, epoch after epoch: `DataLoader(stream, batch_size=None, num_workers=2)`.

    Iterating goes through what is left of one epoch; the next iteration is of the next one. With workers, each
    prepares every so manieth step, and the loader hands the steps out in order: the stream is that of no workers.
    Workers are copies: give each iteration its epoch by `load_state_dict`, or use a loader that asks them for their
    state (torchdata's StatefulDataLoader).
    """

    def __init__(
        self,
        labels: LabelSet,
        batch_size: int,
        seed: int = 0,
        rank: int = 0,
        world_size: int = 1,
        view: int = 0,
        window_bytes: int = WINDOW_BYTES,
    ) -> None:
        self.labels = labels
        self._asked: dict[str, Any] = {
            "batch_size": batch_size,
            "seed": seed,
            "rank": rank,
            "world_size": world_size,
            "view": view,
            "window_bytes": window_bytes,
        }
        self._epoch = self._step = 0
        self._of(0)

    def __len__(self) -> int:
        """Steps of an epoch."""
        return len(self._of(0))

    def __iter__(self) -> Iterator[Tensors]:
        info = get_worker_info()
        number, workers = (0, 1) if info is None else (info.id, info.num_workers)
        epoch = self._of(self._epoch)
        begin = self._step + number
        if begin < len(epoch):
            for batch in epoch.steps(begin, workers):
                self._step += workers
                yield {name: torch.from_numpy(values) for name, values in batch.items()}
        self._epoch, self._step = self._epoch + 1, 0

    def state_dict(self) -> dict[str, int]:
        """Where the stream is: its epoch, and the steps of it that were handed out."""
        return {"epoch": self._epoch, "step": self._step}

    def load_state_dict(self, state: Mapping[str, int]) -> None:
        """Go on from such a place. Raises ValueError for one that the stream does not have."""
        epoch, step = int(state["epoch"]), int(state["step"])
        if epoch < 0 or not 0 <= step <= len(self):
            raise ValueError(f"an epoch of {len(self)} steps has no step {step} (epoch {epoch})")
        self._epoch, self._step = epoch, step

    def _of(self, epoch: int) -> Epoch:
        return Epoch(self.labels, epoch=epoch, **self._asked)


class LabelRows(Dataset[Tensors]):
    """Labels by position, as stored; several at once where the loader asks for a batch."""

    def __init__(self, labels: LabelSet, view: int = 0) -> None:
        self.labels, self.view = labels, view

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, position: int) -> Tensors:
        return self.__getitems__([position])[0]

    def __getitems__(self, positions: Sequence[int]) -> list[Tensors]:
        """Labels of some samples. Raises IndexError beyond the set."""
        arrays = self.labels.gather(np.asarray(positions, np.int64), self.view)
        if self.labels.layout.plain:
            tensors = {name: torch.from_numpy(values) for name, values in arrays.items()}
            return [{name: values[row] for name, values in tensors.items()} for row in range(len(positions))]
        offsets = self.labels.layout.offsets(arrays)
        parts = (self.labels.layout.cut(arrays, offsets, row, row + 1) for row in range(len(positions)))
        return [{name: torch.from_numpy(values) for name, values in part.items()} for part in parts]
