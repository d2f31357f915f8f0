"""Image classification: one picture, one of C classes.

Pictures are packed as they came (files) or as uint8 arrays, and become float32 batches in [0, 1]; normalisation is the
model's first step.

Shapes: B rows, K channels, S side of the picture.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from pydantic import PositiveFloat, PositiveInt

from schemas.base import Contract, Part
from stages.tasks._changes import PictureChanges, Share
from stages.tasks._classification import Classification
from stages.tasks.base import Packed, Sample

if TYPE_CHECKING:
    import numpy as np
    import torch

    from stages.random import Draws


class ImageConfig(Contract):
    """Settings of the task."""

    image_size: PositiveInt
    """Side of the square picture that models see, in pixels, where they do not ask for their own."""
    channels: Literal[1, 3] = 3
    """1 for grey, 3 for colour; files are turned into it."""
    scale: Literal["range", "max"] = "range"
    """`range` divides by 255; `max` divides each picture by its own largest value, which makes strokes alike."""


class ImagePrepare(Contract):
    """Settings of a domain's ingest."""

    center_crop: PositiveInt | None = None
    """Side of the square that is cut from the centre of each picture, in pixels; left out: the whole picture."""


class ImagePreprocessing(Contract):
    """How a model wants its pictures."""

    size: PositiveInt | None = None
    """Side of the model's input in pixels; left out: the task's `image_size`."""
    interpolation: Literal["bilinear", "bicubic", "nearest"] = "bilinear"
    """How a picture is resized; the smooth ones are antialiased."""
    crop: Share | None = None
    """Share of the shorter side that the centre crop keeps (torchvision's usual is 0.875); left out: no crop, and
    the picture is squeezed to a square."""
    mean: tuple[float, ...] = ()
    """Mean to subtract from each channel, in values from 0 to 1, in the model's channel order; empty: 0."""
    std: tuple[PositiveFloat, ...] = ()
    """Deviation to divide each channel by; empty: 1."""
    channel_order: Literal["rgb", "bgr"] = "rgb"
    """Order of the channels that the model takes."""


class ImageAugmentation(PictureChanges):
    """Random changes of a training picture, drawn evenly and anew for each sample and step."""


class ImageClassification(Classification):
    """Pictures and their classes."""

    Config: ClassVar[type[Contract]] = ImageConfig
    Prepare = ImagePrepare
    Preprocessing = ImagePreprocessing
    Augmentation = ImageAugmentation
    roles = ("image",)
    files = frozenset({"image"})
    models = ("mobile-tiny", "resnet-tiny", "resnet-small")
    libraries = ("timm/NAME", "torchvision/NAME")
    mixes = frozenset({"mixup", "cutmix"})

    def pack(self, row: Mapping[str, Any], prepare: ImagePrepare) -> Sample:
        """A source row as a sample: files stay as they are, arrays and cropped pictures are stored raw."""
        from stages.tasks._images import pack_picture

        return pack_picture(row.get("image"), self.config.channels, prepare.center_crop)

    def batch(self, packed: Packed, preprocessing: ImagePreprocessing) -> torch.Tensor:
        """Packed pictures as float32 (B, K, S, S) in [0, 1]."""
        return self._batch(packed, preprocessing, None)

    def augmented(
        self, packed: Packed, preprocessing: ImagePreprocessing, augmentation: ImageAugmentation, draws: Draws
    ) -> torch.Tensor:
        """As `batch`, each picture cut out, under one affine map and in colours of its own."""
        from stages.tasks._augmentation import AFFINE, BOX, COLOUR, affine, boxes, maps, recoloured

        affine_draw = draws("affine", AFFINE) if augmentation.moves else None
        box_B4 = boxes(draws("crop", BOX), augmentation.crop) if augmentation.crop else None
        batch = self._batch(packed, preprocessing, box_B4)
        if affine_draw is not None:
            batch = affine(batch, maps(augmentation, affine_draw))
        if augmentation.recolours:
            batch = recoloured(batch, augmentation, draws("colour", COLOUR), preprocessing.channel_order == "bgr")
        return batch

    def fake_batch(self, rows: int, preprocessing: ImagePreprocessing) -> torch.Tensor:
        """Grey ramps, (rows, K, S, S)."""
        import torch

        side = self._size(preprocessing)
        return torch.linspace(0, 1, side).expand(rows, self.config.channels, side, side).contiguous()

    def build(self, model: Part, outputs: int, preprocessing: ImagePreprocessing) -> torch.nn.Module:
        """A network behind its normalisation: (B, K, S, S) to raw logits (B, outputs)."""
        from stages.tasks._networks import image_network, with_normalisation

        channels = self.config.channels
        network = image_network(model, channels, outputs)
        return with_normalisation(network, channels, preprocessing.mean, preprocessing.std)

    def _batch(self, packed: Packed, preprocessing: ImagePreprocessing, box_B4: np.ndarray | None) -> torch.Tensor:
        from stages.tasks._image_batches import picture_batch

        return picture_batch(
            packed["image"],
            channels=self.config.channels,
            size=self._size(preprocessing),
            interpolation=preprocessing.interpolation,
            crop=preprocessing.crop,
            own_maximum=self.config.scale == "max",
            bgr=preprocessing.channel_order == "bgr",
            box_B4=box_B4,
        )

    def _size(self, preprocessing: ImagePreprocessing) -> int:
        size: int = preprocessing.size or self.config.image_size
        return size


TASK = ImageClassification
