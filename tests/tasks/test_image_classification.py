"""Pictures: packing, batches, augmentation, networks."""

from __future__ import annotations

from contextlib import suppress
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from pydantic import ValidationError
from torch.nn import functional

from schemas.base import Part
from schemas.errors import ModelError
from stages.random import step_draws
from stages.tasks import get_task, task_code
from stages.tasks._augmentation import affine, boxes, maps
from stages.tasks.base import BadRow
from stages.tasks.image_classification import (
    ImageAugmentation,
    ImageClassification,
    ImageConfig,
    ImagePrepare,
    ImagePreprocessing,
)

USER_CODE = Path(__file__).parent.parent / "user_code"
GREY = ImageClassification(ImageConfig(image_size=8, channels=1))
COLOUR = ImageClassification(ImageConfig(image_size=8, channels=3))
STRONG = ImageAugmentation(rotate=30, translate=0.2, scale=(0.7, 1.3), shear=15, flip=True)


def pixels(seed: int, *shape: int) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)


def png(array: np.ndarray, form: str = "PNG") -> bytes:
    file = BytesIO()
    Image.fromarray(array.squeeze()).save(file, form)
    return file.getvalue()


def batch_of(task: ImageClassification, pictures: Any, **preprocessing: Any) -> torch.Tensor:
    return task.batch({"image": pictures}, ImagePreprocessing(**preprocessing))


# --- packing -----------------------------------------------------------------------------------------------------


def test_a_file_stays_as_it_is_and_equals_its_pixels_in_content() -> None:
    array = pixels(0, 9, 7, 3)
    file = COLOUR.pack({"image": png(array)}, ImagePrepare())
    raw = COLOUR.pack({"image": array}, ImagePrepare())
    assert file.values["image"] == png(array)
    assert (file.columns["image"].storage, raw.columns["image"].storage) == ("encoded", "raw")
    assert raw.columns["image"].shape == (9, 7, 3)
    assert raw.values["image"] == array.tobytes()
    assert file.content == raw.content


def test_content_knows_the_shape() -> None:
    flat = pixels(1, 2, 8, 1)
    assert GREY.pack({"image": flat}, ImagePrepare()).content != (
        GREY.pack({"image": flat.reshape(4, 4, 1)}, ImagePrepare()).content
    )


def test_centre_crop_is_stored_raw() -> None:
    array = pixels(2, 10, 12, 1)
    sample = GREY.pack({"image": png(array)}, ImagePrepare(center_crop=6))
    assert sample.columns["image"].shape == (6, 6, 1)
    assert sample.values["image"] == array[2:8, 3:9].tobytes()


@pytest.mark.parametrize(
    ("picture", "reason"),
    [
        (None, "empty"),
        (b"", "empty"),
        (b"not a picture", "not an image"),
        (png(pixels(0, 9, 9))[:-30], "not an image"),
        (pixels(0, 9, 9, 3), "shape 9x9x3, not height x width x 1 channel"),
        (pixels(0, 9, 9).astype(np.float32), "float32, not uint8"),
        (np.zeros((0, 4), dtype=np.uint8), "empty"),
        (png(np.zeros((4, 4), dtype=np.uint16)), "8 bits a channel"),
    ],
)
def test_bad_pictures_say_why(picture: Any, reason: str) -> None:
    with pytest.raises(BadRow, match=reason):
        GREY.pack({"image": picture}, ImagePrepare())


def test_a_picture_smaller_than_the_crop_is_bad() -> None:
    with pytest.raises(BadRow, match="smaller than the centre crop of 6"):
        GREY.pack({"image": pixels(0, 5, 9)}, ImagePrepare(center_crop=6))


@settings(deadline=None)
@given(st.integers(0, 400), st.integers(0, 255), st.sampled_from(["PNG", "JPEG", "GIF", "BMP"]))
def test_a_damaged_file_is_a_sample_or_a_bad_row(place: int, value: int, form: str) -> None:
    data = bytearray(png(pixels(3, 12, 12), form))
    data[place % len(data)] = value
    with suppress(BadRow):  # and nothing else
        GREY.pack({"image": bytes(data)}, ImagePrepare())


