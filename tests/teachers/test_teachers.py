"""Teachers: trained (to the bit, killed or not), given, and carried over to a target."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.torch
import torch
from torch import nn

from schemas.artifacts import ModelRef, WeightsRef
from schemas.errors import DataError, ModelError, SpecError, TrainingFailed
from schemas.runs import Event
from schemas.spec import Resources
from schemas.teachers import TeacherInputs, TeacherOutputs
from stages.base import get_stage
from stages.context import Context
from stages.domains.reader import TRAIN, read_split
from stages.places import Place
from stages.tasks import get_task
from stages.teachers.rows import LabelledRows
from stages.teachers.stage import TEACHERS
from stages.training import checkpoints
from stages.training.models import LoadedModel, build, load_model, read_state
from stages.training.weights import weights_digest
from tests.teachers.world import CLASSES, Domain, adapted, given, trained

USER_CODE = Path(__file__).parent.parent / "user_code"
RANKS_TOLERANCE = 1e-5
"""Largest difference of a weight between one rank and two after 9 steps of sgd: sums in another order, float32."""


@pytest.fixture(autouse=True)
def user_code(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(USER_CODE)


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> tuple[Domain, Domain]:
    """(source, target), packed once."""
    folder = tmp_path_factory.mktemp("world")
    context = Context(workspace=Place(str(folder / "workspace")), resources=Resources(mode="local"))
    return (
        Domain(context, folder, rows=160, seed=1),
        Domain(context, folder, rows=120, seed=2, budget=10, ground=0.4, bar=0.5),
    )


def run(context: Context, inputs: TeacherInputs) -> TeacherOutputs:
    outputs: TeacherOutputs = TEACHERS.run(context, inputs)
    return outputs


def loaded(ref: ModelRef) -> LoadedModel:
    return load_model(Place(ref.uri), ref)


def accuracy(ref: ModelRef, domain: Domain) -> float:
    model = loaded(ref)
    with torch.no_grad():
        logits = model.module(model.task.batch({"image": domain.images[..., None]}, model.preprocessing)).numpy()
    return float((np.array(model.card.classes)[logits.argmax(1)] == domain.labels).mean())


def other_place(context: Context, name: str) -> Context:
    return replace(context, workspace=Place(f"{context.workspace.uri}-{name}"))


# --- trained -------------------------------------------------------------------------------------------------------


def test_a_trained_teacher_knows_its_domain(local_context: Context, world: tuple[Domain, Domain]) -> None:
    source, _ = world
    events: list[Event] = []
    context = replace(local_context, sink=events.append)
    outputs = run(context, trained(source, epochs=6))
    assert accuracy(outputs.model, source) > 0.95
    assert [line.epoch for line in outputs.history] == [1, 2, 3, 4, 5, 6]
    assert outputs.history[-1].loss < outputs.history[0].loss
    assert set(outputs.history[0].validation) == {
        "accuracy",
        "macro_f1",
        "balanced_accuracy",
        "calibration_error",
        "nll",
    }
    steps = 6 * -(-source.budget.train // 16)
    assert (events[-1].done, events[-1].total, events[-1].unit) == (steps, steps, "steps")
    assert outputs.classes == CLASSES
    assert run(context, trained(source, epochs=6)) == outputs  # found, not made again
    folder = context.artifact_place("teachers", outputs.model.fingerprint)
    assert len(folder.names()) == 2  # artifact.json and the attempt: no checkpoints are left


def test_equal_seeds_give_equal_bytes_and_others_do_not(local_context: Context, world: tuple[Domain, Domain]) -> None:
    shake = {"rotate": 10, "translate": 0.1}
    inputs = trained(world[0], model="image_factories:group_norm", augmentation=shake)
    one = run(local_context, inputs)
    torch.manual_seed(99)  # what the process drew before does not matter
    same = run(other_place(local_context, "again"), inputs)
    other = run(local_context, trained(world[0], model="image_factories:group_norm", augmentation=shake, seed=1))
    assert one.model.digest == same.model.digest
    assert one.history == same.history
    assert other.model.digest != one.model.digest


class Killed(BaseException):
    """Stands for a process that ends."""


@pytest.mark.parametrize("before", [True, False])
@pytest.mark.parametrize("save", [1, 2, 4])
def test_killed_and_resumed_equals_uninterrupted(
    local_context: Context, world: tuple[Domain, Domain], monkeypatch: pytest.MonkeyPatch, save: int, before: bool
) -> None:
    """Killed around the save-th checkpoint (the fourth holds the finished teacher); dropout and all."""
    inputs = trained(world[0], model="image_factories:group_norm", augmentation={"rotate": 10}, schedule="cosine")
    whole = run(other_place(local_context, "whole"), inputs)
    count, real = 0, checkpoints.save

    def killing(*args: Any) -> None:
        nonlocal count
        count += 1
        if count == save and before:
            raise Killed
        real(*args)
        if count == save:
            raise Killed

    monkeypatch.setattr(checkpoints, "save", killing)
    with pytest.raises(Killed):
        run(local_context, inputs)
    assert TEACHERS.find(local_context, inputs) is None
    monkeypatch.setattr(checkpoints, "save", real)
    resumed = run(local_context, inputs)
    assert resumed.model.digest == whole.model.digest
    assert (resumed.history, resumed.kept_epoch) == (whole.history, whole.kept_epoch)


def test_short_epochs_do_not_each_write_a_checkpoint(
    local_context: Context, world: tuple[Domain, Domain], monkeypatch: pytest.MonkeyPatch
) -> None:
    saves, real = [], checkpoints.save

    def counting(place: Place, number: int, *rest: Any) -> None:
        saves.append(number)
        real(place, number, *rest)

    monkeypatch.setattr(checkpoints, "save", counting)
    monkeypatch.setattr(checkpoints, "EVERY_SECONDS", 3600.0)
    outputs = run(local_context, trained(world[0]))
    assert len(outputs.history) == 3
    assert saves == [4], "what is saved is the finished teacher alone"


def test_the_best_epoch_is_kept_unless_the_last_is_asked_for(
    local_context: Context, world: tuple[Domain, Domain]
) -> None:
    best = run(local_context, trained(world[0], epochs=5))
    figures = [line.validation["accuracy"] for line in best.history]
    assert best.kept_epoch == 1 + int(np.argmax(figures))  # the earliest of equals
    last = run(local_context, trained(world[0], epochs=5, keep="last"))
    assert last.kept_epoch == 5


def test_steps_may_end_within_an_epoch(local_context: Context, world: tuple[Domain, Domain]) -> None:
    outputs = run(local_context, trained(world[0], epochs=None, steps=8))  # 6 steps are an epoch
    assert [line.epoch for line in outputs.history] == [1, 2]


def test_two_domains_are_mixed_and_hidden_truth_is_not_used(
    local_context: Context, world: tuple[Domain, Domain], tmp_path: Path
) -> None:
    source, target = world
    outputs = run(local_context, trained(source, target, epochs=6))
    assert accuracy(outputs.model, source) > 0.9

    inputs = trained(source, target)
    rows = LabelledRows(inputs.way.domains, CLASSES, local_context.storage)  # type: ignore[union-attr]
    assert len(rows.train) == source.budget.train + 10
    assert len(rows.validation) == source.budget.validation + 10
    task = get_task(inputs.task)
    positions = rows.train[::-1].copy()
    images = np.concatenate([source.images, target.images])
    labels = np.concatenate([source.labels, target.labels])
    batch = rows.batch(task, task.Preprocessing(), positions)
    assert torch.equal(batch, torch.from_numpy(images[positions][:, None]).float() / 255)
    assert [CLASSES[number] for number in rows.truth(positions).tolist()] == labels[positions].tolist()


def test_label_smoothing_is_that_of_the_formula(local_context: Context, world: tuple[Domain, Domain]) -> None:
    """One full-batch step, no noise: its loss by hand from the untrained model."""
    inputs = trained(
        world[0], model="image_factories:plain", epochs=1, batch_size=world[0].budget.train + 5, label_smoothing=0.3
    )
    outputs = run(local_context, inputs)
    rows = LabelledRows(inputs.way.domains, CLASSES, local_context.storage)  # type: ignore[union-attr]
    task = get_task(inputs.task)
    network = build(task, inputs.model, 3, {}, 0)  # type: ignore[arg-type]
    with torch.no_grad():
        logs = network(rows.batch(task, task.Preprocessing(), rows.train)).log_softmax(1)
    wanted = 0.7 * torch.nn.functional.one_hot(torch.from_numpy(rows.truth(rows.train)).long(), 3) + 0.3 / 3
    assert outputs.history[0].loss == pytest.approx(float(-(wanted * logs).sum(1).mean()), rel=1e-5)


def test_training_that_is_not_finite_names_the_step_and_a_mend(
    local_context: Context, world: tuple[Domain, Domain]
) -> None:
    wild = trained(world[0], optimizer="sgd", learning_rate=1e30, schedule="constant", model="image_factories:plain")
    with pytest.raises(TrainingFailed, match=r"the loss is .* at step \d+ of 18: lower `training.learning_rate`"):
        run(local_context, wild)


def test_training_with_a_class_map_learns_its_own_classes(local_context: Context, world: tuple[Domain, Domain]) -> None:
    inputs = trained(
        world[0], epochs=6, classes=("side", "middle"), own_classes=CLASSES,
        class_map={"left": "side", "right": "side", "middle": "middle"},
    )  # fmt: skip
    outputs = run(local_context, inputs)
    assert outputs.classes == ("side", "middle")
    model = loaded(outputs.model)
    assert model.module(torch.rand(2, 1, 8, 8)).shape == (2, 2)
    assert model.network(torch.rand(2, 1, 8, 8)).shape == (2, 3)


def test_a_training_may_start_from_given_weights(
    local_context: Context, world: tuple[Domain, Domain], tmp_path: Path
) -> None:
    first = run(local_context, trained(world[0], epochs=4))
    file = tmp_path / "start.safetensors"
    safetensors.torch.save_file(read_state(Place(first.model.uri), first.model), file)
    inputs = trained(world[0], epochs=1, learning_rate=1e-6)
    weights = WeightsRef(uri=str(file), digest=weights_digest(str(file)))
    way = inputs.way.model_copy(update={"weights": weights})
    second = run(local_context, inputs.model_copy(update={"way": way}))
    assert second.history[0].loss < first.history[0].loss / 2


def test_what_cannot_be_trained(local_context: Context, world: tuple[Domain, Domain], tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="has no weights to train"):
        run(local_context, trained(world[0], model="image_factories:brightness"))
    with pytest.raises(ModelError, match="the same `classes`"):
        run(local_context, trained(world[0], classes=("left", "right", "top")))
    with pytest.raises(SpecError, match="needs a `model`"):
        run(local_context, trained(world[0]).model_copy(update={"model": None}))
    unlabelled = Domain(local_context, tmp_path, rows=60, seed=5, budget=0)
    with pytest.raises(DataError, match="raise `label_budget.train`"):
        run(local_context, trained(unlabelled))


@pytest.mark.ray
@pytest.mark.slow
def test_two_ranks_equal_one(ray_context: Context, world: tuple[Domain, Domain]) -> None:
    """On a real worker group; the batch of 15 does not divide by two, and the last one is padded."""
    inputs = trained(world[0], model="image_factories:plain", optimizer="sgd", batch_size=15, epochs=None, steps=9)
    local = other_place(replace(ray_context, resources=Resources(mode="local")), "local")
    one = run(local, inputs)
    two = run(replace(ray_context, resources=Resources(workers=2, cpus_per_worker=0.5)), inputs)
    assert one.model.fingerprint == two.model.fingerprint
    states = [read_state(Place(outputs.model.uri), outputs.model) for outputs in (one, two)]
    for name, value in states[0].items():
        assert float((value - states[1][name]).abs().max()) < RANKS_TOLERANCE, name
    losses = [[line.loss for line in outputs.history] for outputs in (one, two)]
    assert losses[0] == pytest.approx(losses[1], rel=1e-4)


# --- strategies ----------------------------------------------------------------------------------------------------

STRATEGIES: dict[str, Any] = {
    "mixing": {"mixup": 1.0, "cutmix": 1.0}, "ema": 0.9, "accumulate": 3, "precision": "bfloat16",
    "early_stopping": {"patience": 1, "min_gain": 1.0},
    "schedule": "constant", "optimizer": "timm/lamb", "epochs": 6,
}  # fmt: skip


@pytest.mark.parametrize("save", [1, 2, 3])
def test_strategies_outlive_a_kill(
    local_context: Context, world: tuple[Domain, Domain], monkeypatch: pytest.MonkeyPatch, save: int
) -> None:
    """Killed after the save-th checkpoint; the third holds the teacher, which ended after its second epoch."""
    inputs = trained(world[0], model="image_factories:group_norm", **STRATEGIES)
    whole = run(other_place(local_context, "whole"), inputs)
    assert [line.epoch for line in whole.history] == [1, 2]
    assert "ended early after epoch 2: accuracy of epoch 1" in str(whole.ended_early)
    count, real = 0, checkpoints.save

    def killing(*args: Any) -> None:
        nonlocal count
        count += 1
        real(*args)
        if count == save:
            raise Killed

    with monkeypatch.context() as patch:
        patch.setattr(checkpoints, "save", killing)
        with pytest.raises(Killed):
            run(local_context, inputs)
    assert run(local_context, inputs).dump() | {"model": None} == whole.dump() | {"model": None}


@pytest.mark.parametrize("model", ["mobile-tiny", "resnet-tiny"])
@pytest.mark.parametrize("save", [1, 2])
def test_a_teacher_that_starts_small_outlives_a_kill(
    local_context: Context, world: tuple[Domain, Domain], monkeypatch: pytest.MonkeyPatch, save: int, model: str
) -> None:
    """Widened or taught, in the middle of the second epoch of three; killed after the first or the second."""
    scaling = {"start": {"name": "mobile-tiny", "width": 0.25}, "distil": 0.4}
    inputs = trained(world[0], model=model, scaling=scaling, ema=0.5)
    whole = run(other_place(local_context, "whole"), inputs)
    count, real = 0, checkpoints.save

    def killing(*args: Any) -> None:
        nonlocal count
        count += 1
        real(*args)
        if count == save:
            raise Killed

    with monkeypatch.context() as patch:
        patch.setattr(checkpoints, "save", killing)
        with pytest.raises(Killed):
            run(local_context, inputs)
    resumed = run(local_context, inputs)
    assert (resumed.model.digest, resumed.history) == (whole.model.digest, whole.history)
    assert loaded(whole.model).card.model.name == model
    assert whole.kept_epoch in (2, 3), "epochs of the smaller model are not kept"


def test_parts_of_a_batch_make_the_step_of_the_whole(local_context: Context, world: tuple[Domain, Domain]) -> None:
    """In steps that padding fills up, too; without batch norm, to rounding."""
    states = []
    for more in ({}, {"accumulate": 5}, {"ema": 1e-9}):
        mixing = {"cutmix": 1.0}
        inputs = trained(world[0], model="image_factories:plain", optimizer="sgd", batch_size=15, mixing=mixing, **more)
        outputs = run(local_context, inputs)
        states.append(read_state(Place(outputs.model.uri), outputs.model))
    for state in states[1:]:
        for name, value in states[0].items():
            assert float((value - state[name]).abs().max()) < RANKS_TOLERANCE, name


def test_the_average_of_a_teacher_is_what_is_judged_and_kept(
    local_context: Context, world: tuple[Domain, Domain]
) -> None:
    plain = run(local_context, trained(world[0], keep="last"))
    slow = run(local_context, trained(world[0], keep="last", ema=0.99))
    assert [line.loss for line in slow.history] == [line.loss for line in plain.history]
    assert [line.validation for line in slow.history] != [line.validation for line in plain.history]
    assert slow.model.digest != plain.model.digest


# --- given -----------------------------------------------------------------------------------------------------------


def test_given_weights_become_plain_tensors(local_context: Context, tmp_path: Path) -> None:
    import image_factories  # type: ignore[import-not-found]

    network = image_factories.plain(5).eval()
    file = str(tmp_path / "teacher.pt")
    torch.save({"state_dict": {f"module.{name}": value for name, value in network.state_dict().items()}}, file)
    outputs = run(
        local_context,
        given(
            "image_factories:plain",
            WeightsRef(uri=file, digest=weights_digest(file)),
            own_classes=("a", "b", "c", "d", "e"),
            class_map={"a": "left", "b": "left", "c": "middle", "d": "right"},
            preprocessing={"mean": [0.4], "std": [0.3]},
        ),
    )
    model = loaded(outputs.model)
    batch = torch.rand(3, 1, 8, 8)
    raw = network((batch - 0.4) / 0.3)
    wanted = torch.stack([raw[:, :2].logsumexp(1), raw[:, 2], raw[:, 3]], dim=1)
    logits, unmapped = model.answer(batch)
    assert torch.allclose(logits, wanted, atol=1e-6)
    assert torch.allclose(unmapped, raw.softmax(1)[:, 4], atol=1e-6)
    assert outputs.history == ()
    assert model.card.code.keys() == {"task image-classification", "model image_factories:plain"}


def test_a_factory_may_bring_its_weights_or_be_a_callable(local_context: Context) -> None:
    brought = run(local_context, given("image_factories:own_weights"))
    state = read_state(Place(brought.model.uri), brought.model)
    assert all(bool((value == 0.25).all()) for value in state.values())
    served = run(local_context, given("image_factories:brightness"))
    assert read_state(Place(served.model.uri), served.model) == {}
    assert loaded(served.model).module(torch.ones(1, 1, 8, 8)).tolist() == [[1.0, 2.0, 3.0]]


def test_given_teachers_that_do_not_fit(local_context: Context, tmp_path: Path) -> None:
    import image_factories

    file = str(tmp_path / "teacher.pt")
    torch.save(image_factories.plain(5).state_dict(), file)
    weights = WeightsRef(uri=file, digest=weights_digest(file))
    with pytest.raises(ModelError, match="do not fit the model"):
        run(local_context, given("image_factories:plain", weights))
    with pytest.raises(ModelError, match="leads to middle"):
        run(local_context, given("mobile-tiny", own_classes=("a", "b"), class_map={"a": "left", "b": "right"}))
    with pytest.raises(SpecError, match="needs `own_classes`"):
        run(local_context, given("mobile-tiny", class_map={"a": "left"}))
    with pytest.raises(ModelError, match="have changed"):
        run(local_context, given("image_factories:plain", weights.model_copy(update={"digest": "0" * 32})))


# --- carried over ----------------------------------------------------------------------------------------------------


def train_rows(domain: Domain) -> np.ndarray:
    split = domain.split.split
    return np.flatnonzero(read_split(Place(split.uri), split) == TRAIN)


def test_statistics_are_those_of_the_targets_train_inputs(local_context: Context, world: tuple[Domain, Domain]) -> None:
    """The first layer by hand, on all rows in one batch: mean, and variance over n - 1."""
    source, target = world
    teacher = run(local_context, trained(source))
    carried = run(local_context, adapted(teacher.model, target))
    old, new = (read_state(Place(ref.uri), ref) for ref in (teacher.model, carried.model))
    with torch.no_grad():
        images = torch.from_numpy(target.images[train_rows(target)][:, None]).float() / 255
        convolved = nn.functional.conv2d(images, old["network.0.0.weight"], padding=1)
    assert torch.allclose(new["network.0.1.running_mean"], convolved.mean((0, 2, 3)), atol=1e-5)
    assert torch.allclose(new["network.0.1.running_var"], convolved.var((0, 2, 3), unbiased=True), rtol=1e-4)
    for name, value in old.items():
        if "running" not in name and "num_batches" not in name:
            assert torch.equal(value, new[name]), name
    assert loaded(carried.model).card == loaded(teacher.model).card


def test_adapting_helps_under_a_shift(local_context: Context, world: tuple[Domain, Domain]) -> None:
    source, target = world
    teacher = run(local_context, trained(source, epochs=6))
    carried = run(local_context, adapted(teacher.model, target))
    assert accuracy(carried.model, target) > accuracy(teacher.model, target) + 0.1


def test_batches_weigh_alike_and_other_rows_do_not_count(
    local_context: Context, world: tuple[Domain, Domain], tmp_path: Path
) -> None:
    source, target = world
    teacher = run(local_context, trained(source))
    small = run(local_context, adapted(teacher.model, target, batch_size=24))  # 72 rows in 3 batches
    whole = run(local_context, adapted(teacher.model, target))
    one, other = (read_state(Place(o.model.uri), o.model) for o in (small, whole))
    assert int(one["network.0.1.num_batches_tracked"]) == 3
    # Equal batches: the mean over them is the mean over all rows.
    assert torch.allclose(one["network.0.1.running_mean"], other["network.0.1.running_mean"], atol=1e-5)
    again = run(other_place(local_context, "again"), adapted(teacher.model, target, batch_size=24))
    assert again.model.digest == small.model.digest


def test_a_given_teacher_with_a_class_map_can_be_adapted(local_context: Context, world: tuple[Domain, Domain]) -> None:
    inputs = given(
        "mobile-tiny", own_classes=("l", "m", "r", "other"), class_map={"l": "left", "m": "middle", "r": "right"},
        preprocessing={"size": 12},
    )  # fmt: skip
    teacher = run(local_context, inputs)
    carried = run(local_context, adapted(teacher.model, world[1]))
    assert carried.classes == CLASSES
    assert loaded(carried.model).card == loaded(teacher.model).card
    assert carried.model.digest != teacher.model.digest


def test_a_teacher_without_batch_norm_cannot_be_adapted(local_context: Context, world: tuple[Domain, Domain]) -> None:
    teacher = run(local_context, given("image_factories:plain"))
    assert not teacher.statistics
    assert run(local_context, given("mobile-tiny")).statistics
    with pytest.raises(ModelError, match=r"no batch-norm layers.*without `adapt`"):
        run(local_context, adapted(teacher.model, world[1]))


@pytest.mark.ray
def test_a_ray_task_gives_the_same_bytes_and_the_same_errors(
    ray_context: Context, world: tuple[Domain, Domain]
) -> None:
    local = other_place(replace(ray_context, resources=Resources(mode="local")), "local")
    teacher = run(local, given("mobile-tiny"))
    here, there = (run(context, adapted(teacher.model, world[1])) for context in (local, ray_context))
    assert here.model.digest == there.model.digest
    plain = run(local, given("image_factories:plain"))
    with pytest.raises(ModelError, match="no batch-norm layers"):
        run(ray_context, adapted(plain.model, world[1]))


# --- the stage ------------------------------------------------------------


def test_the_stage_is_found_and_its_example_is_whole() -> None:
    stage = get_stage("teachers")
    example = stage.example()
    assert TeacherInputs.parse_json(example.to_json(), "example") == example
    assert len(stage.fingerprint(example)) == 32


def test_what_changes_the_fingerprint(world: tuple[Domain, Domain], monkeypatch: pytest.MonkeyPatch) -> None:
    source = world[0]
    moved = source.labelled.samples.model_copy(update={"uri": "elsewhere"})
    inputs = trained(source)
    way = inputs.way.model_copy(update={"domains": (source.labelled.model_copy(update={"samples": moved}),)})
    same = TEACHERS.fingerprint(inputs)
    assert TEACHERS.fingerprint(inputs.model_copy(update={"way": way})) == same
    others = [trained(source, seed=1), trained(source, epochs=4), trained(source, model="resnet-tiny")]
    assert same not in {TEACHERS.fingerprint(other) for other in others}
