"""Segmentation: masks as truth, how masks and label grids travel with their pictures, what students learn of a grid."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn.functional import cross_entropy, kl_div

from schemas.base import Part
from schemas.errors import ModelError, SpecError
from stages.labels.decoded import DenseLabels
from stages.random import Draws, step_draws
from stages.students.methods import METHODS, get_method
from stages.students.methods.base import LabelledRows, SharedRows, Sizes
from stages.students.teacher import teacher_rows
from stages.tasks import get_task
from stages.tasks._masks import IGNORED, decode_mask, true_masks
from stages.tasks._segmentation_items import Grid
from stages.tasks.base import BadRow
from stages.tasks.segmentation import Segmentation
from stages.truth import as_truth
from tests.tasks.worlds.segmentation import CLASSES, SIDE, UNKNOWN, WORLD, png

ROWS = 6
SIZE = 48
CHANGES: list[dict[str, Any]] = [
    {"flip": True},
    {"crop": (0.4, 0.8)},
    {"rotate": 90},
    {"scale": (0.7, 1.4), "translate": 0.2, "shear": 10},
    {"flip": True, "crop": (0.5, 0.9), "rotate": 30},
]
SETTINGS = {
    "combined": {"parts": [{"name": "soft"}, {"name": "margin"}]},
    "mutual": {"peers": [{"name": "deeplab-light"}]},
}
"""Of methods that have no default."""


def task_of(**settings: Any) -> Segmentation:
    task = get_task(Part.model_validate({"name": "segmentation", **WORLD.config, **settings}))
    assert isinstance(task, Segmentation)
    return task


def coded(task: Segmentation, *masks: Any) -> Any:
    return as_truth([task.code_truth(mask) for mask in masks], coded=True)


def grid_of(task: Segmentation) -> Grid:
    return Grid(task.config.image_size, task.config.stride)


def draws(seed: int, rows: int = ROWS) -> Draws:
    return step_draws(np.random.default_rng(seed), rows)


def quarters(rows: int) -> tuple[np.ndarray, np.ndarray]:
    """Pictures whose four quarters have a grey each, and masks of which quarter it is: grey 60 + 60 * class."""
    mask = np.kron(np.array([[0, 1], [1, 2]]), np.ones((SIDE // 2, SIDE // 2), int)).astype(np.uint8)
    return np.repeat((60 + 60 * mask)[None, ..., None], rows, axis=0).astype(np.uint8), mask


# --- truth -------------------------------------------------------------------------------------------------------


@settings(max_examples=40, deadline=None)
@given(st.integers(1, 9), st.integers(1, 9), st.integers(0, 2**32 - 1))
def test_a_mask_comes_back_from_its_bytes(height: int, width: int, seed: int) -> None:
    random = np.random.default_rng(seed)
    mask = random.choice([0, 1, 2, UNKNOWN], (height, width)).astype(np.uint8)
    mask[0, 0] = 1
    code = task_of().code_truth(mask)
    assert np.array_equal(decode_mask(code), mask)
    assert task_of().code_truth(png(mask)) == code, "a file and an array of one mask are one truth"
    assert len(code) <= 8 + 5 * mask.size


def test_palettes_grey_and_black_and_white_are_class_numbers() -> None:
    from io import BytesIO

    from PIL import Image

    mask = np.array([[0, 1], [1, 1]], np.uint8)
    plain = task_of().code_truth(mask)
    paletted = Image.fromarray(mask, "L").convert("P")
    paletted.putpalette([9, 9, 9, 200, 0, 0, 0, 200, 0])
    paletted.putdata(mask.ravel().tolist())
    for image in (paletted, Image.fromarray(mask.astype(bool)), Image.fromarray(mask.astype(np.int32), "I")):
        sink = BytesIO()
        image.save(sink, "png" if image.mode != "I" else "tiff")
        assert task_of().code_truth(sink.getvalue()) == plain, image.mode


@pytest.mark.parametrize(
    ("label", "said"),
    [
        (
            np.array([[0, 3], [7, 1]], np.uint8),
            "class number 3 in 2 pixels, the task's 3 classes go from 0 to 2, and 255",
        ),
        (np.array([[-1, 0]]), "class number -1 in 1 pixels"),
        (np.full((2, 2), UNKNOWN, np.uint8), "tells nothing: each pixel is 255"),
        (np.zeros((2, 2, 3), np.uint8), "not a mask"),
        (np.zeros((2, 2)), "an array of float64"),
        (b"no picture", "the mask is no image that can be read"),
        (png(np.zeros((4, 4, 3), np.uint8)), "a picture of mode RGB: give class numbers"),
    ],
)
def test_what_is_no_mask_is_refused(label: Any, said: str) -> None:
    with pytest.raises(BadRow, match=said):
        task_of().code_truth(label)


def test_another_number_may_stand_for_what_does_not_count() -> None:
    task = task_of(ignore=0)
    assert decode_mask(task.code_truth(np.array([[0, 1, 2]], np.uint8))).tolist() == [[IGNORED, 1, 2]]


def test_masks_are_brought_to_the_models_size_by_their_middles() -> None:
    """As torch's `nearest-exact` does it, whatever the shape."""
    mask = np.random.default_rng(0).integers(0, 3, (50, 37)).astype(np.uint8)
    found = true_masks(coded(task_of(), mask), SIDE).reshape(SIDE, SIDE)
    wanted = torch.nn.functional.interpolate(torch.from_numpy(mask)[None, None].float(), SIDE, mode="nearest-exact")
    assert np.array_equal(found, wanted[0, 0].numpy())