@pytest.mark.parametrize(("label", "name"), [("cat", "cat"), (3, "3"), (np.int64(3), "3"), (3.0, "3"), ("3", "3")])
def test_class_names(label: Any, name: str) -> None:
    assert GREY.class_name(label) == name
    assert GREY.pack_truth(label, ["cat", "3"]) == ["cat", "3"].index(name)


@pytest.mark.parametrize("label", [None, "", 3.5, float("nan"), b"3", [1]])
def test_what_is_no_label_is_bad(label: Any) -> None:
    with pytest.raises(BadRow, match="neither text nor a whole number"):
        GREY.class_name(label)


def test_a_label_of_no_class_is_bad() -> None:
    with pytest.raises(BadRow, match="'7' is none of the 2 classes"):
        GREY.pack_truth(7, ["0", "1"])


# --- batches -----------------------------------------------------------------------------------------------------


def test_pictures_of_the_right_size_are_only_divided() -> None:
    array = pixels(4, 3, 8, 8, 3)
    found = batch_of(COLOUR, array)
    assert found.dtype == torch.float32
    assert torch.equal(found, torch.from_numpy(array).permute(0, 3, 1, 2).float() / 255)
    assert torch.equal(batch_of(COLOUR, array, channel_order="bgr"), found.flip(1))


@settings(deadline=None, max_examples=30)
@given(
    st.lists(st.tuples(st.integers(3, 20), st.integers(3, 20)), min_size=1, max_size=4),
    st.sampled_from(["bilinear", "bicubic", "nearest"]),
    st.sampled_from([None, 0.5, 0.875, 1.0]),
)
def test_a_row_depends_on_itself_alone(sides: list[tuple[int, int]], interpolation: str, crop: float | None) -> None:
    """Alone or among others, raw or as a file: the same to the bit."""
    arrays = [pixels(number, *side, 3) for number, side in enumerate(sides)]
    options: dict[str, Any] = {"interpolation": interpolation, "crop": crop}
    together = batch_of(COLOUR, [png(array) for array in arrays], **options)
    assert together.shape == (len(sides), 3, 8, 8)
    assert float(together.min()) >= 0
    assert float(together.max()) <= 1
    for row, array in enumerate(arrays):
        assert torch.equal(batch_of(COLOUR, array[None], **options)[0], together[row])


def test_resizing_is_that_of_pillow() -> None:
    """To one step of 8 bits, by which Pillow rounds."""
    array = pixels(5, 20, 14, 1)
    for interpolation, mode in (("bilinear", Image.Resampling.BILINEAR), ("bicubic", Image.Resampling.BICUBIC)):
        wanted = np.asarray(Image.fromarray(array[:, :, 0]).resize((8, 8), mode)) / 255
        found = batch_of(GREY, array[None], interpolation=interpolation)[0, 0].numpy()
        assert np.abs(found - wanted).max() <= 1.01 / 255


def test_crop_keeps_the_share_of_the_shorter_side() -> None:
    array = np.zeros((1, 16, 32, 1), dtype=np.uint8)
    array[:, 4:12, 12:20] = 255  # half of the shorter side, in the centre
    assert float(batch_of(GREY, array, crop=0.5, interpolation="nearest").min()) == 1.0
    assert float(batch_of(GREY, array, crop=1.0, interpolation="nearest").mean()) == 0.25


