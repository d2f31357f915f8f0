"""Boxes as truth and as numbers beside a picture. Numpy only, since every ingest worker does this.

A picture's boxes stand in slots of six numbers: left, top, right and bottom as shares of the picture, the number of the
class (0 is the background), and a score in [0, 1]; a slot without a box holds -1. Behind the slots stands one number
that tells what they are: TRUTH, ANSWERS or TAUGHT.

Shapes: B pictures, D slots of each.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from stages.tasks.base import BadRow
from stages.truth import Truth

SLOT = 6
TRUTH, ANSWERS, TAUGHT = 0.0, 1.0, 2.0
"""True boxes, what a model says it sees, what a teacher said."""
STORED = np.dtype("<f4")
BACKGROUND = "background"


def code_boxes(value: Any, classes: Sequence[str], most: int) -> bytes:
    """A source's label as bytes: float32 (boxes, 5), the class's number and four shares, each box once.

    The label is a mapping, or JSON, of `width` and `height` of the picture in pixels and `boxes`, a list of class and
    left, top, right, bottom in pixels; an empty list is a picture without boxes. What reaches over the picture's rim is
    cut off there; a box that stands twice counts once. Raises BadRow, counting what is wrong.
    """
    try:
        label = json.loads(value) if isinstance(value, str | bytes) else value
        side_2 = np.array([float(label["width"]), float(label["height"])])
        names = [str(box[0]) for box in label["boxes"]]
        places = np.array([[float(number) for number in box[1:]] for box in label["boxes"]]).reshape(len(names), 4)
        if not (side_2 > 0).all():
            raise ValueError("a picture without a size")
    except (ValueError, TypeError, KeyError, IndexError):
        raise BadRow(
            "the label is no JSON of width, height and boxes, each [class, left, top, right, bottom]"
        ) from None
    if unknown := sorted(set(names) - set(classes)):
        raise BadRow(f"the label has boxes of {len(unknown)} unknown classes (first: '{unknown[0]}')")
    coded = np.column_stack([np.array([classes.index(name) for name in names], np.float64), places])
    coded[:, 1:] /= np.tile(side_2, 2)
    finite = np.isfinite(coded).all(axis=1)
    flat = ~(coded[:, 3:] > coded[:, 1:3]).all(axis=1) & finite
    coded[:, 1:] = coded[:, 1:].clip(0, 1)
    outside = ~(coded[:, 3:] > coded[:, 1:3]).all(axis=1) & finite & ~flat
    counted = ((~finite, "are no numbers"), (flat, "have no area"), (outside, "lie outside the picture"))
    faults = [f"{int(bad.sum())} {what}" for bad, what in counted if bad.any()]
    if faults:
        raise BadRow(f"of {len(coded)} boxes {', '.join(faults)}")
    once = np.array(list(dict.fromkeys(map(tuple, coded.astype(STORED).tolist()))), STORED).reshape(-1, 5)
    if len(once) > most:
        raise BadRow(f"the picture has {len(once)} boxes, the task's `boxes` allows {most}")
    return once.tobytes()


def decode_boxes(value: bytes) -> NDArray[np.float32]:
    """What `code_boxes` made: (boxes, 5)."""
    return np.frombuffer(value, STORED).reshape(-1, 5)


def true_slots(truth: Truth, slots: int) -> NDArray[np.float32]:
    """True boxes as (B, D * 6 + 1), each with a score of 1; rows without truth have none."""
    rows = [decode_boxes(value) if isinstance(value, bytes) else np.empty((0, 5), STORED) for value in truth]
    return packed_slots([np.column_stack([row[:, 1:], row[:, 0], np.ones(len(row))]) for row in rows], slots, TRUTH)


def packed_slots(rows: Sequence[NDArray[Any]], slots: int, kind: float) -> NDArray[np.float32]:
    """Boxes (n, 6) of each picture as (B, D * 6 + 1); those beyond the slots are left out."""
    packed = np.full((len(rows), slots, SLOT), -1, np.float32)
    for row, boxes in enumerate(rows):
        packed[row, : len(boxes)] = boxes[:slots]
    return np.column_stack([packed.reshape(len(rows), -1), np.full(len(rows), kind, np.float32)])


def unpacked_slots(said: NDArray[Any]) -> list[NDArray[np.float32]]:
    """What `packed_slots` packed, picture by picture (n, 6)."""
    rows = np.asarray(said, np.float32)[:, :-1].reshape(len(said), -1, SLOT)
    return [row[row[:, 5] >= 0] for row in rows]


def recalled_slots(items: NDArray[Any], stored: Mapping[str, NDArray[Any]], slots: int) -> NDArray[np.float32]:
    """A teacher's boxes from its labels: all of a picture's but the last, which stands for everywhere else."""
    ends = np.cumsum(items)
    every = np.column_stack([stored["box"], stored["said"], stored["score"]])
    rows = [every[end - count : end - 1] for end, count in zip(ends, items, strict=True)]
    return packed_slots(rows, slots, TAUGHT)


def overlaps(one_N4: NDArray[Any], other_M4: NDArray[Any]) -> NDArray[np.float64]:
    """Intersection over union (N, M) of boxes as left, top, right, bottom."""
    one, other = one_N4.astype(np.float64), other_M4.astype(np.float64)
    low, high = np.maximum(one[:, None, :2], other[None, :, :2]), np.minimum(one[:, None, 2:], other[None, :, 2:])
    both = (high - low).clip(0).prod(axis=2)
    area_N, area_M = ((boxes[:, 2:] - boxes[:, :2]).prod(axis=1) for boxes in (one, other))
    whole = area_N[:, None] + area_M[None] - both
    found: NDArray[np.float64] = np.divide(both, whole, out=np.zeros_like(both), where=whole > math.ulp(0.0))
    return found
