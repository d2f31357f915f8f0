"""Detection: a picture, and the boxes of what is in it.

A label stands for a box: its distribution over the classes and the background, its place, and a score; the last label
of a picture stands for everywhere else, so that a picture without boxes has a label too. A student learns distribution
and place of each, anchor by anchor (`stages.tasks._detection_items`): the distribution by whatever method is chosen,
the place by how far its own is off, weighted by the teacher's score (Chen et al., "Learning Efficient Object Detection
Models with Knowledge Distillation", 2017). Truth is bytes: boxes as shares of the picture.

Shapes: B rows, K channels, S side, D slots of a picture, T = D * 6 + 1, M items of a picture, N items of all, C classes
and background.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import Field, NonNegativeFloat, PositiveFloat, PositiveInt, model_validator

from schemas.base import Contract, Fraction, Part
from schemas.errors import ModelError
from schemas.labels import SAID, LabelShape
from stages.tasks._boxes import BACKGROUND
from stages.tasks.base import Packed, Sample, Task

if TYPE_CHECKING:
    import numpy as np
    import torch

    from stages.random import Draws
    from stages.truth import Truth

Share = Annotated[float, Field(gt=0, le=1)]


class DetectionConfig(Contract):
    """Settings of the task."""

    classes: Annotated[tuple[str, ...], Field(min_length=1)]
    """Names of what boxes hold, in order."""
    image_size: Annotated[int, Field(ge=32, multiple_of=32)] = 160
    """Side of the square picture that models see, in pixels; pictures are squeezed to it."""
    channels: Literal[1, 3] = 3
    """1 for grey, 3 for colour; files are turned into it."""
    boxes: PositiveInt = 32
    """Most boxes of a picture: a true picture with more is a bad row, and models say no more."""
    items: Annotated[int, Field(ge=4)] = 64
    """Anchors of a picture that a model learns from in a step, at most half of them on boxes."""
    ratios: Annotated[tuple[PositiveFloat, ...], Field(min_length=1)] = (0.5, 1.0, 2.0)
    """Widths of anchors over their heights."""
    place: NonNegativeFloat = 1.0
    """What the place of an item counts beside its class."""
    score: Fraction = 0.5
    """Score from which a box counts in precision, recall and their F1."""

    @model_validator(mode="after")
    def _named(self) -> DetectionConfig:
        if BACKGROUND in self.classes or len(set(self.classes)) < len(self.classes):
            raise ValueError(f"`classes` are names, each once, and `{BACKGROUND}` is none of them")
        anchors = 10 * len(self.ratios) * (self.image_size // 32) ** 2  # a quarter of all
        if self.items > anchors:
            raise ValueError(f"`items` are at most {anchors} for pictures of {self.image_size} px")
        return self


class DetectionPrepare(Contract):
    """Settings of a domain's ingest: none."""


class DetectionPreprocessing(Contract):
    """How a model wants its pictures, and which of its boxes it gives."""

    mean: tuple[float, ...] = ()
    """Mean to subtract from each channel, in values from 0 to 1; empty: 0."""
    std: tuple[PositiveFloat, ...] = ()
    """Deviation to divide each channel by; empty: 1."""
    suppression: Share | None = 0.5
    """Overlap from which the less sure of two boxes of a class is left out; null: boxes as they are before that."""
    least_score: Share = 0.05
    """Score that a box must have."""


class DetectionAugmentation(Contract):
    """Random changes of a picture, drawn evenly and anew for each sample and step; boxes go along."""

    flip: bool = False
    """Whether half of the pictures are mirrored left to right."""
    crop: tuple[Share, Share] | None = None
    """Smallest and largest share of the picture's area that is cut out and brought to the model's size; boxes of which
    less than three tenths are left are none any more."""
    brightness: Fraction = 0.0
    """Largest relative change of brightness."""
    contrast: Fraction = 0.0
    """Largest relative change of the distance to the picture's mean grey."""
    saturation: Fraction = 0.0
    """Largest relative change of the distance to grey, pixel by pixel."""

    @property
    def recolours(self) -> bool:
        """Whether colours change."""
        return bool(self.brightness or self.contrast or self.saturation)

    @model_validator(mode="after")
    def _ordered(self) -> DetectionAugmentation:
        if self.crop is not None and self.crop[0] > self.crop[1]:
            raise ValueError(f"`crop` goes from small to large, not from {self.crop[0]:g} to {self.crop[1]:g}")
        return self