def test_own_maximum_makes_strokes_alike() -> None:
    task = ImageClassification(ImageConfig(image_size=8, channels=1, scale="max"))
    array = pixels(6, 2, 20, 20, 1)
    array[1] = 0
    found = batch_of(task, array)
    assert float(found[0].max()) == 1.0
    assert float(found[1].max()) == 0.0
    halved = batch_of(task, (array // 2 * 2 // 2).astype(np.uint8))
    assert torch.allclose(halved, batch_of(task, array // 2 * 2), atol=1e-6)


# --- augmentation ------------------------------------------------------------------------------------------------


def augmented(
    pictures: Any, augmentation: ImageAugmentation, seed: int, task: ImageClassification = GREY, **preprocessing: Any
) -> torch.Tensor:
    draws = step_draws(np.random.default_rng(seed), len(pictures))
    return task.augmented({"image": pictures}, ImagePreprocessing(**preprocessing), augmentation, draws)


def test_augmentation_depends_on_its_draws_alone() -> None:
    pictures = pixels(0, 5, 8, 8, 1)
    before = pictures.copy()
    torch.manual_seed(1)
    first = augmented(pictures, STRONG, 7)
    torch.manual_seed(2)
    assert torch.equal(first, augmented(pictures, STRONG, 7))
    assert not torch.equal(first, augmented(pictures, STRONG, 8))
    assert np.array_equal(pictures, before)
    assert not torch.equal(augmented(np.stack([pictures[0]] * 2), STRONG, 7)[0], first[1])


def test_nothing_set_changes_nothing_and_draws_nothing() -> None:
    pictures, rng = pixels(1, 2, 8, 8, 1), np.random.default_rng(0)
    found = GREY.augmented({"image": pictures}, ImagePreprocessing(), ImageAugmentation(), step_draws(rng, 2))
    assert torch.equal(found, batch_of(GREY, pictures))
    assert rng.random() == np.random.default_rng(0).random()


def test_each_map_does_what_it_says() -> None:
    """Against what torchvision gives for the parameters that were drawn."""
    from torchvision.transforms.v2 import InterpolationMode
    from torchvision.transforms.v2.functional import affine as reference

    smooth = functional.interpolate(
        torch.rand(1, 1, 4, 4, generator=torch.Generator().manual_seed(3)), 32, mode="bicubic"
    )
    for settings_ in (
        ImageAugmentation(rotate=30),
        ImageAugmentation(translate=0.25),
        ImageAugmentation(scale=(0.6, 1.6)),
        ImageAugmentation(shear=20),
    ):
        draw = np.random.default_rng(11).random((1, 6))
        signed = 2 * draw[0] - 1
        wanted = reference(
            smooth,
            angle=settings_.rotate * signed[0],
            # A positive draw looks to the right of an output pixel, so the picture moves to the left.
            translate=[-settings_.translate * signed[1] * 32, -settings_.translate * signed[2] * 32],
            scale=settings_.scale[0] + (settings_.scale[1] - settings_.scale[0]) * draw[0, 3],
            shear=[settings_.shear * signed[4], 0.0],
            interpolation=InterpolationMode.BILINEAR,
        )
        found = affine(smooth, maps(settings_, draw))
        inner = (slice(None), slice(None), slice(6, -6), slice(6, -6))
        assert float((found - wanted)[inner].abs().max()) < 0.02, settings_


def test_flip_mirrors_about_half() -> None:
    pictures = pixels(3, 200, 8, 8, 1)
    found, plain = augmented(pictures, ImageAugmentation(flip=True), 0), batch_of(GREY, pictures)
    mirrored = [torch.allclose(row, old.flip(2), atol=1e-5) for row, old in zip(found, plain, strict=True)]
    same = [torch.allclose(row, old, atol=1e-5) for row, old in zip(found, plain, strict=True)]
    assert sum(mirrored) + sum(same) == 200
    assert 70 < sum(mirrored) < 130


def test_colours_change_as_torchvision_changes_them() -> None:
    from torchvision.transforms.v2 import functional as reference

    pictures, settings_ = pixels(4, 3, 8, 8, 3), ImageAugmentation(brightness=0.5, contrast=0.4, saturation=0.9)
    factors = 1 + np.array([0.5, 0.4, 0.9]) * (2 * np.random.default_rng(5).random((3, 3)) - 1)
    found, plain = augmented(pictures, settings_, 5, COLOUR), batch_of(COLOUR, pictures)
    for row, (brightness, contrast, saturation) in enumerate(factors):
        wanted = reference.adjust_contrast(reference.adjust_brightness(plain[row], brightness), contrast)
        wanted = reference.adjust_saturation(wanted, saturation)
        assert torch.allclose(found[row], wanted, atol=1e-5)
    assert torch.allclose(augmented(pictures, settings_, 5, COLOUR, channel_order="bgr"), found.flip(1), atol=1e-6)
    grey = augmented(pixels(4, 3, 8, 8, 1), ImageAugmentation(saturation=1.0), 5)
    assert torch.allclose(grey, batch_of(GREY, pixels(4, 3, 8, 8, 1)), atol=1e-6)


@given(st.integers(0, 99), st.floats(0.05, 1), st.floats(0.05, 1))
def test_a_cut_lies_in_the_picture_and_has_the_area_that_was_asked(seed: int, one: float, other: float) -> None:
    share = (min(one, other), max(one, other))
    box = boxes(np.random.default_rng(seed).random((50, 4)), share)
    assert (box >= 0).all()
    assert (box[:, :2] + box[:, 2:] <= 1 + 1e-12).all()
    inside = (box[:, 2:] < 1).all(axis=1)  # where no side had to be shortened
    area = box[:, 2] * box[:, 3]
    assert (area <= share[1] + 1e-9).all()
    assert (area[inside] >= share[0] - 1e-9).all()
    ratio = box[inside, 3] / box[inside, 2]
    assert ((ratio <= 4 / 3 + 1e-9) & (ratio >= 3 / 4 - 1e-9)).all()


def test_a_cut_is_made_before_resizing() -> None:
    """Models of two sizes see one part of the picture, each as sharp as its own input allows."""
    picture = pixels(6, 1, 64, 48, 1)
    box = boxes(np.random.default_rng(9).random((1, 4)), (0.2, 0.4))[0]
    top, left, height, width = box * [64, 48, 64, 48]
    rows = slice(round(top), round(top) + round(height))
    cut = picture[:, rows, round(left) : round(left) + round(width)]
    for size in (8, 24):
        found = augmented(picture, ImageAugmentation(crop=(0.2, 0.4)), 9, size=size, crop=0.5)
        assert torch.equal(found, batch_of(GREY, cut, size=size))


def test_a_cut_of_a_file_is_that_of_its_pixels() -> None:
    arrays = [pixels(7, 20, 14, 3), pixels(8, 11, 17, 3)]
    cut = ImageAugmentation(crop=(0.3, 0.8))
    files = augmented([png(array) for array in arrays], cut, 3, COLOUR)
    assert torch.equal(files, augmented(arrays, cut, 3, COLOUR))
    assert torch.equal(files[0], augmented(arrays[0][None], cut, 3, COLOUR)[0])


@pytest.mark.parametrize(
    "wrong",
    [
        {"rotate": 181},
        {"translate": 1.1},
        {"scale": (1.2, 0.8)},
        {"shear": 90},
        {"crop": (0.8, 0.2)},
        {"crop": (0, 1)},
        {"blur": 1},
    ],
)
def test_settings_out_of_bounds_are_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        ImageAugmentation(**wrong)


# --- networks ----------------------------------------------------------------------------------------------------

PARAMETERS = {"mobile-tiny": 9_034, "resnet-tiny": 151_738, "resnet-small": 696_042}


@pytest.mark.parametrize("name", ImageClassification.models)
def test_short_names(name: str) -> None:
    network = GREY.build(Part(name=name), 10, ImagePreprocessing())
    assert sum(weight.numel() for weight in network.parameters()) == PARAMETERS[name]
    assert network(GREY.fake_batch(2, ImagePreprocessing())).shape == (2, 10)


@pytest.mark.parametrize("name", ["timm/resnet10t", "torchvision/mobilenet_v3_small"])
def test_models_of_libraries(name: str) -> None:
    preprocessing = ImagePreprocessing(size=32)
    network = COLOUR.build(Part(name=name), 7, preprocessing).eval()
    assert network(COLOUR.fake_batch(2, preprocessing)).shape == (2, 7)


def test_timm_takes_grey_pictures_and_settings() -> None:
    part = Part.model_validate({"name": "timm/resnet10t", "drop_rate": 0.5})
    network: Any = GREY.build(part, 7, ImagePreprocessing()).network
    assert network.drop_rate == 0.5
    assert network.get_classifier().out_features == 7


def test_factories(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(USER_CODE)
    part = Part.model_validate({"name": "image_factories:group_norm", "width": 4})
    network: Any = GREY.build(part, 3, ImagePreprocessing()).network
    assert network.conv.out_channels == 4
    served = GREY.build(Part(name="image_factories:brightness"), 2, ImagePreprocessing(mean=(0.5,), std=(0.5,)))
    assert served(torch.ones(1, 1, 8, 8)).tolist() == [[1.0, 2.0]]


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("resnet-tinny", "did you mean 'resnet-tiny'"),
        ("timm/resnet180", "timm has no model 'resnet180'; did you mean 'resnet1"),
        ("torchvision/resnet181", "torchvision has no model .* did you mean 'resnet18'"),
        ("torchvision/resnet18", "set `channels: 3`"),
        ("nowhere_at_all:make", "there is no module 'nowhere_at_all'"),
        ("image_factories:brightnes", "did you mean 'brightness'"),
        ("image_factories:broken", "no weights on this machine"),
        ("image_factories:number", "returned int"),
    ],
)
def test_models_that_do_not_exist(monkeypatch: pytest.MonkeyPatch, name: str, message: str) -> None:
    monkeypatch.syspath_prepend(USER_CODE)
    with pytest.raises(ModelError, match=message):
        GREY.build(Part(name=name), 3, ImagePreprocessing())


def test_settings_that_a_model_does_not_take() -> None:
    for part in ({"name": "resnet-tiny", "depth": 3}, {"name": "timm/resnet10t", "depth": 3}):
        with pytest.raises(ModelError, match="depth"):
            GREY.build(Part.model_validate(part), 3, ImagePreprocessing())


def test_normalisation_is_in_the_model_and_not_in_its_weights() -> None:
    settings_ = ImagePreprocessing(mean=(0.1, 0.2, 0.3), std=(0.5, 0.6, 0.7))
    torch.manual_seed(0)
    normalised = COLOUR.build(Part(name="mobile-tiny"), 3, settings_).eval()
    torch.manual_seed(0)
    bare = COLOUR.build(Part(name="mobile-tiny"), 3, ImagePreprocessing()).eval()
    assert normalised.state_dict().keys() == bare.state_dict().keys()
    batch = COLOUR.fake_batch(2, settings_)
    by_hand = (batch - torch.tensor(settings_.mean).view(3, 1, 1)) / torch.tensor(settings_.std).view(3, 1, 1)
    assert torch.allclose(normalised(batch), bare(by_hand), atol=1e-6)
    with pytest.raises(ModelError, match="3 numbers each"):
        COLOUR.build(Part(name="mobile-tiny"), 3, ImagePreprocessing(mean=(0.5,)))


def test_score_without_rows_is_empty() -> None:
    assert GREY.score(np.zeros((0, 3), dtype=np.float32), np.zeros(0, dtype=np.int32), GREY.metrics) == {}


def test_the_tasks_code_counts_its_private_helpers(monkeypatch: pytest.MonkeyPatch) -> None:
    import stages.code

    part = Part.model_validate({"name": "image-classification", "image_size": 8})
    assert isinstance(get_task(part), ImageClassification)
    before = task_code(part)
    parse = stages.code._parse

    def changed(path: Path, mtime_ns: int, size: int) -> tuple[str, tuple[tuple[str, int], ...]]:
        found, imports = parse(path, mtime_ns, size)
        return ("0" * 32 if path.name == "_networks.py" else found), imports

    monkeypatch.setattr(stages.code, "_parse", changed)
    assert task_code(part) != before
