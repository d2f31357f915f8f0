"""Detectors: a light SSD for students, torchvision's Faster R-CNN for teachers.

A detector that is handed pictures says what it sees, in slots (`stages.tasks._boxes`). Handed boxes beside them it
answers for these: for its own boxes as they stand one distribution each, and one for everywhere else; in training one
for each item (`stages.tasks._detection_items`), and beside it what the item's place costs.

Shapes: B pictures, K channels, S side, D slots, A anchors, M items of a picture, N rows of the answer, C classes and
background.
"""

from __future__ import annotations

from abc import abstractmethod
from collections import OrderedDict
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from torchvision.models.detection import FasterRCNN
from torchvision.models.detection.faster_rcnn import FastRCNNPredictor, TwoMLPHead
from torchvision.models.detection.image_list import ImageList
from torchvision.models.detection.rpn import AnchorGenerator
from torchvision.models.detection.ssd import SSDHead
from torchvision.ops import FeaturePyramidNetwork, MultiScaleRoIAlign, batched_nms, box_iou

from schemas.base import Part
from schemas.errors import ModelError, did_you_mean
from stages.tasks import _detection_items as items
from stages.tasks._boxes import ANSWERS, SLOT, TAUGHT
from stages.tasks._networks import Normalise, Residual, _convolution

CERTAIN = 50.0
"""Logit of what costs nothing any more: the cross-entropy beside 0 for others is 0 in float32."""
NARROWEST = 16
"""Channels of a layer, at least: below, oneDNN's backward passes of channels-last layers write past their memory
(torch 2.14.1, pictures of 160 px)."""
EMPTY = -4.0
"""Logit of each class in an untrained SSD, beside 0 for the background: nearly all places are empty."""


@dataclass(frozen=True)
class Sight:
    """How a detector sees and answers."""

    channels: int
    side: int
    boxes: int
    """D."""
    items: int
    """M."""
    ratios: tuple[float, ...]
    """Width over height of anchors."""
    place: float
    """What an item's place counts beside its class."""
    suppression: float | None
    """Overlap from which the less sure of two boxes of a class is left out; none: all stay."""
    least: float
    """Score that a box must have."""
    mean: tuple[float, ...]
    std: tuple[float, ...]

    @property
    def pixels(self) -> int:
        """Numbers of a picture."""
        return self.channels * self.side**2


class Detector(nn.Module):
    """What all detectors have in common: taking a batch apart, and giving boxes back as shares of samples."""

    def __init__(self, sight: Sight) -> None:
        super().__init__()
        if any(len(values) not in (0, sight.channels) for values in (sight.mean, sight.std)):
            raise ModelError(f"preprocessing: `mean` and `std` have {sight.channels} numbers each, one a channel")
        self.sight = sight
        self.normalise = Normalise(sight.mean or [0.0] * sight.channels, sight.std or [1.0] * sight.channels)

    def forward(self, batch: Tensor) -> Tensor:
        """(B, K S S + 5) to slots (B, D * 6 + 1); with slots behind it to (N, C), in training (N, C + 1)."""
        pixels, side = self.sight.pixels, self.sight.side
        pictures = self.normalise(batch[:, :pixels].reshape(len(batch), -1, side, side))
        window = batch[:, pixels : pixels + items.WINDOW]
        asked = batch[:, pixels + items.WINDOW :]
        pictures = pictures.contiguous(memory_format=torch.channels_last)
        if not asked.shape[1]:
            return self._slots(self.seen(pictures), window)
        slots = items.into_window(asked, window)
        if items.as_they_stand(asked):
            return self.judged(pictures, slots)
        return self.learned(pictures, slots, asked)

    @abstractmethod
    def seen(self, pictures: Tensor) -> list[tuple[Tensor, Tensor]]:
        """(boxes (n, 4) as shares of the picture, logits (n, C)) of each picture, before suppression."""

    @abstractmethod
    def judged(self, pictures: Tensor, slots: Tensor) -> Tensor:
        """Logits (N, C) of each box of each picture, and after them those of everywhere else."""

    @abstractmethod
    def learned(self, pictures: Tensor, slots: Tensor, asked: Tensor) -> Tensor:
        """Logits of M items a picture (B * M, C), in training (B * M, C + 1) with what each costs beside its class."""

    def match(self, slots: Tensor) -> items.Match:
        """The items of pictures with these boxes."""
        return items.match(slots, items.anchors(self.sight.side, self.sight.ratios), self.sight.items)

    def _slots(self, seen: list[tuple[Tensor, Tensor]], window: Tensor) -> Tensor:
        sight = self.sight
        said = window.new_full((len(seen), sight.boxes, SLOT), -1.0)
        for row, (boxes, logits) in enumerate(seen):
            score, number = logits.softmax(dim=1)[:, 1:].max(dim=1)
            boxes = boxes.clamp(0, 1)
            kept = ((score >= sight.least) & (boxes[:, 2:] > boxes[:, :2]).all(dim=1)).nonzero()[:, 0]
            kept = kept[score[kept].argsort(descending=True, stable=True)]
            if sight.suppression is not None:
                kept = kept[batched_nms(boxes[kept], score[kept], number[kept], sight.suppression)]
            kept = kept[: sight.boxes]
            moved = items.out_of_window(boxes[kept][None], window[row : row + 1])[0]
            said[row, : len(kept)] = torch.cat([moved, number[kept, None] + 1.0, score[kept, None]], dim=1)
        return torch.cat([said.flatten(1), said.new_full((len(said), 1), ANSWERS)], dim=1)


