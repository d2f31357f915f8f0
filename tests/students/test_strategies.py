"""Training strategies of students: each does what it says, and none is lost by a kill."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from schemas.artifacts import ModelRef
from schemas.base import Part
from schemas.students import CohortOutputs, StudentInputs, StudentOutputs
from stages.context import Context
from stages.places import Place
from stages.students.stage import STUDENTS
from stages.tasks import get_task
from stages.training import checkpoints
from stages.training.models import build, read_state
from stages.training.stream import rng
from tests.students.world import TASK, Killed, World, cohort_of, student

PARTS_TOLERANCE = 2e-5
"""Largest difference of a weight after 14 steps of sgd, whole batches against parts: float32 sums in another order."""
BFLOAT16_TOLERANCE = 0.05
"""The same in bfloat16, of 8 bits, against float32."""
SGD = {"optimizer": "sgd", "learning_rate": 0.05, "gradient_clip": 1.0}


def run(context: Context, *students: StudentInputs) -> tuple[StudentOutputs, ...]:
    outputs: CohortOutputs = STUDENTS.run(context, cohort_of(*students))
    assert [one.failure for one in outputs.students] == [None] * len(students)
    return outputs.students


def weights(one: StudentOutputs) -> dict[str, torch.Tensor]:
    ref: ModelRef | None = one.model
    assert ref is not None
    return read_state(Place(ref.uri), ref)


def apart(one: StudentOutputs, other: StudentOutputs) -> float:
    """Largest difference of a weight."""
    mine, theirs = weights(one), weights(other)
    assert mine.keys() == theirs.keys()
    return max(float((value - theirs[name]).abs().max()) for name, value in mine.items())


@pytest.mark.parametrize("method", ["soft", "none", "dist", "relational", "adversarial"])
def test_parts_of_a_batch_make_the_step_of_the_whole(world: World, local_context: Context, method: str) -> None:
    """Also for methods that compare rows of a batch, and in steps that padding fills up."""
    whole, parts = run(
        local_context,
        student("whole", method, model="plain", training=SGD),
        student("parts", method, model="plain", training={**SGD, "accumulate": 3}),
    )
    assert whole.model != parts.model
    assert apart(whole, parts) < PARTS_TOLERANCE
    assert parts.history[-1].loss == pytest.approx(whole.history[-1].loss, rel=1e-4)


def test_a_part_is_counted_once_by_batch_norm(world: World, local_context: Context) -> None:
    (one,) = run(local_context, student("parts", training={"accumulate": 2}))
    assert int(weights(one)["network.layers.1.num_batches_tracked"]) == 14 * 2


def test_bfloat16_is_near_to_float32_and_weights_stay_wide(world: World, local_context: Context) -> None:
    wide, narrow = run(
        local_context,
        student("wide", model="plain", training=SGD),
        student("narrow", model="plain", training={**SGD, "precision": "bfloat16"}),
    )
    assert 1e-6 < apart(wide, narrow) < BFLOAT16_TOLERANCE
    assert {value.dtype for value in weights(narrow).values()} == {torch.float32}


def test_the_average_is_what_is_judged_and_kept(world: World, local_context: Context) -> None:
    """With a decay of almost nothing it is the last weights; with more, it is where they were before."""
    plain, last, slow = run(
        local_context,
        student("plain", model="plain", training=SGD),
        student("last", model="plain", training={**SGD, "ema": 1e-9}),
        student("slow", model="plain", training={**SGD, "ema": 0.9}),
    )
    assert apart(plain, last) < 1e-6
    assert apart(plain, slow) > 1e-3
    assert [line.loss for line in slow.history] == [line.loss for line in plain.history], "training itself is the same"
    assert slow.history[0].validation != plain.history[0].validation


IMPATIENT = {"early_stopping": {"patience": 1, "min_gain": 0.5}, "schedule": "constant"}


def test_a_student_that_gains_nothing_ends_early_with_its_best_weights(world: World, contexts: Any) -> None:
    stopped, whole = run(
        contexts("both"),
        student("stopped", steps=30, training=IMPATIENT),
        student("whole", steps=30, training={"schedule": "constant"}),
    )
    assert [len(stopped.history), len(whole.history)] == [2, 5]
    assert stopped.history == whole.history[:2]
    assert "ended early after epoch 2" in str(stopped.ended_early)
    assert whole.ended_early is None
    figures = [line.validation["accuracy"] for line in stopped.history]
    best = 6 * (1 + figures.index(max(figures)))
    (early,) = run(contexts("early"), student("early", steps=best, training={"schedule": "constant"}))
    assert apart(stopped, early) == 0
    counters = world.feeds[0].counters
    assert counters["labels"] == 30 * 8, "its neighbour went on"


def test_without_validation_truth_nobody_ends_early(world: World, local_context: Context) -> None:
    (one,) = run(local_context, student("zero", budget=2, steps=20, training=IMPATIENT))
    assert one.ended_early is None
    assert len(one.history) == 4


def test_the_loss_of_a_mixed_step_by_hand(world: World, local_context: Context) -> None:
    """The first step of a student that is trained by truth alone, from the feed's own rows."""
    training = {"mixing": {"mixup": 1.0}, "label_smoothing": 0.0}
    (one,) = run(local_context, student("mixed", "none", model="plain", steps=1, training=training))
    feed = world.feeds[0]
    batch = feed.labelled(0, f"{0:032x}")
    assert batch is not None
    network = build(get_task(TASK), Part(name="tests.students.world:plain"), 3, {}, 0)
    partner = torch.from_numpy(rng(0, "partners", "labelled", 0).permutation(4))
    drawn = rng(0, "mix", 0)
    drawn.random(4)
    lam = drawn.beta(1.0, 1.0)
    with torch.no_grad():
        logs = network(lam * batch.inputs + (1 - lam) * batch.inputs[partner]).log_softmax(1)
    losses = [-logs[torch.arange(4), truth].mean() for truth in (batch.truth_L, batch.truth_L[partner])]
    assert one.history[0].loss == pytest.approx(float(lam * losses[0] + (1 - lam) * losses[1]), rel=1e-5)