class Detection(Task):
    """Pictures and boxes."""

    Config = DetectionConfig
    Prepare = DetectionPrepare
    Preprocessing = DetectionPreprocessing
    Augmentation = DetectionAugmentation
    roles = ("image",)
    files = frozenset({"image"})
    coded = True
    forces = True
    recalls = frozenset({SAID, "box", "score"})
    metrics = ("map50", "map", "f1", "precision", "recall")
    models = ("faster-rcnn-small", "ssd-light")
    libraries = ("torchvision/NAME",)

    # --- samples ---------------------------------------------------------------------------------------------

    def pack(self, row: Mapping[str, Any], prepare: DetectionPrepare) -> Sample:
        """A source row as a sample: files stay as they are, arrays are stored raw."""
        from stages.tasks._images import pack_picture

        return pack_picture(row.get("image"), self.config.channels, None)

    def pack_truth(self, value: Any, classes: Sequence[str]) -> int:
        """Boxes are no class."""
        raise NotImplementedError

    def class_name(self, value: Any) -> str:
        """Boxes are no class."""
        raise NotImplementedError

    def code_truth(self, value: Any) -> bytes:
        """Boxes in pixels, as JSON, as shares of the picture. Raises BadRow."""
        from stages.tasks._boxes import code_boxes

        return code_boxes(value, self.vocabulary(), self.config.boxes)

    def vocabulary(self) -> tuple[str, ...]:
        """The background, and the classes by name."""
        return (BACKGROUND, *self.config.classes)

    @property
    def label_shape(self) -> LabelShape:
        """One label a box, and one for everywhere else."""
        return LabelShape(kind="box")

    # --- items -----------------------------------------------------------------------------------------------

    def asked(self, truth: Truth) -> torch.Tensor:
        """True boxes in slots, float32 (B, T)."""
        import torch

        from stages.tasks._boxes import true_slots

        return torch.from_numpy(true_slots(truth, self.config.boxes))

    def recorded(self, own: torch.Tensor) -> dict[str, torch.Tensor]:
        """Class, place and score of each box that a model gave, and zeros for everywhere else."""
        import torch

        from stages.tasks._boxes import SLOT
        from stages.tasks._detection_items import slots_of, there

        slots = slots_of(own)
        rest = slots.new_zeros(len(slots), 1, SLOT)
        present = torch.cat([there(slots), there(rest)], dim=1)
        every = torch.cat([slots, rest], dim=1)[present]
        return {"box": every[:, :4], SAID: every[:, 4].long(), "score": every[:, 5]}

    def recalled(
        self, items: np.ndarray, stored: Mapping[str, np.ndarray], seen: torch.Tensor | None = None
    ) -> torch.Tensor:
        """A teacher's boxes in slots, float32 (B, T)."""
        import torch

        from stages.tasks._boxes import recalled_slots

        return torch.from_numpy(recalled_slots(items, stored, self.config.boxes))

    def forced(self, batch: torch.Tensor, asked: torch.Tensor) -> torch.Tensor:
        """Pictures with their windows, and the boxes behind them."""
        import torch

        return torch.cat([batch, asked], dim=1)

    def items(self, forced: torch.Tensor) -> torch.Tensor:
        """Of boxes that a model gave: these, and everywhere else; else M a picture."""
        import torch

        from stages.tasks._detection_items import as_they_stand, slots_of, there

        asked = forced[:, -self._numbers :]
        if as_they_stand(asked):
            return there(slots_of(asked)).sum(dim=1) + 1
        return torch.full((len(forced),), self.config.items, device=forced.device)

    def targets(self, asked: torch.Tensor, forced: torch.Tensor | None = None) -> torch.Tensor:
        """The class of the box that each item lies on, or the background (B * M,)."""
        import torch

        seen = asked if forced is None else forced[:, -self._numbers :]
        slots, on = self._matched(seen, None if forced is None else forced)
        classes = slots[..., 4].gather(1, on.clamp(min=0))
        return torch.where(on >= 0, classes, 0.0).long().flatten()

    def taught(self, forced: torch.Tensor) -> torch.Tensor:
        """The label of the box that each item lies on, or of everywhere else (B * M,)."""
        from stages.tasks._detection_items import stands_for

        asked = forced[:, -self._numbers :]
        return stands_for(asked, self._matched(asked, forced)[1])

    def priced(self, outputs: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor | None]:
        """The last column of a model in training is what places cost."""
        classes = len(self.vocabulary())
        if outputs.shape[1] == classes:
            return outputs, None
        return outputs[:, :classes], outputs[:, classes]

    def compared(self, said: np.ndarray) -> np.ndarray:
        """The classes of the boxes that count, in order, as text: two models agree where they see the same things."""
        import numpy as np

        from stages.tasks._boxes import unpacked_slots

        rows = [row[row[:, 5] >= self.config.score, 4] for row in unpacked_slots(said)]
        return np.array([",".join(f"{number:g}" for number in sorted(row.tolist())) for row in rows], object)

    # --- tensors ---------------------------------------------------------------------------------------------

    def batch(self, packed: Packed, preprocessing: DetectionPreprocessing) -> torch.Tensor:
        """Pictures as float32 in [0, 1] and behind each its window, (B, K S S + 5)."""
        return self._batch(packed, None, None, lambda pictures: pictures)

    def augmented(
        self, packed: Packed, preprocessing: DetectionPreprocessing, augmentation: DetectionAugmentation, draws: Draws
    ) -> torch.Tensor:
        """As `batch`, each picture cut out, mirrored and in colours of its own; windows tell what was done."""
        from stages.tasks._augmentation import BOX, COLOUR, boxes, recoloured

        cut = boxes(draws("crop", BOX), augmentation.crop) if augmentation.crop else None
        mirrored = draws("flip", 1)[:, 0] < 0.5 if augmentation.flip else None

        def changed(pictures: torch.Tensor) -> torch.Tensor:
            if not augmentation.recolours:
                return pictures
            return recoloured(pictures, augmentation, draws("colour", COLOUR), bgr=False)

        return self._batch(packed, cut, mirrored, changed)

    def fake_batch(self, rows: int, preprocessing: DetectionPreprocessing) -> torch.Tensor:
        """Grey ramps with a box each, (rows, K S S + 5 + T)."""
        import numpy as np
        import torch

        from stages.tasks._boxes import STORED
        from stages.truth import as_truth

        side = self.config.image_size
        picture = torch.linspace(0, 1, side).expand(rows, self.config.channels, side, side).flatten(1)
        window = torch.tensor([0.0, 0.0, 1.0, 1.0, 0.0]).expand(rows, -1)
        box = np.array([[1, 0.25, 0.25, 0.75, 0.75]], STORED).tobytes()
        return self.forced(torch.cat([picture, window], dim=1), self.asked(as_truth([box] * rows, coded=True)))

    # --- models and metrics ----------------------------------------------------------------------------------

    def build(self, model: Part, outputs: int, preprocessing: DetectionPreprocessing) -> torch.nn.Module:
        """A detector from pictures to boxes in slots, (B, T); forced, to logits of items. See `Detector`."""
        from stages.tasks._detection_networks import Sight, detector

        if outputs != len(self.vocabulary()):
            raise ModelError(
                f"model '{model.name}' is to tell {outputs} classes apart, the task has {len(self.vocabulary())}, "
                "the background among them"
            )
        config = self.config
        sight = Sight(
            channels=config.channels,
            side=config.image_size,
            boxes=config.boxes,
            items=config.items,
            ratios=config.ratios,
            place=config.place,
            suppression=preprocessing.suppression,
            least=preprocessing.least_score,
            mean=preprocessing.mean,
            std=preprocessing.std,
        )
        return detector(model, outputs, sight)

    def score(self, logits: np.ndarray, truth: np.ndarray, metrics: Sequence[str]) -> dict[str, float]:
        """Metrics of boxes that were said (B, T) against true ones (B,); without rows, nothing."""
        import numpy as np

        if not len(truth):
            return {}
        once = np.ones((1, len(truth)), np.int64)
        return {metric: float(self.score_rows(logits, truth, metric, once)[0]) for metric in metrics}

    def score_rows(self, logits: np.ndarray, truth: np.ndarray, metric: str, weights: np.ndarray) -> np.ndarray:
        """A metric under each of W re-weightings of the pictures: (W, B) to (W,)."""
        from stages.tasks._boxes import true_slots, unpacked_slots
        from stages.tasks._detection_metrics import weighted_metric

        true = unpacked_slots(true_slots(truth, self.config.boxes))
        return weighted_metric(unpacked_slots(logits), true, metric, weights, self.config.score)

    @property
    def _numbers(self) -> int:
        """T."""
        from stages.tasks._boxes import SLOT

        boxes: int = self.config.boxes
        return boxes * SLOT + 1

    def _matched(self, asked: torch.Tensor, forced: torch.Tensor | None) -> tuple[torch.Tensor, torch.Tensor]:
        """(boxes as they are seen (B, D, 6), slot that each item lies on or -1 (B, M))."""
        from stages.tasks._detection_items import WINDOW, anchors, into_window, match

        window = asked.new_tensor([[0.0, 0.0, 1.0, 1.0, 0.0]]).expand(len(asked), -1)
        if forced is not None:
            window = forced[:, -self._numbers - WINDOW : -self._numbers]
        slots, config = into_window(asked, window), self.config
        return slots, match(slots, anchors(config.image_size, config.ratios), config.items).slots(config.items)

    def _batch(
        self,
        packed: Packed,
        cut: np.ndarray | None,
        mirrored: np.ndarray | None,
        changed: Any,
    ) -> torch.Tensor:
        import numpy as np
        import torch

        from stages.tasks._image_batches import picture_batch

        pictures = picture_batch(
            packed["image"],
            channels=self.config.channels,
            size=self.config.image_size,
            interpolation="bilinear",
            crop=None,
            own_maximum=False,
            bgr=False,
            box_B4=cut,
        )
        window = np.tile(np.array([0.0, 0.0, 1.0, 1.0, 0.0]), (len(pictures), 1))
        if cut is not None:
            window[:, :4] = cut[:, [1, 0, 3, 2]]
        if mirrored is not None:
            window[:, 4] = mirrored
            pictures = torch.where(torch.from_numpy(mirrored)[:, None, None, None], pictures.flip(3), pictures)
        return torch.cat([changed(pictures).flatten(1), torch.from_numpy(window).float()], dim=1)


TASK = Detection
