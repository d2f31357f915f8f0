"""Examples with boxes: scenes whose boxes are exact, tiles whose boxes were cut with them. Data is made here."""

from __future__ import annotations

import io
import json

import numpy as np
from PIL import Image

from stages.domains.examples import EXAMPLES
from stages.domains.examples._crowns import TILE, tiles
from stages.domains.examples._scenes import EMPTY, SIDE, scenes
from tests.domains.test_box_sources import OBJECT, VOC

COUNT = 120


def digits() -> tuple[np.ndarray, np.ndarray]:
    """Rings and strokes of 8 px, in names' order."""
    image = np.zeros((COUNT, 8, 8, 1), np.uint8)
    image[::2, 1:7, 2:6] = 200
    image[::2, 3:5, 3:5] = 0
    image[1::2, :, 3:5] = 16
    return image, np.array([str(number % 10) for number in range(COUNT)])


def test_boxes_of_scenes_are_tight_around_masks_and_each_digit_stands_once() -> None:
    found = scenes(*digits())
    names: list[str] = []
    for picture, mask, text in zip(found["image"], found["mask"], found["boxes"], strict=True):
        label = json.loads(text)
        assert (label["width"], label["height"], picture.shape) == (SIDE, SIDE, (SIDE, SIDE, 1))
        free = mask.copy()
        for name, left, top, right, bottom in label["boxes"]:
            part = mask[top:bottom, left:right] == 1 + int(name)
            assert part.any(axis=0)[[0, -1]].all()
            assert part.any(axis=1)[[0, -1]].all()
            assert picture[top:bottom, left:right][part].min() > 40
            free[top:bottom, left:right] = 0
            names.append(name)
        assert not free.any(), "no ink outside of boxes"
    assert len(names) > 0.9 * COUNT
    assert max(names.count(name) for name in set(names)) <= COUNT // 10
    assert [not json.loads(text)["boxes"] for text in found["boxes"]].count(True) == len(found["boxes"]) // EMPTY


def test_scenes_are_a_function_of_digits_and_seed() -> None:
    one, same, other = (scenes(*digits(), seed=seed) for seed in (0, 0, 1))
    assert all(np.array_equal(one[name], same[name]) for name in one)
    assert one["boxes"].tolist() != other["boxes"].tolist()


def test_tiles_keep_what_lies_in_them() -> None:
    pixels = np.random.default_rng(0).integers(0, 255, (TILE + 30, 2 * TILE, 3), np.uint8)
    sink = io.BytesIO()
    Image.fromarray(pixels).save(sink, "png")
    boxes = [(11, 21, 60, 80), (181, 1, 210, 20), (196, 101, 240, 140), (1, 201, 30, 230)]
    objects = "".join(OBJECT.format("Dead", *box) for box in boxes)
    found = tiles(sink.getvalue(), VOC.format("a.png", 2 * TILE, TILE + 30, objects).encode())
    assert np.array_equal(found["image"], np.stack([pixels[:TILE, :TILE], pixels[:TILE, TILE:]]))
    left, right = (json.loads(text) for text in found["boxes"])
    assert left == {
        "width": TILE,
        "height": TILE,
        "boxes": [["tree", 10, 20, 60, 80], ["tree", 180, 0, 200, 20]],
    }
    assert right["boxes"] == [["tree", 0, 0, 10, 20], ["tree", 0, 100, 40, 140]]


def test_examples_with_boxes_name_their_licence_and_columns() -> None:
    for name in ("mnist-scenes", "uci-scenes", "crowns-yell", "crowns-south"):
        example = EXAMPLES.get(name)
        assert example.name == name
        assert set(example.columns) >= {"image", "boxes"}
        assert "CC" in example.licence