def test_all_arms_of_a_stream_are_mixed_alike(world: World, local_context: Context) -> None:
    """A student whose teacher counts nothing is the one without."""
    training = {**SGD, "mixing": {"cutmix": 1.0, "mixup": 0.5}}
    nothing = Part.model_validate({"name": "soft", "alpha": 0.0})
    taught = student("taught", model="plain", training=training).model_copy(update={"method": nothing})
    with_teacher, without = run(local_context, taught, student("none", "none", model="plain", training=training))
    assert apart(with_teacher, without) < PARTS_TOLERANCE


ALL = {
    "mixing": {"mixup": 0.5, "cutmix": 1.0, "share": 0.8}, "ema": 0.9, "accumulate": 2, "precision": "bfloat16",
    "early_stopping": {"patience": 2}, "keep": "best",
}  # fmt: skip
SMALL = {"start": {"name": "tests.students.world:sized", "width": 2}, "distil": 0.25}


def sized(name: str, method: str = "soft", more: bool = False, **settings: Any) -> StudentInputs:
    """A student that starts in a width of 2 and ends in one of 6."""
    model = Part.model_validate({"name": "tests.students.world:sized", "width": 6, "more": more})
    training = {"scaling": SMALL, "ema": 0.8, **settings.pop("training", {})}
    return student(name, method, training=training, **settings).model_copy(update={"model": model})


def test_a_student_that_starts_small_ends_as_large_as_it_is_asked_for(world: World, local_context: Context) -> None:
    """Its best epoch is one of the large model, whatever the small one reached."""
    best = {"keep": "best", "early_stopping": {"patience": 2}}
    ones = run(local_context, sized("wide", steps=40, training=best), sized("deep", "relational", more=True, steps=40))
    for one in ones:
        assert len(weights(one)["network.0.weight"]) == 6
        assert one.history[-1].loss < one.history[0].loss


TOGETHER = (
    student("all", steps=30, training=ALL),
    student("steps", training={"schedule": {"name": "step", "epochs": 1, "factor": 0.5}, "optimizer": "timm/lamb"}),
    sized("wide", training={"early_stopping": {"patience": 1}, "keep": "best"}),
    sized("deep", "adversarial", more=True),
    student("inverse", "none", training={"schedule": {"name": "inverse-time", "decay": 0.5}, "ema": 0.8}),
)
"""Students that use every strategy between them."""


def test_a_cohort_equals_its_students_alone(world: World, contexts: Any) -> None:
    together = run(contexts("together"), *TOGETHER)
    alone = [run(contexts(one.name), one)[0] for one in TOGETHER]
    assert [(one.model and one.model.digest, one.history, one.ended_early) for one in together] == [
        (one.model and one.model.digest, one.history, one.ended_early) for one in alone
    ]


@pytest.mark.parametrize("die_at", [3, 18, 21, 40])
def test_killed_and_resumed_equals_uninterrupted(
    world: World, contexts: Any, monkeypatch: pytest.MonkeyPatch, die_at: int
) -> None:
    whole = run(contexts("whole"), *TOGETHER)
    monkeypatch.setattr(checkpoints, "EVERY_SECONDS", 0.0)
    dying = World().use(monkeypatch)
    dying.samples.die_at = die_at
    context = contexts("killed")
    with pytest.raises(Killed):
        run(context, *TOGETHER)
    World().use(monkeypatch)
    again = run(context, *TOGETHER)
    assert [(one.model and one.model.digest, one.history, one.ended_early) for one in again] == [
        (one.model and one.model.digest, one.history, one.ended_early) for one in whole
    ]