class SSD(Detector):
    """A light single-shot detector: each anchor says its classes and its place.

    Liu et al., "SSD: Single Shot MultiBox Detector", 2016 (arXiv:1512.02325), with one head for all levels of a feature
    pyramid, so that few boxes teach all sizes.
    """

    def __init__(self, sight: Sight, outputs: int, width: int) -> None:
        super().__init__(sight)
        half, wide = max(NARROWEST, width // 2), 2 * width
        self.stem = nn.Sequential(_convolution(sight.channels, half, 2), Residual(half, width, 2))
        self.levels = nn.ModuleList([Residual(width, wide, 2), Residual(wide, wide, 2), Residual(wide, wide, 2)])
        self.pyramid = FeaturePyramidNetwork([wide] * len(self.levels), wide)
        self.shared = _convolution(wide, wide)
        each = len(items.SIZES) * len(sight.ratios)
        self.head = SSDHead([wide], [each], outputs)
        bias = torch.full((each, outputs), EMPTY)
        bias[:, 0] = 0.0
        self.head.classification_head.module_list[0].bias.data = bias.flatten()

    def raw(self, pictures: Tensor) -> tuple[Tensor, Tensor]:
        """Logits (B, A, C) and offsets (B, A, 4) of the anchors."""
        found: OrderedDict[str, Tensor] = OrderedDict()
        level = self.stem(pictures)
        for number, step in enumerate(self.levels):
            level = step(level)
            found[str(number)] = level
        said = [self.head([self.shared(level)]) for level in self.pyramid(found).values()]
        logits, offsets = (
            torch.cat([part[name] for part in said], dim=1) for name in ("cls_logits", "bbox_regression")
        )
        return logits, offsets

    @property
    def _anchors(self) -> Tensor:
        return items.anchors(self.sight.side, self.sight.ratios).to(next(self.parameters()).device)

    def seen(self, pictures: Tensor) -> list[tuple[Tensor, Tensor]]:
        """Every anchor's box."""
        logits, offsets = self.raw(pictures)
        anchors = self._anchors
        return [(items.CODER.decode_single(row, anchors), said) for row, said in zip(offsets, logits, strict=True)]

    def judged(self, pictures: Tensor, slots: Tensor) -> Tensor:
        """Of each box what the anchor says that it overlaps most, and of the rest the mean over anchors without one."""
        logits, _ = self.raw(pictures)
        answers = []
        for row, said in zip(slots, logits, strict=True):
            overlap = box_iou(row[items.there(row), :4], self._anchors)
            answers += [said[overlap.argmax(dim=1)], _rest(said, overlap)]
        return torch.cat(answers)

    def learned(self, pictures: Tensor, slots: Tensor, asked: Tensor) -> Tensor:
        """The class of each item is left to who asks; its place costs what `place_cost` says."""
        logits, offsets = self.raw(pictures)
        match, size = self.match(slots), self.sight.items
        chosen = match.items(1.0 - logits.detach().softmax(dim=2)[..., 0], size)
        answers = logits.gather(1, chosen[..., None].expand(-1, -1, logits.shape[2]))
        if not self.training:
            return answers.flatten(0, 1)
        said = offsets.gather(1, chosen[..., None].expand(-1, -1, 4))
        cost = self.sight.place * place_cost(said, self._anchors[chosen], slots, match.slots(size))
        return torch.cat([answers, cost[..., None]], dim=2).flatten(0, 1)


def place_cost(offsets_BM4: Tensor, anchors_BM4: Tensor, slots_BD6: Tensor, slots_BM: Tensor) -> Tensor:
    """What the places of items cost (B, M): those on a box, by how far off they are and by how sure the box is; else 0.

    Sum over the four offsets of the smooth L1 distance (Girshick 2015) to the box's own, times its score: of a true box
    1, of a teacher's its own confidence, so that the student learns the place of what the teacher sees (Chen et al.,
    "Learning Efficient Object Detection Models with Knowledge Distillation", 2017, section 3.3).
    """
    index = slots_BM.clamp(min=0)[..., None].expand(-1, -1, SLOT)
    box = slots_BD6.gather(1, index)
    on = slots_BM >= 0
    wanted = items.CODER.encode_single(
        torch.where(on[..., None], box[..., :4], anchors_BM4).flatten(0, 1), anchors_BM4.flatten(0, 1)
    )
    off = functional.smooth_l1_loss(offsets_BM4, wanted.reshape_as(offsets_BM4), reduction="none").sum(dim=2)
    return torch.where(on, off * box[..., 5], torch.zeros_like(off))


class TwoStage(Detector):
    """A Faster R-CNN of torchvision's, by its parts, so that each box keeps its whole distribution.

    Ren et al., "Faster R-CNN", 2015 (arXiv:1506.01497). It learns its places and classes itself: picture by picture,
    all of its losses are what the picture's items cost. So it learns from truth, and not from a teacher.
    """

    def __init__(self, sight: Sight, network: FasterRCNN) -> None:
        super().__init__(sight)
        self.backbone, self.rpn, self.roi_heads = network.backbone, network.rpn, network.roi_heads

    def _features(self, pictures: Tensor) -> OrderedDict[str, Tensor]:
        found = self.backbone(pictures)
        return OrderedDict([("0", found)]) if isinstance(found, Tensor) else found

    def _images(self, pictures: Tensor) -> ImageList:
        return ImageList(pictures, [(self.sight.side, self.sight.side)] * len(pictures))

    def _heads(self, features: OrderedDict[str, Tensor], boxes: list[Tensor]) -> tuple[Tensor, Tensor]:
        """(logits (n, C), offsets (n, C * 4)) of all boxes, in pixels."""
        heads, sides = self.roi_heads, [(self.sight.side, self.sight.side)] * len(boxes)
        logits, offsets = heads.box_predictor(heads.box_head(heads.box_roi_pool(features, boxes, sides)))
        return logits, offsets

    def _proposed(self, pictures: Tensor) -> tuple[OrderedDict[str, Tensor], list[Tensor]]:
        features = self._features(pictures)
        proposals, _ = self.rpn(self._images(pictures), features)
        return features, proposals

    def seen(self, pictures: Tensor) -> list[tuple[Tensor, Tensor]]:
        """Every proposal, at the place of its likeliest class."""
        features, proposals = self._proposed(pictures)
        logits, offsets = self._heads(features, proposals)
        places = self.roi_heads.box_coder.decode(offsets, proposals)
        best = logits[:, 1:].argmax(dim=1) + 1
        boxes = places[torch.arange(len(places)), best] / self.sight.side
        sizes = [len(row) for row in proposals]
        return list(zip(boxes.split(sizes), logits.split(sizes), strict=True))

    def judged(self, pictures: Tensor, slots: Tensor) -> Tensor:
        """Its second stage at each box, and for the rest the mean over proposals without one."""
        features, proposals = self._proposed(pictures)
        boxes = [row[items.there(row), :4] for row in slots]
        places = [torch.cat([own * self.sight.side, others]) for own, others in zip(boxes, proposals, strict=True)]
        said = self._heads(features, places)[0].split([len(row) for row in places])
        answers = []
        for own, others, logits in zip(boxes, proposals, said, strict=True):
            answers += [logits[: len(own)], _rest(logits[len(own) :], box_iou(own, others / self.sight.side))]
        return torch.cat(answers)

    def learned(self, pictures: Tensor, slots: Tensor, asked: Tensor) -> Tensor:
        """Items whose class costs nothing, and which share what the picture costs."""
        if bool((asked[:, -1] == TAUGHT).any()):
            raise ModelError("a two-stage detector learns from true boxes alone: give the student an SSD (ssd-light)")
        match, size, side = self.match(slots), self.sight.items, self.sight.side
        features = self._features(pictures)
        if not self.training:
            chosen = match.items(None, size)
            places = items.anchors(side, self.sight.ratios)[chosen].clamp(0, 1) * side
            return self._heads(features, list(places.to(pictures.device)))[0]
        on = match.slots(size)
        classes = torch.where(on >= 0, slots[..., 4].gather(1, on.clamp(min=0)), 0.0).long()
        outputs = self.roi_heads.box_predictor.cls_score.out_features
        settled = CERTAIN * functional.one_hot(classes.flatten(), outputs).to(pictures.dtype)
        costs = torch.stack([self._cost(pictures, features, slots, row) for row in range(len(slots))])
        return torch.cat([settled, costs.repeat_interleave(size)[:, None]], dim=1)

    def _cost(self, pictures: Tensor, features: OrderedDict[str, Tensor], slots: Tensor, row: int) -> Tensor:
        """The losses of both stages on one picture."""
        own = OrderedDict((name, level[row : row + 1]) for name, level in features.items())
        present = slots[row][items.there(slots[row])]
        target = {"boxes": present[:, :4] * self.sight.side, "labels": present[:, 4].long()}
        image = self._images(pictures[row : row + 1])
        proposals, first = self.rpn(image, own, [target])
        _, second = self.roi_heads(own, proposals, image.image_sizes, [target])
        return torch.stack([*first.values(), *second.values()]).sum()


def _rest(logits: Tensor, overlap: Tensor) -> Tensor:
    """What is said of everywhere else (1, C): mean log-probabilities over places (n) that no box (m, n) overlaps by
    half; where there is no such place, the background for certain."""
    free = (overlap < items.ON).all(dim=0)
    if not bool(free.any()):
        return CERTAIN * functional.one_hot(torch.zeros(1, dtype=torch.long), logits.shape[1]).to(logits)
    return logits[free].log_softmax(dim=1).mean(dim=0, keepdim=True)


class _Pyramid(nn.Module):
    """A small residual network with a feature pyramid: levels of 8 and 16 pixels a step."""

    def __init__(self, channels: int, width: int) -> None:
        super().__init__()
        half = max(NARROWEST, width // 2)
        self.stem = nn.Sequential(_convolution(channels, half, 2), Residual(half, width, 2))
        self.levels = nn.ModuleList([Residual(width, 2 * width, 2), Residual(2 * width, 4 * width, 2)])
        self.out_channels = 2 * width
        self.pyramid = FeaturePyramidNetwork([2 * width, 4 * width], self.out_channels)

    def forward(self, pictures: Tensor) -> OrderedDict[str, Tensor]:
        """(B, K, S, S) to two levels, the finer one first."""
        found: OrderedDict[str, Tensor] = OrderedDict()
        level = self.stem(pictures)
        for number, step in enumerate(self.levels):
            level = step(level)
            found[str(number)] = level
        levels: OrderedDict[str, Tensor] = self.pyramid(found)
        return levels


def _small(sight: Sight, outputs: int, width: int) -> FasterRCNN:
    backbone = _Pyramid(sight.channels, width)
    return FasterRCNN(
        backbone,
        rpn_anchor_generator=AnchorGenerator(((16, 28), (40, 64)), ((0.5, 1.0, 2.0),) * 2),
        box_roi_pool=MultiScaleRoIAlign(["0", "1"], 5, 2),
        box_head=TwoMLPHead(25 * backbone.out_channels, 4 * width),
        box_predictor=FastRCNNPredictor(4 * width, outputs),
        rpn_pre_nms_top_n_train=300,
        rpn_pre_nms_top_n_test=300,
        rpn_post_nms_top_n_train=100,
        rpn_post_nms_top_n_test=64,
        rpn_batch_size_per_image=64,
        box_batch_size_per_image=64,
    )


def detector(model: Part, outputs: int, sight: Sight) -> Detector:
    """A detector by name, freshly initialised. Raises ModelError."""
    library, slash, name = model.name.partition("/")
    if slash and library == "torchvision":
        return TwoStage(sight, _torchvision(name, model, outputs, sight))
    widths = {"faster-rcnn-small": 32, "ssd-light": 32}
    if model.name not in widths:
        known = [*widths, "torchvision/NAME"]
        raise ModelError(f"no model is called '{model.name}'{did_you_mean(model.name, known)}")
    width = model.settings.get("width", widths[model.name])
    if set(model.settings) - {"width"} or type(width) is not int or not 16 <= width <= 512 or width % 16:
        found = ", ".join(f"{key}: {value}" for key, value in model.settings.items())
        raise ModelError(f"model '{model.name}' takes a `width` (channels, a multiple of 16 up to 512), found {found}")
    return SSD(sight, outputs, width) if model.name == "ssd-light" else TwoStage(sight, _small(sight, outputs, width))


def _torchvision(name: str, model: Part, outputs: int, sight: Sight) -> FasterRCNN:
    from torchvision import models as zoo

    names = [known for known in zoo.list_models(module=zoo.detection) if known.startswith("fasterrcnn")]
    if name not in names:
        raise ModelError(f"torchvision has no Faster R-CNN '{name}'{did_you_mean(name, names)}")
    if sight.channels != 3:
        raise ModelError(f"model '{model.name}' takes pictures with 3 channels: set `channels: 3` in the task")
    settings: dict[str, Any] = {"weights": None, "weights_backbone": None, **model.settings}
    try:
        built: FasterRCNN = zoo.get_model(name, num_classes=outputs, **settings)
    except Exception as error:
        raise ModelError(f"model '{model.name}' cannot be built: {error!r}") from error
    return built
