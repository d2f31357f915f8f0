"""Segmentation: a picture, and the class of each of its pixels.

A label stands for a cell of a grid that may be coarser than the picture (`stride`): its distribution over the classes.
What a student learns of a teacher, or any model of truth, is one item a cell (`stages.tasks._segmentation_items`), by
whatever method is chosen; what it says is a class for every pixel. Truth is bytes: a mask of class numbers, in which
255 is what nobody says, and such pixels count nowhere. Figures are of pictures as models see them.

Shapes: B rows, K channels, S side, G cells along it, M = G * G items of a picture, N items of all, C classes. What is
asked of a row is a mask (S * S numbers), or the window of what its labels are of (10 numbers).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import Field, PositiveFloat, PositiveInt, model_validator

from schemas.base import Contract, Part
from schemas.errors import ModelError
from schemas.labels import LabelShape
from stages.tasks._changes import PictureChanges
from stages.tasks.base import BadRow, Packed, Sample, Task

if TYPE_CHECKING:
    import numpy as np
    import torch

    from stages.labels.decoded import Decoded
    from stages.random import Draws
    from stages.tasks._segmentation_items import Grid
    from stages.truth import Truth

AT_ONCE = 2**24
"""Logits that a label grid is enlarged to at once."""


class SegmentationConfig(Contract):
    """Settings of the task."""

    classes: Annotated[tuple[str, ...], Field(min_length=2, max_length=255)]
    """Names of what pixels show, in the order of their numbers in masks; the background is one of them, as a rule."""
    image_size: Annotated[int, Field(ge=16, multiple_of=16)] = 160
    """Side of the square picture that models see, in pixels; pictures and masks are squeezed to it."""
    channels: Literal[1, 3] = 3
    """1 for grey, 3 for colour; files are turned into it."""
    stride: PositiveInt = 4
    """Pixels between two labels, across and down: what a teacher says of a picture is (image_size / stride) squared
    distributions, and as many pixels are what a model learns from in a step."""
    ignore: Annotated[int, Field(ge=0)] = 255
    """Number in masks of pixels that do not count."""

    @model_validator(mode="after")
    def _fits(self) -> SegmentationConfig:
        if len(set(self.classes)) < len(self.classes):
            raise ValueError("`classes` are names, each once")
        if self.image_size % self.stride:
            raise ValueError(f"`stride` divides `image_size`, and {self.stride} does not divide {self.image_size}")
        return self


class SegmentationPrepare(Contract):
    """Settings of a domain's ingest: none."""


class SegmentationPreprocessing(Contract):
    """How a model wants its pictures."""

    mean: tuple[float, ...] = ()
    """Mean to subtract from each channel, in values from 0 to 1; empty: 0."""
    std: tuple[PositiveFloat, ...] = ()
    """Deviation to divide each channel by; empty: 1."""


class SegmentationAugmentation(PictureChanges):
    """Random changes of a training picture, drawn evenly and anew for each sample and step; masks and labels go along.

    What comes from outside of the picture is black, and counts nowhere."""