def test_settings_that_make_no_sense_are_refused() -> None:
    for wrong in ({"classes": ["a", "a"]}, {"classes": ["a"]}, {"stride": 3}, {"image_size": 40}):
        with pytest.raises(SpecError):
            task_of(**wrong)


# --- masks and label grids travel with their pictures ------------------------------------------------------------


@pytest.mark.parametrize("change", CHANGES)
@pytest.mark.parametrize("stride", [1, 3])
def test_masks_go_where_the_picture_goes(change: dict[str, Any], stride: int) -> None:
    """Each item's class is that of the grey that the changed picture has there, but at the edges of the quarters."""
    task = task_of(stride=stride, image_size=SIZE)
    image, mask = quarters(ROWS)
    batch = task.augmented({"image": image}, task.Preprocessing(), task.Augmentation(**change), draws(1))
    forced = task.forced(batch, task.asked(coded(task, *[mask] * ROWS)))
    first, numbers = stride // 2, forced[:, -grid_of(task).items :]
    grey = batch[:, : SIZE**2].reshape(ROWS, SIZE, SIZE)[:, first::stride, first::stride].flatten(1) * 255
    clear = ((grey - 60) / 60 - ((grey - 60) / 60).round()).abs() < 0.02
    inside = numbers >= 0
    assert (inside & clear).float().mean() > 0.4
    right = numbers == ((grey - 60) / 60).round()
    assert right[inside & clear].float().mean() > 0.98, "but for edges, where greys blend into another class's"
    outside = grey < 1  # what comes from elsewhere is black, and asks nothing
    assert not inside[outside].any()
    assert sorted(set(task.targets(task.asked(coded(task, mask))).tolist())) == [0, 1, 2]


