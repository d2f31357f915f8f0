"""Views: replayed alike by anybody in any order, labelled as they are seen, refused where they come out otherwise."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from schemas.base import Part
from schemas.encodings import Dense, TopK
from schemas.errors import StoreError
from schemas.labels import Replay, Views
from stages.labels.alignment import AlignedLabels
from stages.labels.derive import encode_set
from stages.labels.publish import copy_set
from stages.labels.reader import LabelSet
from stages.labels.verify import verify
from stages.labels.views import TOLERANCE, check_replays, replays, sketch, view_inputs, view_of
from stages.places import Place
from stages.random import view_draws
from stages.tasks import get_task
from tests.labels.fakes import FakeSamples, OracleTeacher, inputs_for, make_fake_set

VIEWS = Views(count=3, seed=5, settings={"crop": [0.3, 0.9], "rotate": 20, "flip": True, "brightness": 0.4})
ROWS = 40


@dataclass
class Pictures:
    """Pictures in memory."""

    images: NDArray[np.uint8]

    @property
    def rows(self) -> int:
        return len(self.images)

    def gather(self, positions: NDArray[np.int64]) -> dict[str, Any]:
        return {"image": self.images[positions]}

    def content_ids_at(self, positions: NDArray[np.int64]) -> NDArray[np.uint8]:
        return np.random.default_rng(1).integers(0, 256, (ROWS, 16)).astype(np.uint8)[positions]


SAMPLES = Pictures(np.random.default_rng(0).integers(0, 256, (ROWS, 12, 12, 1)).astype(np.uint8))
TASK = get_task(Part.model_validate({"name": "image-classification", "image_size": 8, "channels": 1}))
PLAIN = TASK.Preprocessing()


def seen(positions: Any, view: Any, how: Any = PLAIN) -> torch.Tensor:
    """The inputs of some samples, each in its view."""
    rows = np.asarray(positions, np.int64)
    view_B = np.broadcast_to(np.asarray(view, np.int64), rows.shape)
    return view_inputs(TASK, SAMPLES.gather(rows), SAMPLES.content_ids_at(rows), view_B, VIEWS, how)


# --- replaying ---------------------------------------------------------------------------------------------------


@given(st.lists(st.tuples(st.integers(0, ROWS - 1), st.integers(0, 2)), min_size=1, max_size=12))
def test_a_view_does_not_depend_on_its_company(asked: list[tuple[int, int]]) -> None:
    positions, view_B = np.array(asked).T
    together = seen(positions, view_B)
    for row, (position, view) in enumerate(asked):
        assert torch.equal(seen([position], view)[0], together[row])


def test_view_0_is_the_sample_and_others_differ() -> None:
    everything = np.arange(ROWS)
    plain = TASK.batch(SAMPLES.gather(everything), PLAIN)
    assert torch.equal(seen(everything, 0), plain)
    for one, other in ((0, 1), (1, 2), (0, 2)):
        apart = (seen(everything, one) - seen(everything, other)).abs().amax(dim=(1, 2, 3))
        assert (apart > 0.05).sum() >= ROWS - 1


def test_the_seed_makes_other_views() -> None:
    rows = np.arange(ROWS)
    other = view_inputs(
        TASK,
        SAMPLES.gather(rows),
        SAMPLES.content_ids_at(rows),
        np.ones(ROWS, np.int64),
        VIEWS.model_copy(update={"seed": 6}),
        PLAIN,
    )
    assert not torch.equal(other, seen(rows, 1))


def test_a_training_reads_each_view_of_a_row_once_in_as_many_epochs() -> None:
    rows = np.arange(7)
    found = np.stack([view_of(rows, epoch, VIEWS) for epoch in range(3)])
    assert (np.sort(found, axis=0) == np.arange(3)[:, None]).all()
    assert len(set(found[0].tolist())) == 3, "a batch mixes views"
    assert (view_of(rows, 4, Views()) == 0).all()


# --- sketches ----------------------------------------------------------------------------------------------------


@given(st.integers(0, 1000), st.floats(0.001, 1.0))
def test_sketches_estimate_how_far_inputs_are_apart(seed: int, size: float) -> None:
    rng = np.random.default_rng(seed)
    one = rng.random((1, 3, 9, 9))
    other = one + size * rng.normal(size=one.shape)
    pair = sketch(torch.from_numpy(np.concatenate([one, other])))
    estimated = np.sqrt(np.mean((pair[0] - pair[1]) ** 2))
    true = np.sqrt(np.mean((one - other) ** 2))
    assert pair.shape == (2, 16)
    assert 0.3 * true < estimated < 2 * true, "16 projections: a chi square of 16 degrees"


def test_the_sketch_is_golden() -> None:
    """A change here makes every set of views that there is unreadable."""
    found = sketch(torch.arange(6.0).reshape(1, 2, 3))[0]
    assert found[:4].tolist() == GOLDEN


GOLDEN = [-6.123724, -2.857738, -1.224745, -2.041241]


def test_token_ids_that_differ_are_apart() -> None:
    ids = torch.tensor([[5, 7, 9, 0], [5, 7, 8, 0]])
    one, other = sketch(ids)
    assert np.sqrt(np.mean((one - other) ** 2)) > TOLERANCE


def test_replays_are_spread_over_samples_and_views() -> None:
    found = replays(TASK, SAMPLES, VIEWS)
    assert len({item.position for item in found}) == 16
    assert {item.view for item in found} == {1, 2}
    assert max(item.position for item in found) > 0.9 * (ROWS - 1)
    assert replays(TASK, SAMPLES, Views()) == ()
    few = Pictures(SAMPLES.images[:3])
    assert [item.position for item in replays(TASK, few, VIEWS)] == [0, 1, 2]


# --- sets --------------------------------------------------------------------------------------------------------


class Shaken(OracleTeacher):
    """An oracle whose task adds drawn numbers to a vector: the label tells the view."""

    def __init__(self) -> None:
        super().__init__()
        self.task = ShakenTask()


class ShakenTask:
    forces = False
    Augmentation = TASK.Augmentation

    def batch(self, packed: Any, preprocessing: Any) -> torch.Tensor:
        return torch.from_numpy(np.ascontiguousarray(packed["x"]))

    def augmented(self, packed: Any, preprocessing: Any, augmentation: Any, draws: Any) -> torch.Tensor:
        return self.batch(packed, preprocessing) + torch.from_numpy(draws("x", 4)).float()


def test_labels_are_of_the_view_that_they_stand_for(tmp_path: Any) -> None:
    samples, teacher = FakeSamples((5, 3)), Shaken()
    asked = inputs_for(Dense(dtype="float32"), views=Views(count=3, settings={"flip": True}))
    make_fake_set(Place(str(tmp_path)), samples, teacher, asked)
    labels = LabelSet.open(str(tmp_path))
    assert teacher.rows == 24
    x = np.concatenate([samples.read(shard)["x"] for shard in range(2)])
    drawn = labels.logits(np.arange(8), view=1) - x
    assert ((drawn > -0.01) & (drawn < 1.01)).all()
    mixed = np.array([0, 2, 1, 1, 0, 2, 2, 0])
    together = labels.logits(np.arange(8), view=mixed)
    for row, view in enumerate(mixed.tolist()):
        assert np.array_equal(together[row], labels.logits(np.array([row]), view=view)[0])
    assert not np.array_equal(labels.logits(np.arange(8), view=2), labels.logits(np.arange(8), view=1))
    with pytest.raises(IndexError, match="views run from 0 to 2, not 0 to 3"):
        labels.gather(np.arange(8), view=np.array([0, 3] * 4))


def test_one_more_view_asks_for_it_alone(tmp_path: Any) -> None:
    samples, settings = FakeSamples((5, 3)), {"flip": True}
    asked = []
    for count in (2, 3, 2):
        teacher = Shaken()
        make_fake_set(Place(str(tmp_path)), samples, teacher, inputs_for(views=Views(count=count, settings=settings)))
        asked.append(teacher.rows)
    assert asked == [16, 8, 0]


@dataclass
class Held:
    """Stands for a label set: what the comparison needs of one."""

    manifest: Any
    at: NDArray[np.int64] | None = None

    def samples_at(self, positions: NDArray[np.int64]) -> NDArray[np.int64]:
        return positions if self.at is None else self.at[positions]


@dataclass
class Manifest:
    replays: tuple[Replay, ...]
    views: Views = VIEWS
    fingerprint: str = "f" * 32


def held(**more: Any) -> Any:
    return Held(Manifest(replays(TASK, SAMPLES, VIEWS)), **more)


def test_what_can_be_replayed_passes() -> None:
    assert check_replays(held(), TASK, SAMPLES) == 16


def test_a_view_that_comes_out_otherwise_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    labels = held()
    moved = Pictures(np.roll(SAMPLES.images, 1, axis=2))
    with pytest.raises(StoreError, match="16 of 16 views of label set ffffffffffff cannot be replayed here"):
        check_replays(labels, TASK, moved)
    monkeypatch.setattr("stages.labels.views.view_draws", lambda ids, seed, view: view_draws(ids, seed, view + 1))
    with pytest.raises(StoreError, match="the student would not see what the teacher saw"):
        check_replays(labels, TASK, SAMPLES)


def test_a_difference_below_what_decoders_do_passes() -> None:
    noise = np.random.default_rng(3).integers(0, 2, SAMPLES.images.shape)
    alike = Pictures(np.clip(SAMPLES.images.astype(int) + noise, 0, 255).astype(np.uint8))
    assert check_replays(held(), TASK, alike) == 16


def test_only_samples_that_are_here_are_compared() -> None:
    positions = [item.position for item in replays(TASK, SAMPLES, VIEWS)]
    at = np.full(ROWS, -1)
    assert check_replays(held(at=at.copy()), TASK, SAMPLES) == 0
    at[positions[3]] = positions[3]
    assert check_replays(held(at=at), TASK, SAMPLES) == 1
    at[positions[4]] = 0  # another sample than the one that was labelled
    with pytest.raises(StoreError, match="1 of 2 views"):
        check_replays(held(at=at), TASK, SAMPLES)


@given(st.permutations(range(9)), st.integers(1, 9))
def test_samples_at_is_the_inverse_of_the_alignment(order: list[int], kept: int) -> None:
    rows = np.array(order[:kept])

    class Labels:
        classes = schema = manifest = None

    aligned = AlignedLabels(Labels(), rows)  # type: ignore[arg-type]
    found = aligned.samples_at(np.arange(9))
    assert found.tolist() == [order[:kept].index(position) if position in rows else -1 for position in range(9)]


def test_copies_and_smaller_forms_keep_what_tells_the_views(tmp_path: Any) -> None:
    samples, teacher = FakeSamples((5, 3)), Shaken()
    place = Place(str(tmp_path / "a"))
    views = Views(count=2, settings={"flip": True})
    said = replays(TASK, SAMPLES, views)
    make_fake_set(place, samples, teacher, inputs_for(views=views), replays=said)
    labels = LabelSet.open(place)
    assert labels.manifest.replays == said
    copied = copy_set(labels, Place(str(tmp_path / "b")))
    small = encode_set(labels, TopK(kind="top-k", k=2), place, lambda done, total: None)
    assert copied.replays == small.replays == said
    assert (copied.digest, small.views) == (labels.digest, views)
    assert verify(LabelSet.open(str(tmp_path / "b")), deep=True) == []