class Segmentation(Task):
    """Pictures and masks."""

    Config = SegmentationConfig
    Prepare = SegmentationPrepare
    Preprocessing = SegmentationPreprocessing
    Augmentation = SegmentationAugmentation
    roles = ("image",)
    files = frozenset({"image", "label"})
    coded = True
    forces = True
    recalls = frozenset()
    metrics = ("mean_iou", "dice", "pixel_accuracy")
    models = ("unet-small", "deeplab-light")
    libraries = ("torchvision/NAME",)

    @property
    def of_classes(self) -> tuple[str, ...]:
        """`iou_CLASS` of each class."""
        from stages.tasks._segmentation_metrics import OF_CLASS

        return tuple(OF_CLASS + name for name in self.config.classes)

    # --- samples ---------------------------------------------------------------------------------------------

    def pack(self, row: Mapping[str, Any], prepare: SegmentationPrepare) -> Sample:
        """A source row as a sample: files stay as they are, arrays are stored raw. Its mask must be of its size."""
        from stages.tasks._images import pack_picture
        from stages.tasks._masks import size_of

        sample = pack_picture(row.get("image"), self.config.channels, None)
        picture, mask = size_of(row.get("image")), size_of(row.get("label"))
        if mask is not None and mask != picture:
            ours, theirs = ("x".join(map(str, size or ())) for size in (picture, mask))
            raise BadRow(f"the mask has {theirs} pixels (height x width), its picture {ours}")
        return sample

    def pack_truth(self, value: Any, classes: Sequence[str]) -> int:
        """A mask is no class."""
        raise NotImplementedError

    def class_name(self, value: Any) -> str:
        """A mask is no class."""
        raise NotImplementedError

    def code_truth(self, value: Any) -> bytes:
        """A mask of class numbers, an array or a picture's bytes, as runs of them. Raises BadRow."""
        from stages.tasks._masks import code_mask

        return code_mask(value, len(self.config.classes), self.config.ignore)

    def vocabulary(self) -> tuple[str, ...]:
        """The classes by name."""
        names: tuple[str, ...] = self.config.classes
        return names

    @property
    def label_shape(self) -> LabelShape:
        """One label a cell."""
        return LabelShape(kind="pixel", grid=(self._grid.cells, self._grid.cells))

    # --- items -----------------------------------------------------------------------------------------------

    def asked(self, truth: Truth) -> torch.Tensor:
        """True masks as models see them, uint8 (B, S * S)."""
        import torch

        from stages.tasks._masks import true_masks

        return torch.from_numpy(true_masks(truth, self.config.image_size))

    def own(self, module: torch.nn.Module, batch: torch.Tensor) -> torch.Tensor:
        """Windows of what a teacher sees (B, 10): it is asked of each cell of that, and needs not say a class first."""
        from stages.tasks._segmentation_items import WINDOW

        return batch[:, -WINDOW:]

    def recorded(self, own: torch.Tensor) -> dict[str, torch.Tensor]:
        """Nothing: where the teacher looked follows from the view."""
        return {}

    def recalled(
        self, items: np.ndarray, stored: Mapping[str, np.ndarray], seen: torch.Tensor | None = None
    ) -> torch.Tensor:
        """Windows of what labels are of (B, 10)."""
        from stages.tasks._segmentation_items import WINDOW, whole

        return whole(len(items)) if seen is None else seen[:, -WINDOW:]

    def answered(self, decoded: Decoded, items: np.ndarray, stored: Mapping[str, np.ndarray]) -> np.ndarray:
        """The likeliest class of each pixel, float32 (B, S * S), between the cells by their logits."""
        import numpy as np
        import torch

        from stages.tasks._segmentation_networks import resized

        grid, classes = self._grid, len(self.config.classes)
        cells = decoded.dense().reshape(len(items), grid.cells, grid.cells, classes).transpose(0, 3, 1, 2)
        size = max(1, AT_ONCE // (classes * grid.side**2))
        parts = [np.empty((0, grid.side**2), np.float32)]
        for start in range(0, len(items), size):
            logits = resized(torch.from_numpy(np.ascontiguousarray(cells[start : start + size])), grid.side)
            parts.append(logits.argmax(dim=1).flatten(1).numpy().astype(np.float32))
        return np.concatenate(parts)

    def forced(self, batch: torch.Tensor, asked: torch.Tensor) -> torch.Tensor:
        """Pictures with their windows, and behind them what is asked of each of their items."""
        import torch

        from stages.tasks._segmentation_items import WINDOW, asked_of

        return torch.cat([batch, asked_of(asked, batch[:, -WINDOW:], self._grid).to(batch.dtype)], dim=1)

    def items(self, forced: torch.Tensor) -> torch.Tensor:
        """Cells of each picture that something is asked of (B,)."""
        return (self._numbers(forced) >= 0).sum(dim=1)

    def targets(self, asked: torch.Tensor, forced: torch.Tensor | None = None) -> torch.Tensor:
        """The class that each item lies on (N,)."""
        from stages.tasks._segmentation_items import asked_of, whole

        numbers = asked_of(asked, whole(len(asked)), self._grid) if forced is None else self._numbers(forced)
        return numbers[numbers >= 0].long()

    def taught(self, forced: torch.Tensor) -> torch.Tensor:
        """The cell that each item lies in (N,), counted over those of all rows."""
        import torch

        numbers = self._numbers(forced).long()
        before = self._grid.items * torch.arange(len(numbers), device=numbers.device)[:, None]
        return (numbers + before)[numbers >= 0]

    def compared(self, said: np.ndarray) -> np.ndarray:
        """Classes of all pixels (B, S * S)."""
        import numpy as np

        return said.astype(np.uint8)

    def alike(self, one: np.ndarray, other: np.ndarray) -> np.ndarray:
        """Share of the pixels that are alike."""
        shares: np.ndarray = (one == other).mean(axis=1)
        return shares

    # --- tensors ---------------------------------------------------------------------------------------------

    def batch(self, packed: Packed, preprocessing: SegmentationPreprocessing) -> torch.Tensor:
        """Pictures as float32 in [0, 1] and behind each its window, (B, K S S + 10)."""
        import torch

        from stages.tasks._segmentation_items import whole

        pictures = self._pictures(packed["image"], None)
        return torch.cat([pictures.flatten(1), whole(len(pictures))], dim=1)

    def augmented(
        self, packed: Packed, preprocessing: SegmentationPreprocessing, augmentation: PictureChanges, draws: Draws
    ) -> torch.Tensor:
        """As `batch`, each picture cut out, under one affine map and in colours of its own; windows tell of it."""
        import numpy as np
        import torch

        from stages.tasks._augmentation import AFFINE, BOX, COLOUR, affine, boxes, maps, recoloured
        from stages.tasks._image_batches import whole_pixels
        from stages.tasks._images import decode
        from stages.tasks._segmentation_items import MAP, whole, windows

        changes = maps(augmentation, draws("affine", AFFINE)) if augmentation.moves else None
        rows, box_B4 = packed["image"], None
        part_B4 = whole(len(rows))[:, MAP:].double()
        if augmentation.crop is not None:
            box_B4 = boxes(draws("crop", BOX), augmentation.crop)
            rows = [item if isinstance(item, np.ndarray) else decode(item, self.config.channels) for item in rows]
            for row, (item, box) in enumerate(zip(rows, box_B4, strict=True)):
                top, left, high, wide = whole_pixels(box, *item.shape[:2])
                ends = np.array([left, left + wide, top, top + high]) / np.repeat(item.shape[1::-1], 2)
                part_B4[row] = torch.from_numpy(2 * ends - 1)
        pictures = self._pictures(rows, box_B4)
        if changes is not None:
            pictures = affine(pictures, changes)
        if augmentation.recolours:
            pictures = recoloured(pictures, augmentation, draws("colour", COLOUR), bgr=False)
        return torch.cat([pictures.flatten(1), windows(part_B4, changes)], dim=1)

    def fake_batch(self, rows: int, preprocessing: SegmentationPreprocessing) -> torch.Tensor:
        """Grey ramps, all of the first class, (rows, K S S + 10 + M)."""
        import torch

        from stages.tasks._segmentation_items import whole

        side = self.config.image_size
        pictures = torch.linspace(0, 1, side).expand(rows, self.config.channels, side, side).flatten(1)
        asked = torch.zeros(rows, side**2, dtype=torch.uint8)
        return self.forced(torch.cat([pictures, whole(rows)], dim=1), asked)

    # --- models and metrics ----------------------------------------------------------------------------------

    def build(self, model: Part, outputs: int, preprocessing: SegmentationPreprocessing) -> torch.nn.Module:
        """A network from pictures to classes of pixels, (B, S * S); forced, to logits of items. See `Segmenter`."""
        from stages.tasks._segmentation_networks import segmenter

        if outputs != len(self.config.classes):
            raise ModelError(
                f"model '{model.name}' is to tell {outputs} classes apart, the task has {len(self.config.classes)}"
            )
        return segmenter(model, self.config.channels, outputs, self._grid, preprocessing.mean, preprocessing.std)

    def score(self, logits: np.ndarray, truth: np.ndarray, metrics: Sequence[str]) -> dict[str, float]:
        """Metrics of classes that were said (B, S * S) against true masks (B,); without rows, nothing."""
        import numpy as np

        from stages.tasks._segmentation_metrics import weighted_metric

        if not len(truth):
            return {}
        counts, once = self._counts(logits, truth), np.ones((1, len(truth)), np.int64)
        return {name: float(weighted_metric(counts, name, self.config.classes, once)[0]) for name in metrics}

    def score_rows(self, logits: np.ndarray, truth: np.ndarray, metric: str, weights: np.ndarray) -> np.ndarray:
        """A metric of all pixels under each of W re-weightings of the pictures: (W, B) to (W,)."""
        from stages.tasks._segmentation_metrics import weighted_metric

        return weighted_metric(self._counts(logits, truth), metric, self.config.classes, weights)

    def _counts(self, said: np.ndarray, truth: np.ndarray) -> np.ndarray:
        from stages.tasks._masks import true_masks
        from stages.tasks._segmentation_metrics import pixel_counts

        return pixel_counts(said, true_masks(truth, self.config.image_size), len(self.config.classes))

    @property
    def _grid(self) -> Grid:
        from stages.tasks._segmentation_items import Grid

        return Grid(self.config.image_size, self.config.stride)

    def _numbers(self, forced: torch.Tensor) -> torch.Tensor:
        """What is asked of each item of a forced batch (B, M)."""
        return forced[:, -self._grid.items :]

    def _pictures(self, rows: Any, box_B4: np.ndarray | None) -> torch.Tensor:
        from stages.tasks._image_batches import picture_batch

        return picture_batch(
            rows,
            channels=self.config.channels,
            size=self.config.image_size,
            interpolation="bilinear",
            crop=None,
            own_maximum=False,
            bgr=False,
            box_B4=box_B4,
        )


TASK = Segmentation
