"""The stage on real samples and models: here and on Ray, again, killed, forced, from a shared store."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from schemas.artifacts import ModelRef, SamplesRef
from schemas.domains import DomainInputs
from schemas.encodings import Dense
from schemas.errors import ModelError, StoreError
from schemas.labels import LabelsInputs, UnitPlan
from schemas.runs import Event
from schemas.spec import Resources, Source
from stages.context import Context
from stages.domains.reader import Samples
from stages.domains.stage import DOMAINS
from stages.labels.actor import LabelActor, LabelJob
from stages.labels.builder import How, Said, UnitBuilder
from stages.labels.encodings import extras_of, features_field, label_schema
from stages.labels.reader import LabelSet
from stages.labels.stage import LABELS
from stages.labels.store import Store
from stages.places import Place
from stages.training.models import load_model
from tests.evaluation.world import CLASSES, TASK, make_model

SHARD_ROWS = (20, 20, 8)


def make_samples(context: Context, folder: Path) -> SamplesRef:
    """48 pictures of noise in three shards."""
    folder.mkdir(parents=True, exist_ok=True)
    pictures = np.random.default_rng(0).integers(0, 255, (sum(SHARD_ROWS), 8, 8, 1)).astype(np.uint8)
    np.savez(folder / "noise.npz", image=pictures)
    source = Source(arrays=str(folder / "noise.npz"))
    return DOMAINS.run(context, DomainInputs(source=source, task=TASK, shard_rows=20)).samples


@pytest.fixture
def asked(local_context: Context, tmp_path: Path) -> LabelsInputs:
    samples = make_samples(local_context, tmp_path)
    teacher = make_model(local_context, seed=1)
    return LabelsInputs(task=TASK, teacher=teacher, samples=samples, batch_size=16, encoding=Dense(dtype="float32"))


def teacher_of(asked: LabelsInputs) -> ModelRef:
    assert asked.teacher is not None
    return asked.teacher


@pytest.fixture
def teachers_loaded(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """Every teacher that is loaded in this process."""
    from stages.training import models

    loaded: list[Any] = []

    def count(*args: Any) -> Any:
        loaded.append(args)
        return load_model(*args)

    monkeypatch.setattr(models, "load_model", count)
    return loaded


def test_labels_are_the_teachers_logits(local_context: Context, asked: LabelsInputs) -> None:
    import torch

    events: list[Event] = []
    outputs = LABELS.run(replace(local_context, sink=events.append), asked)
    labels = LabelSet.open_ref(local_context.place(outputs.labels), outputs.labels)
    samples = Samples.open(local_context.place(asked.samples), asked.samples)
    labels.align(samples)
    assert (outputs.rows, outputs.units) == (48, 3)
    teacher = load_model(local_context.place(teacher_of(asked)), teacher_of(asked))
    for shard in range(3):
        batch = teacher.task.batch(samples.read(shard), teacher.preprocessing)
        with torch.inference_mode():
            expected = teacher.module(batch).numpy()
        np.testing.assert_allclose(labels.read(shard)["logits"], expected, rtol=1e-5, atol=1e-5)
        assert labels.sample_ids(shard) == samples.sample_ids(shard)
    assert (events[-1].done, events[-1].total, events[-1].unit) == (48, 48, "rows")


def test_the_teachers_features_stand_beside_its_labels(local_context: Context, asked: LabelsInputs) -> None:
    import torch

    with_features = asked.model_copy(update={"features": "float32", "difficulty": ("entropy",)})
    outputs = LABELS.run(local_context, with_features)
    labels = LabelSet.open_ref(local_context.place(outputs.labels), outputs.labels)
    beside = {field.name: (field.shape, field.dtype) for field in extras_of(labels.schema)}
    assert beside == {"entropy": ((), "float32"), "features": ((64,), "float32")}
    teacher = load_model(local_context.place(teacher_of(asked)), teacher_of(asked))
    head = list(teacher.network.modules())[-1]
    stored = labels.gather(np.arange(48)[::-1])
    again = head(torch.from_numpy(stored["features"])).detach().numpy()
    np.testing.assert_allclose(again, stored["logits"], rtol=1e-4, atol=1e-4)
    plain = LABELS.run(local_context, asked)
    assert plain.labels.digest != outputs.labels.digest
    opened = LabelSet.open_ref(local_context.place(plain.labels), plain.labels)
    assert np.array_equal(opened.gather(np.arange(48)[::-1])["logits"], stored["logits"])


def test_fields_that_nobody_asks_for_are_not_even_opened(local_context: Context, asked: LabelsInputs) -> None:
    outputs = LABELS.run(local_context, asked.model_copy(update={"features": "float16"}))
    place = local_context.place(outputs.labels)
    for path in Path(place.uri).glob("units/*/*/features/c/0/0"):
        path.unlink()
    labels = LabelSet.open_ref(place, outputs.labels)
    assert set(labels.gather(np.array([3, 1]), extras=())) == {"logits"}
    with pytest.raises(StoreError, match="features.* is missing"):
        labels.gather(np.array([3, 1]), extras=["features"])
    assert set(labels.gather(np.array([5]), extras=())) == {"logits"}, "it goes on without them"


def test_features_that_do_not_fit_their_type_are_refused() -> None:
    how = How(label_schema(CLASSES, Dense(), extras=(features_field(1, "float16"),)))
    unit = UnitPlan(key="0" * 32, shard="s", shard_digest="0" * 32, rows=1)
    builder = UnitBuilder(how, unit, ["a"], np.zeros((1, 16), np.uint8))
    said = Said(np.zeros((1, len(CLASSES)), np.float32), extras={"features": np.array([[1e6]], np.float32)})
    with pytest.raises(ModelError, match=r"features for shard 's' are not finite as float16: store them as float32"):
        builder.add(slice(0, 1), said)


def test_again_does_nothing(local_context: Context, asked: LabelsInputs, teachers_loaded: list[Any]) -> None:
    assert LABELS.find(local_context, asked) is None
    outputs = LABELS.run(local_context, asked)
    assert LABELS.find(local_context, asked) == LABELS.run(local_context, asked) == outputs
    assert len(teachers_loaded) == 1


def test_a_shared_store_is_adopted_without_a_teacher(
    local_context: Context, tmp_path: Path, asked: LabelsInputs, teachers_loaded: list[Any]
) -> None:
    shared = asked.model_copy(update={"store": str(tmp_path / "store")})
    first = LABELS.run(local_context, shared)
    elsewhere = replace(local_context, workspace=Place(str(tmp_path / "other")))
    assert LABELS.run(elsewhere, shared) == first
    assert LABELS.find(elsewhere, shared) == first
    assert len(teachers_loaded) == 1


def test_a_workspace_may_be_moved(local_context: Context, tmp_path: Path, asked: LabelsInputs) -> None:
    outputs = LABELS.run(local_context, asked)
    local_context.workspace.path.rename(tmp_path / "moved")
    found = LABELS.find(replace(local_context, workspace=Place(str(tmp_path / "moved"))), asked)
    assert found is not None
    assert found.labels.uri == str(tmp_path / "moved" / "store")
    assert found.labels.digest == outputs.labels.digest


def test_a_lost_set_is_made_again_and_another_is_refused(local_context: Context, asked: LabelsInputs) -> None:
    outputs = LABELS.run(local_context, asked)
    (manifest,) = local_context.workspace.path.glob("store/sets/*/set.json")
    text = manifest.read_text()
    manifest.unlink()
    assert LABELS.find(local_context, asked) is None
    assert LABELS.run(local_context, asked) == outputs
    manifest.write_text(text.replace(outputs.labels.digest, "0" * 32))
    with pytest.raises(StoreError, match="--force labels"):
        LABELS.find(local_context, asked)


DOCUMENTS = ["store/store.json", "store/sets/*/set.json", "artifacts/labels/*/artifact.json"]


@pytest.mark.parametrize("name", DOCUMENTS)
@pytest.mark.parametrize("forced", [False, True], ids=["removed", "forced"])
def test_both_mends_of_a_damaged_document_work(
    local_context: Context, asked: LabelsInputs, name: str, forced: bool
) -> None:
    outputs = LABELS.run(local_context, asked)
    (path,) = local_context.workspace.path.glob(name)
    path.write_bytes(path.read_bytes()[:20])
    with pytest.raises(StoreError, match=rf"^{path} .*: remove it, or make it again with --force labels$"):
        LABELS.find(local_context, asked)
    if forced:
        LABELS.discard(local_context, asked)
    else:
        path.unlink()
    assert LABELS.find(local_context, asked) is None
    assert LABELS.run(local_context, asked) == LABELS.find(local_context, asked) == outputs
    LabelSet.open_ref(local_context.place(outputs.labels), outputs.labels).gather(np.arange(48))


@pytest.mark.parametrize("name", ["sets/*/index-*.parquet", "sets/*/plan.json", "units/*/*/logits/c/0/0"])
def test_force_mends_what_readers_find_damaged(local_context: Context, asked: LabelsInputs, name: str) -> None:
    outputs = LABELS.run(local_context, asked)
    next(local_context.workspace.path.glob(f"store/{name}")).write_bytes(b"{")
    LABELS.discard(local_context, asked)
    assert LABELS.run(local_context, asked) == outputs
    LabelSet.open_ref(local_context.place(outputs.labels), outputs.labels).gather(np.arange(48))


def test_forced_labels_are_inferred_again(
    local_context: Context, asked: LabelsInputs, teachers_loaded: list[Any]
) -> None:
    outputs = LABELS.run(local_context, asked)
    LABELS.discard(local_context, asked)
    assert LABELS.find(local_context, asked) is None
    assert LABELS.run(local_context, asked) == outputs
    assert len(teachers_loaded) == 2


def test_what_counts_and_what_does_not(asked: LabelsInputs) -> None:
    other = {
        "encoding": Dense(dtype="bfloat16"),
        "precision": "bfloat16",
        "batch_size": 17,
        "teacher": teacher_of(asked).model_copy(update={"digest": "1" * 32}),
        "samples": asked.samples.model_copy(update={"digest": "1" * 32}),
    }
    fingerprint = LABELS.fingerprint(asked)
    assert len({fingerprint, *(LABELS.fingerprint(asked.model_copy(update={k: v})) for k, v in other.items())}) == 6
    moved = {
        "store": "elsewhere",
        "teacher": teacher_of(asked).model_copy(update={"uri": "x", "fingerprint": "2" * 32}),
    }
    assert LABELS.fingerprint(asked.model_copy(update=moved)) == fingerprint


def test_bfloat16_compute_is_near(local_context: Context, asked: LabelsInputs) -> None:
    exact, coarse = asked, asked.model_copy(update={"precision": "bfloat16"})
    found = [LABELS.run(local_context, inputs).labels for inputs in (exact, coarse)]
    one, other = (LabelSet.open_ref(local_context.place(ref), ref).logits(np.arange(48)) for ref in found)
    assert 0 < np.abs(one - other).max() < 0.1 * np.abs(one).max()


def test_a_teacher_that_is_not_finite_is_refused(local_context: Context, asked: LabelsInputs) -> None:
    broken = make_model(local_context, seed=1, broken=True)
    with pytest.raises(ModelError, match="is not finite"):
        LABELS.run(local_context, asked.model_copy(update={"teacher": broken}))


def test_the_example_is_valid() -> None:
    assert LABELS.Inputs.parse_json(LABELS.example().to_json(), "example") == LABELS.example()


def test_an_actor_answers_what_went_wrong(local_context: Context, asked: LabelsInputs) -> None:
    """In words, not as an exception, whether its teacher or a unit failed."""
    schema = label_schema(CLASSES, asked.encoding)
    unit = UnitPlan(key="1" * 32, shard="gone", shard_digest="2" * 32, rows=1)
    job = LabelJob(
        store=Store.create(local_context.store_place(None)).place,
        teacher_place=local_context.place(teacher_of(asked)),
        teacher=teacher_of(asked),
        samples_place=local_context.place(asked.samples),
        samples=asked.samples,
        how=How(schema, "float32", 16, 0),
        reporter=None,
        rows_done=0,
        rows_total=48,
    )
    gone = replace(job, teacher_place=Place("/nowhere"))
    for one, told in ((job, "the samples have no shard 'gone'"), (gone, "there is no artifact at /nowhere")):
        answer = LabelActor(one, 1, gpu=False)({"unit": np.array([unit.model_dump_json()])})
        kind, problem = json.loads(str(answer["failure"][0]))
        assert (kind, answer["result"][0]) == ("DataError", "")
        assert problem.startswith(told)


@pytest.mark.ray
def test_on_ray(local_context: Context, ray_context: Context, asked: LabelsInputs, tmp_path: Path) -> None:
    """The same root digest as here, features too; and a failure comes back as what it was."""
    asked = asked.model_copy(update={"features": "float16"})
    here = LABELS.run(local_context, asked)
    shared = asked.model_copy(update={"store": str(tmp_path / "shared")})
    context = replace(ray_context, resources=Resources(workers=2))
    events: list[Event] = []
    there = LABELS.run(replace(context, sink=events.append), shared)
    assert there.labels.digest == here.labels.digest
    assert (events[-1].done, events[-1].total) == (48, 48)
    broken = shared.model_copy(update={"teacher": make_model(local_context, seed=1, broken=True)})
    with pytest.raises(ModelError, match=r"^the teacher's output for sample .* is not finite.*$") as raised:
        LABELS.run(ray_context, broken)
    assert type(raised.value) is ModelError
    assert len(raised.value.problems) == 1