@pytest.mark.parametrize("change", CHANGES)
def test_label_grids_go_where_masks_go(change: dict[str, Any]) -> None:
    """A grid that says of each cell what the mask says there teaches what the mask asks, wherever the picture goes."""
    task = task_of(stride=1)
    image, mask = quarters(ROWS)
    batch = task.augmented({"image": image}, task.Preprocessing(), task.Augmentation(**change), draws(2))
    true = task.forced(batch, task.asked(coded(task, *[mask] * ROWS)))
    said = task.forced(batch, task.recalled(np.full(ROWS, SIDE**2), {}))
    assert torch.equal(task.items(true), task.items(said))
    stored = torch.from_numpy(np.tile(mask.ravel(), ROWS)).long()
    found, wanted = stored[task.taught(said)], task.targets(task.asked(coded(task, *[mask] * ROWS)), true)
    assert (found == wanted).float().mean() > 0.999, "but for places between two pixels"
    assert task.taught(said).max() < ROWS * SIDE**2
    owner = torch.arange(ROWS).repeat_interleave(task.items(said))
    assert torch.equal(task.taught(said) // SIDE**2, owner), "each row learns of its own cells"


@pytest.mark.parametrize("stride", [1, 2, 4])
@pytest.mark.parametrize("change", CHANGES)
def test_labels_of_a_view_are_of_what_the_teacher_saw_there(change: dict[str, Any], stride: int) -> None:
    """In the same view cell for cell, black ones too."""
    task = task_of(stride=stride)
    image, _ = quarters(ROWS)
    view = task.augmented({"image": image}, task.Preprocessing(), task.Augmentation(**change), draws(3))
    items = grid_of(task).items
    own = task.own(torch.nn.Identity(), view)
    forced = task.forced(view, own)
    assert (task.items(forced) == items).all(), "a teacher answers for each cell"
    assert torch.equal(task.taught(forced), torch.arange(ROWS * items))
    again = task.recalled(np.full(ROWS, items), {}, view)
    assert torch.equal(task.taught(task.forced(view, again)), torch.arange(ROWS * items))


@pytest.mark.parametrize("stride", [1, 2, 4])
def test_a_mirrored_picture_learns_of_mirrored_cells(stride: int) -> None:
    task = task_of(stride=stride)
    mirrored = task.batch({"image": quarters(1)[0]}, task.Preprocessing())
    mirrored[:, -10] = -1
    grid = grid_of(task)
    cells = task.taught(task.forced(mirrored, task.recalled(np.array([grid.items]), {})))
    assert torch.equal(cells.reshape(grid.cells, -1), torch.arange(grid.items).reshape(grid.cells, -1).flip(1))


@pytest.mark.parametrize("stride", [1, 2, 3, 4])
def test_items_look_at_masks_in_the_middle_of_their_cells_and_to_no_side_rather_than_another(stride: int) -> None:
    task = task_of(image_size=48, stride=stride, classes=[str(number) for number in range(48)])
    across = np.tile(np.arange(48, dtype=np.uint8), (48, 1))
    for mask in (across, across.T):
        found = task.targets(task.asked(coded(task, mask))).reshape(48 // stride, -1)
        found = found if mask is across else found.T
        apart = (found + 0.5) / stride - (torch.arange(48 // stride) + 0.5)
        assert (apart * stride).abs().max() <= 0.5
        assert apart.mean() == pytest.approx(0.0, abs=1e-6)


def test_a_crops_window_is_whole_pixels_of_the_picture() -> None:
    """Of a picture that is larger than the model's, so that its window is exact, not to half a pixel."""
    task = task_of()
    image = np.zeros((ROWS, 50, 70, 1), np.uint8)
    batch = task.augmented({"image": image}, task.Preprocessing(), task.Augmentation(crop=(0.3, 0.6)), draws(4))
    across, down = batch[:, -10].double() * 70, batch[:, -6].double() * 50
    assert torch.allclose(across, across.round(), atol=1e-4)
    assert torch.allclose(down, down.round(), atol=1e-4)
    assert (across < 70).all()


# --- what a model says -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("stride", [1, 2, 4])
@pytest.mark.parametrize("name", ["unet-small", "deeplab-light"])
def test_labels_come_to_what_their_teacher_says(name: str, stride: int) -> None:
    task = task_of(stride=stride)
    model = task.build(Part.model_validate({"name": name, "width": 16}), len(CLASSES), task.Preprocessing()).eval()
    packed = {"image": np.stack([row["image"] for row in WORLD.rows(4, 0, 0)])[..., None]}
    batch = task.batch(packed, task.Preprocessing())
    with torch.no_grad():
        said, logits = model(batch), model(task.forced(batch, task.own(model, batch)))
    items = np.full(4, grid_of(task).items)
    assert logits.shape == (items.sum(), len(CLASSES))
    answers = task.answered(DenseLabels(logits.numpy()), items, {})
    assert answers.dtype == np.float32
    assert (answers == said.numpy()).mean() > 0.999  # a batch is one matrix product, to rounding
    assert task.alike(task.compared(answers), task.compared(said.numpy())).min() > 0.99
    assert task.answered(DenseLabels(logits.numpy()[:0]), items[:0], {}).shape == (0, SIDE**2)


def test_torchvisions_networks_serve_by_name_and_factories_too() -> None:
    task = task_of(channels=3, stride=4)
    part = Part.model_validate({"name": "torchvision/lraspp_mobilenet_v3_large"})
    model = task.build(part, len(CLASSES), task.Preprocessing(mean=(0.5,) * 3, std=(0.2,) * 3)).eval()
    with torch.no_grad():
        assert model(task.fake_batch(2, task.Preprocessing())).shape == (2 * grid_of(task).items, len(CLASSES))
    own = Part.model_validate({"name": "tests.user_code.image_factories:pixels"})
    assert task.build(own, len(CLASSES), task.Preprocessing())(task.fake_batch(2, task.Preprocessing())).shape[1] == 3


@pytest.mark.parametrize(
    ("model", "said"),
    [
        ({"name": "unet-smal"}, "no model is called 'unet-smal'.*unet-small"),
        ({"name": "unet-small", "width": 24}, "a multiple of 16 up to 512"),
        ({"name": "torchvision/resnet18"}, "no network of segmentation 'resnet18'"),
        ({"name": "torchvision/fcn_resnet50"}, "3 channels"),
    ],
)
def test_models_that_cannot_be_are_refused(model: dict[str, Any], said: str) -> None:
    with pytest.raises(ModelError, match=said):
        task_of().build(Part.model_validate(model), len(CLASSES), task_of().Preprocessing())
    with pytest.raises(ModelError, match="to tell 2 classes apart, the task has 3"):
        task_of().build(Part(name="unet-small"), 2, task_of().Preprocessing())


# --- what a student learns ---------------------------------------------------------------------------------------


def learned(task: Segmentation, method: str, **settings: Any) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """(loss of a method on pictures in another light, student's logits, teacher's as stored), by the way of a step."""
    rows = WORLD.rows(3, 0, 0)
    packed = {"image": np.stack([row["image"] for row in rows])[..., None]}
    batch = task.augmented(packed, task.Preprocessing(), task.Augmentation(rotate=45), draws(5, 3))
    items = grid_of(task).items
    stored = 3 * np.random.default_rng(6).standard_normal((3 * items, len(CLASSES))).astype(np.float32)
    forced = task.forced(batch, task.recalled(np.full(3, items), {}))
    said = DenseLabels(stored).rows(task.taught(forced).numpy())
    torch.manual_seed(0)
    model = task.build(Part(name="deeplab-light"), len(CLASSES), task.Preprocessing())
    logits, costs = task.priced(model(forced))
    assert costs is None
    built = get_method(Part.model_validate({"name": method, **settings}))
    built.learners(Sizes(len(CLASSES)), None)  # type: ignore[arg-type]
    weights = torch.ones(3).repeat_interleave(task.items(forced))
    assert len(weights) < 3 * items, "corners have left the picture"
    loss = built.teacher_term(SharedRows(logits, teacher_rows(said, None, torch.device("cpu")), weights))
    return loss, logits, torch.from_numpy(said.logits)


def test_soft_labels_are_learned_pixel_by_pixel() -> None:
    loss, student, teacher = learned(task_of(stride=4), "soft", temperature=2.0)
    wanted = 4 * kl_div((student / 2).log_softmax(1), (teacher / 2).log_softmax(1), reduction="none", log_target=True)
    assert loss.item() == pytest.approx(wanted.sum(1).mean().item(), rel=1e-5)


def of_logits() -> list[str]:
    """Methods that read logits of items, and nothing of samples."""
    needs = {
        name: get_method(Part.model_validate({"name": name, **SETTINGS.get(name, {})})).needs
        for name in METHODS.names()
    }
    return [name for name, asks in needs.items() if asks.labels and not asks.of_samples and not asks.fields]


@pytest.mark.parametrize("method", of_logits())
def test_every_method_of_logits_learns_pixels(method: str) -> None:
    loss, student, _ = learned(task_of(stride=4), method, **SETTINGS.get(method, {}))
    (gradient,) = torch.autograd.grad(loss, student)
    assert loss.isfinite()
    assert gradient.isfinite().all()
    assert gradient.abs().sum() > 0


def test_methods_that_lay_every_two_rows_side_by_side_are_for_samples() -> None:
    for method in ("graph-attention", "relational"):
        assert get_method(Part(name=method)).needs.of_samples
    assert {"soft", "hard", "margin", "dkd", "confident", "hard-examples"} < set(of_logits())


def test_a_batch_without_a_pixel_that_counts_has_no_loss() -> None:
    """Of labelled pictures 0, with a gradient of 0; beside a teacher, the teacher's share alone."""
    logits = torch.randn(0, len(CLASSES), requires_grad=True)
    nothing = LabelledRows(logits, torch.empty(0, dtype=torch.int64))
    for name in ("none", "soft", "hard-examples"):
        loss = get_method(Part(name=name)).loss(None, nothing, 0.1)
        assert loss.item() == 0
        assert torch.autograd.grad(loss, logits)[0].shape == (0, len(CLASSES))


def test_pixels_that_do_not_count_teach_nothing() -> None:
    """Whatever stands under them, neither loss nor gradient changes; the mean is over the others."""
    task = task_of()
    mask = np.zeros((SIDE, SIDE), np.uint8)
    mask[:, : SIDE // 2], mask[: SIDE // 2, SIDE // 2 :] = UNKNOWN, 2
    asked = task.asked(coded(task, mask))
    batch = task.batch({"image": np.zeros((1, SIDE, SIDE, 1), np.uint8)}, task.Preprocessing())
    forced = task.forced(batch, asked)
    assert task.items(forced).tolist() == [grid_of(task).items // 2]
    assert len(task.targets(asked)) == grid_of(task).items // 2
    logits = torch.randn(grid_of(task).items // 2, len(CLASSES))
    targets = task.targets(asked, forced)
    assert targets.unique().tolist() == [0, 2]
    term = get_method(Part(name="soft")).truth_term(LabelledRows(logits, targets), 0.0)
    assert term == pytest.approx(cross_entropy(logits, targets).item())
