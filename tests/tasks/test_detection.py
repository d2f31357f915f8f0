"""Detection: boxes as truth, how they travel with their pictures, what students learn of a teacher's boxes."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from schemas.base import Part
from schemas.errors import ModelError, SpecError
from schemas.labels import SAID
from stages.labels.decoded import DenseLabels
from stages.random import step_draws
from stages.students.methods.base import SharedRows
from stages.students.methods.soft import Soft, SoftConfig
from stages.students.teacher import teacher_rows
from stages.tasks import get_task
from stages.tasks._boxes import ANSWERS, TAUGHT, TRUTH, packed_slots, unpacked_slots
from stages.tasks._detection_items import CODER, anchors, into_window, out_of_window, slots_of
from stages.tasks._detection_networks import SSD, Detector
from stages.tasks.base import BadRow
from stages.tasks.detection import Detection
from stages.truth import Truth, as_truth
from tests.tasks.worlds.detection import SIDE, WORLD

CLASSES = ("background", *WORLD.config["classes"])


def task_of(**settings: Any) -> Detection:
    task = get_task(Part.model_validate({"name": "detection", **WORLD.config, "items": 48, **settings}))
    assert isinstance(task, Detection)
    return task


def label(*boxes: Any, side: int = SIDE) -> str:
    return json.dumps({"width": side, "height": side, "boxes": boxes})


def network(task: Detection, name: str, **preprocessing: Any) -> Detector:
    torch.manual_seed(0)
    part = Part.model_validate({"name": name, **WORLD.models[name]})
    built = task.build(part, len(CLASSES), task.Preprocessing(**preprocessing))
    assert isinstance(built, Detector)
    return built


def pictures(task: Detection, count: int) -> tuple[dict[str, np.ndarray], Truth]:
    rows = WORLD.rows(count, 0, 0)
    truth = as_truth([task.code_truth(row["label"]) for row in rows], coded=True)
    return {"image": np.stack([row["image"] for row in rows])[..., None]}, truth


# --- truth -------------------------------------------------------------------------------------------------------


def test_true_boxes_are_shares_of_the_picture_each_once_and_cut_off_at_its_rim() -> None:
    task = task_of()
    wide = {"width": 200, "height": 100, "boxes": [["bar", 50, 25, 100, 50], ["bar", 50, 25, 100, 50]]}
    truth = as_truth([task.code_truth(json.dumps(wide)), task.code_truth(label(["square", -6, 32, 70, 64]))], True)
    (one, over) = unpacked_slots(task.asked(truth).numpy())
    assert one.tolist() == [[0.25, 0.25, 0.5, 0.5, 2, 1]]
    assert over.tolist() == [[0, 0.5, 1, 1, 1, 1]]
    empty = as_truth([task.code_truth(label())], coded=True)
    assert [len(row) for row in unpacked_slots(task.asked(empty).numpy())] == [0]


@pytest.mark.parametrize(
    ("boxes", "said"),
    [
        ([["bar", 70, 0, 90, 9], ["bar", 0, 70, 9, 90], ["bar", 0, 0, 9, 9]], "of 3 boxes 2 lie outside the picture"),
        ([["bar", 5, 5, 5, 9], ["bar", 9, 5, 4, 9]], "of 2 boxes 2 have no area"),
        ([["bar", float("nan"), 5, 8, 9]], "of 1 boxes 1 are no numbers"),
        ([["cat", 0, 0, 9, 9], ["dog", 0, 0, 9, 9]], "2 unknown classes \\(first: 'cat'\\)"),
        ([["bar", x, 0, x + 9, 9] for x in range(7)], "has 7 boxes, the task's `boxes` allows 6"),
        ([["bar", 0, 0, 9]], "the label is no JSON"),
    ],
)
def test_boxes_that_are_none_are_refused_by_count(boxes: list[Any], said: str) -> None:
    with pytest.raises(BadRow, match=said):
        task_of().code_truth(label(*boxes))


def test_settings_that_make_no_sense_are_refused() -> None:
    for wrong in ({"classes": ["background"]}, {"classes": ["a", "a"]}, {"items": 400}, {"image_size": 50}):
        with pytest.raises(SpecError):
            task_of(**wrong)


# --- boxes travel with their pictures ----------------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(3))
def test_boxes_go_where_the_picture_goes(seed: int) -> None:
    """A bright box is looked for in the changed pixels, and stands where the moved one says."""
    task = task_of()
    image, places = np.zeros((8, SIDE, SIDE, 1), np.uint8), np.random.default_rng(seed).integers(16, 28, (8, 2))
    for row, (left, top) in enumerate(places.tolist()):
        image[row, top : top + 14, left : left + 20] = 255
    labels = [label(["bar", left, top, left + 20, top + 14]) for left, top in places.tolist()]
    truth = as_truth([task.code_truth(item) for item in labels], coded=True)
    settings = task.Augmentation(flip=True, crop=(0.5, 0.9))
    draws = step_draws(np.random.default_rng(seed), 8)
    batch = task.augmented({"image": image}, task.Preprocessing(), settings, draws)
    moved = into_window(task.asked(truth), batch[:, -5:])
    assert (batch[:, -1] == 1).any()
    for row, boxes in enumerate(moved):
        bright = (batch[row, : SIDE**2].reshape(SIDE, SIDE) > 0.5).nonzero()
        corners = torch.stack([bright.amin(0).flip(0), bright.amax(0).flip(0) + 1]).flatten() / SIDE
        assert torch.allclose(boxes[0, :4], corners, atol=1.5 / SIDE), row


@settings(max_examples=40, deadline=None)
@given(st.lists(st.floats(0.05, 0.95), min_size=4, max_size=4), st.booleans())
def test_what_leaves_a_window_comes_back(numbers: list[float], mirrored: bool) -> None:
    left, top, width, height = numbers
    window = torch.tensor([[left * (1 - width), top * (1 - height), width, height, float(mirrored)]])
    seen = torch.tensor([[[0.1, 0.2, 0.6, 0.9], [0.0, 0.0, 1.0, 1.0]]])
    slots = torch.cat([out_of_window(seen, window), torch.ones(1, 2, 2)], dim=2)
    asked = torch.cat([slots.flatten(1), torch.zeros(1, 1)], dim=1)
    assert torch.allclose(into_window(asked, window)[..., :4], seen, atol=1e-4)


def test_boxes_of_which_little_is_left_are_none_any_more() -> None:
    asked = torch.from_numpy(packed_slots([np.array([[0.4, 0, 0.6, 1, 1, 1], [0.1, 0, 0.5, 1, 1, 1]])], 2, TRUTH))
    window = torch.tensor([[0.0, 0.0, 0.45, 1.0, 0.0]])  # a quarter of the first is left, most of the second
    assert (into_window(asked, window)[0, :, 5] >= 0).tolist() == [False, True]
    own = torch.cat([asked[:, :-1], torch.tensor([[ANSWERS]])], dim=1)
    assert (into_window(own, window)[0, :, 5] >= 0).all(), "a model's own answers stay, one label each"


# --- what a teacher says -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["faster-rcnn-small", "ssd-light"])
def test_a_label_is_a_box_with_its_distribution_and_the_last_one_is_everywhere_else(name: str) -> None:
    task = task_of()
    packed, _ = pictures(task, 4)
    model = network(task, name, least_score=0.001).eval()
    batch = task.batch(packed, task.Preprocessing())
    with torch.no_grad():
        own = model(batch)
        forced = task.forced(batch, own)
        logits = model(forced)
    items, recorded = task.items(forced), {field: part.numpy() for field, part in task.recorded(own).items()}
    boxes = [len(row) for row in unpacked_slots(own.numpy())]
    assert sum(boxes) > 4
    assert (items - 1).tolist() == boxes
    assert logits.shape == (items.sum(), len(CLASSES))
    ends = np.cumsum(items.numpy()) - 1
    assert recorded["box"].shape == (items.sum(), 4)
    assert not recorded["box"][ends].any()
    assert not recorded["score"][ends].any()
    assert set(recorded[SAID].tolist()) <= {0, 1, 2}
    recalled = task.recalled(items.numpy(), recorded)
    assert torch.equal(recalled[:, :-1], own[:, :-1])
    assert (recalled[:, -1] == TAUGHT).all()


def test_boxes_may_be_told_before_suppression() -> None:
    task = task_of(boxes=200)
    packed, _ = pictures(task, 2)
    batch = task.batch(packed, task.Preprocessing())
    with torch.no_grad():
        every, few = (
            [len(row) for row in unpacked_slots(network(task, "ssd-light", **how).eval()(batch).numpy())]
            for how in ({"suppression": None, "least_score": 0.001}, {"suppression": 0.3, "least_score": 0.001})
        )
    assert all(before > after > 0 for before, after in zip(every, few, strict=True))


def test_a_two_stage_detector_learns_from_truth_alone() -> None:
    task = task_of()
    packed, truth = pictures(task, 2)
    asked = task.asked(truth)
    asked[:, -1] = TAUGHT
    with pytest.raises(ModelError, match="give the student an SSD"):
        network(task, "faster-rcnn-small")(task.forced(task.batch(packed, task.Preprocessing()), asked))


# --- what a student learns ---------------------------------------------------------------------------------------

TEACHER = [  # boxes of two pictures with scores, and logits of these and of everywhere else
    (np.array([[0.1, 0.1, 0.42, 0.4, 1, 0.9], [0.5, 0.5, 0.9, 0.77, 2, 0.6]]), [[0, 3, 1], [1, 0, 2], [4, 0, 0]]),
    (np.empty((0, 6)), [[5, 1, 0]]),
]
TAU = 2.0


def learned(task: Detection, model: SSD, said: list[Any]) -> tuple[torch.Tensor, torch.Tensor]:
    """(loss of the classes, of the places) of a student that is taught this, by the way of a step."""
    packed, _ = pictures(task, 2)
    batch = task.batch(packed, task.Preprocessing())
    asked = torch.from_numpy(packed_slots([boxes for boxes, _ in said], 6, TAUGHT))
    forced = task.forced(batch, asked)
    stored = np.array([row for _, logits in said for row in logits], np.float32)
    rows = teacher_rows(DenseLabels(stored).rows(task.taught(forced).numpy()), None, torch.device("cpu"))
    logits, costs = task.priced(model.train()(forced))
    assert costs is not None
    weights = torch.ones(2).repeat_interleave(task.items(forced))
    term = Soft(SoftConfig(temperature=TAU)).teacher_term(SharedRows(logits, rows, weights))
    return term, costs.mean()


def by_hand(task: Detection, model: SSD, said: list[Any]) -> tuple[float, float]:
    """The same, anchor by anchor."""
    packed, _ = pictures(task, 2)
    batch = task.batch(packed, task.Preprocessing())
    with torch.no_grad():
        logits, offsets = model.train().raw(batch[:, : SIDE**2].reshape(2, 1, SIDE, SIDE))
    places, items = anchors(SIDE, task.config.ratios).tolist(), task.config.items
    divergences, costs = [], []
    for row, (boxes, teacher) in enumerate(said):
        found: dict[int, int] = {}
        for number, anchor in enumerate(places):
            overlaps = [overlap(box[:4].tolist(), anchor) for box in boxes]
            if overlaps and max(overlaps) >= 0.5:
                found[number] = overlaps.index(max(overlaps))
        for number, box in enumerate(boxes):
            found[max(range(len(places)), key=lambda at: overlap(box[:4].tolist(), places[at]))] = number
        assert len(found) <= items // 2
        empty = logits[row].softmax(dim=1)[:, 0]
        free = sorted((at for at in range(len(places)) if at not in found), key=lambda at: float(empty[at]))
        for at in [*found, *free[: items - len(found)]]:
            target = torch.tensor(teacher[found.get(at, -1)]) / TAU
            p = target.softmax(dim=0)
            divergences.append(TAU**2 * float((p * (p.log() - (logits[row, at] / TAU).log_softmax(dim=0))).sum()))
        for at, number in found.items():
            cost = 0.0
            for wanted, given_ in zip(
                offsets_of(boxes[number, :4].tolist(), places[at]), offsets[row, at], strict=True
            ):
                off = abs(wanted - float(given_))
                cost += 0.5 * off**2 if off < 1 else off - 0.5
            costs.append(cost * boxes[number, 5])
    return float(np.mean(divergences)), sum(costs) / len(divergences)


def overlap(one: list[float], other: list[float]) -> float:
    width = max(0.0, min(one[2], other[2]) - max(one[0], other[0]))
    height = max(0.0, min(one[3], other[3]) - max(one[1], other[1]))
    areas = [(box[2] - box[0]) * (box[3] - box[1]) for box in (one, other)]
    return width * height / (sum(areas) - width * height)


def offsets_of(box: list[float], anchor: list[float]) -> list[float]:
    """Ren et al. 2015, equation 2, with the usual weights."""
    (x, y, w, h), (ax, ay, aw, ah) = (
        ((b[0] + b[2]) / 2, (b[1] + b[3]) / 2, b[2] - b[0], b[3] - b[1]) for b in (box, anchor)
    )
    return [10 * (x - ax) / aw, 10 * (y - ay) / ah, 5 * float(np.log(w / aw)), 5 * float(np.log(h / ah))]


def test_the_students_loss_is_that_of_a_hand_written_one() -> None:
    task = task_of()
    model = network(task, "ssd-light")
    assert isinstance(model, SSD)
    term, cost = learned(task, model, TEACHER)
    wanted = by_hand(task, model, TEACHER)
    assert term.item() == pytest.approx(wanted[0], rel=1e-4)
    assert cost.item() == pytest.approx(wanted[1], rel=1e-4)


def test_a_student_learns_both_a_boxs_distribution_and_its_place() -> None:
    """The most likely class stays, and so does the box that is nearest: it is no hard truth that is learned."""
    task = task_of()
    model = network(task, "ssd-light")
    assert isinstance(model, SSD)
    term, cost = learned(task, model, TEACHER)
    (boxes, logits), empty = TEACHER
    softer = learned(task, model, [(boxes, [[0, 3, 2.5], *logits[1:]]), empty])
    assert abs((softer[0] - term).item()) > 1e-3
    assert torch.equal(softer[1], cost)
    moved = learned(task, model, [(boxes + [[0.01, 0, 0.01, 0, 0, 0]] * 2, logits), empty])
    assert abs((moved[1] - cost).item()) > 1e-3
    unsure = learned(task, model, [(boxes * [1, 1, 1, 1, 1, 0.5], logits), empty])
    assert unsure[1].item() == pytest.approx(0.5 * cost.item(), rel=1e-5)
    rest = learned(task, model, [(boxes, logits), (np.empty((0, 6)), [[5, 4, 0]])])
    assert abs((rest[0] - term).item()) > 1e-3
    (gradient,) = torch.autograd.grad(cost, model.head.regression_head.module_list[0].weight, retain_graph=True)
    assert gradient.abs().max() > 0


def test_offsets_and_places_are_each_others_way_back() -> None:
    places = anchors(SIDE, (0.5, 1.0, 2.0))
    assert len(places) == 6 * (8 * 8 + 4 * 4 + 2 * 2)
    centres = (places[:, :2] + places[:, 2:]) / 2
    assert torch.allclose(centres[0], torch.tensor([4 / SIDE, 4 / SIDE]))
    assert torch.allclose(centres[6], torch.tensor([12 / SIDE, 4 / SIDE])), "row by row"
    box = torch.tensor([[0.2, 0.3, 0.5, 0.9]]).expand(len(places), -1)
    assert torch.allclose(CODER.decode_single(CODER.encode_single(box, places), places), box, atol=1e-5)
    assert slots_of(torch.zeros(2, 13)).shape == (2, 2, 6)
