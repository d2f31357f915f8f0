"""Translation the whole way: two sides, a teacher that is forced on its own words, and what is refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml

from pipeline.api import run
from pipeline.checks import check_spec
from pipeline.checks.labels import given_faults
from pipeline.specs import load_spec
from schemas.base import Part
from schemas.encodings import Dense
from schemas.errors import SpecError
from schemas.labels import SAID, LabelShape
from stages.domains.reader import TEST, Samples, read_split, read_truth
from stages.labels.encodings import ITEMS, label_schema, said_field
from stages.labels.reader import LabelSet
from stages.places import Place
from stages.tasks import get_task
from stages.tasks._tokenizers import NOTHING
from stages.tasks.base import Packed
from stages.tasks.translation import Translation, TranslationPreprocessing
from stages.training.models import LoadedModel, load_model
from tests.tasks.worlds.translation import WORLD

ENCODING = {"kind": "top-k", "k": 16, "values": "uint8"}
TASK = {"name": "translation", **WORLD.config}


def write_spec(folder: Path, **changes: Any) -> Path:
    """A teacher that reads English, and a student that reads French, over two tiny domains."""
    folder.mkdir(parents=True, exist_ok=True)
    training = {"steps": 8, "batch_size": 16, "learning_rate": WORLD.learning_rate}
    source = [{name: row[name] for name in ("en", "label")} for row in WORLD.rows(48, 1, 0)]
    spec: dict[str, Any] = {
        "version": 1,
        "name": "two-sides",
        "task": {**TASK},
        "resources": {"mode": "local"},
        "domains": {
            "here": {"from": WORLD.write(folder / "here", source), "split": {"train": 0.8, "validation": 0.2}},
            "there": {
                "from": WORLD.write(folder / "there", WORLD.rows(60, 2, 1)),
                "split": {"train": 0.5, "validation": 0.2, "test": 0.3},
                "label_budget": {"train": 5, "validation": 5},
            },
        },
        "teachers": {
            "english": {
                "domains": ["here"],
                "model": {"name": "marian", **WORLD.models["marian"]},
                "preprocessing": {"side": "en"},
                "training": training,
            }
        },
        "labels": {"said": {"teacher": "english", "domain": "there", "encoding": ENCODING}},
        "students": {
            name: {
                "model": {"name": "marian-light", **WORLD.models["marian-light"]},
                "labels": "said",
                "preprocessing": {"side": "fr"},
                "method": {"name": method, "alpha": 0.5},
                "training": {**training, "accumulate": accumulate},
            }
            for name, method, accumulate in (("words", "soft", 1), ("sequences", "sequence", 3))
        },
        "evaluation": {
            "metrics": ["chrf", "tokens_right"],
            "bootstrap": 20,
            "cost": False,
            "baselines": ["no-teacher"],
        },
    }
    for path, value in changes.items():
        part = spec
        *way, last = path.split("__")
        for name in way:
            part = part[name]
        part[last] = value
    (folder / "spec.yaml").write_text(yaml.safe_dump(spec, sort_keys=False))
    return folder / "spec.yaml"


@pytest.fixture(scope="module")
def done(tmp_path_factory: pytest.TempPathFactory) -> tuple[Any, list[tuple[str | None, frozenset[str]]]]:
    """What a run came to, and of each batch that was made in it the side that its model reads and the columns given."""
    seen: list[tuple[str | None, frozenset[str]]] = []
    real = Translation._read

    def watched(self: Translation, packed: Packed, preprocessing: TranslationPreprocessing) -> list[str]:
        seen.append((preprocessing.side, frozenset(packed)))
        return real(self, packed, preprocessing)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Translation, "_read", watched)
        result = run(write_spec(tmp_path_factory.mktemp("translation")))
    assert not result.failures, result.failures
    return result, seen


def test_a_student_never_receives_the_teachers_column(done: Any) -> None:
    """Not once in training, validation, labelling or evaluation, though every sample has both."""
    result, seen = done
    assert set(result.outputs["domains.there"].samples.model_dump())  # packed with both sides
    samples = Samples.open(Place(result.outputs["domains.there"].samples.uri), result.outputs["domains.there"].samples)
    assert set(samples.columns) == {"en", "fr"}
    assert {side for side, _ in seen} == {"en", "fr"}
    assert all(columns == {side} for side, columns in seen)


def opened(result: Any) -> tuple[LoadedModel, LabelSet, Samples]:
    outputs = result.outputs
    teacher, labels, domain = outputs["teachers.english"].model, outputs["labels.said"].labels, outputs["domains.there"]
    samples = Samples.open(Place(domain.samples.uri), domain.samples).only(("en",))
    return load_model(Place(teacher.uri), teacher), LabelSet.open_ref(Place(labels.uri), labels), samples


def test_the_teacher_is_forced_on_its_own_translation(done: Any) -> None:
    """The set holds what it says without being asked, and its distribution of each token of that."""
    teacher, labels, samples = opened(done[0])
    task = teacher.task
    batch = task.batch(samples.read(0), teacher.preprocessing)
    stored = labels.gather(np.arange(samples.rows))
    with torch.no_grad():
        own = teacher.module(batch).long()
        logits = teacher.module(task.forced(batch, own))
    assert torch.equal(task.recalled(stored[ITEMS], stored), own)
    assert stored[SAID].dtype == np.uint16
    decoded = labels.decode(stored)
    assert len(decoded.top1()) == stored[ITEMS].sum() == (own != NOTHING).sum()
    agree = decoded.top1() == logits.argmax(dim=1).numpy()
    assert agree.mean() > 0.98, "ties may fall to another"
    exact = torch.log_softmax(logits.double(), dim=1).numpy()
    kept = decoded.log_probabilities(1.0)
    rows = np.arange(len(exact))
    assert kept[rows, decoded.top1()] == pytest.approx(exact[rows, decoded.top1()], abs=0.02)


def test_the_set_tells_what_it_costs_and_loses(done: Any) -> None:
    _, labels, _ = opened(done[0])
    per_token = sum(field.bytes_per_row for field in labels.schema.fields if field.per == "label")
    assert per_token == 16 * 3 + 4 + 12 + 2
    assert labels.schema.shape == LabelShape(kind="token")
    statistics = labels.manifest.statistics
    assert 0 < statistics.fidelity_rows <= statistics.labels
    assert set(statistics.full_kl_sums) == set(statistics.bucket_kl_sums) == {"1", "2", "4"}
    assert labels.manifest.label_schema.classes == get_task(Part.model_validate(TASK)).vocabulary()


def test_the_two_ways_of_distilling_learn_from_one_set(done: Any) -> None:
    outputs = done[0].outputs
    arms = {name: {arm.arm: arm for arm in outputs[f"evaluation.{name}"].table.arms} for name in ("words", "sequences")}
    for table in arms.values():
        assert set(table) == {"teacher", "distilled", "no-teacher"}
        assert table["distilled"].seeds[0].agreement is not None
    models = {
        student.model.digest
        for name in ("words", "sequences")
        for student in outputs[f"students.{name}"].students
        if student.arm == "distilled"
    }
    assert len(models) == 2


def test_tokens_right_under_forcing(done: Any) -> None:
    """By hand, row after row: the reference up to each token, and whether the model's likeliest next one is its own."""
    outputs = done[0].outputs
    domain, split = outputs["domains.there"], outputs["splits.there"].split
    truth, _ = read_truth(Place(domain.truth.uri), domain.truth)
    test = np.flatnonzero(read_split(Place(split.uri), split) == TEST)
    samples = Samples.open(Place(domain.samples.uri), domain.samples).only(("fr",))
    table = outputs["evaluation.words"].table
    arms = {arm.arm: arm for arm in table.arms}
    assert table.metrics == ("chrf", "tokens_right")
    assert table.comparison.metric == "chrf"
    assert "tokens_right" not in arms["teacher"].mean, "its labels were forced on what it said"
    became = {one.arm: one.model for one in outputs["students.words"].students}
    for name in ("distilled", "no-teacher"):
        model, right, all_of_them = load_model(Place(became[name].uri), became[name]), 0, 0
        for row in test:
            asked = model.task.asked(truth[row : row + 1])
            batch = model.task.batch(samples.gather(np.array([row])), model.preprocessing)
            with torch.no_grad():
                said = model.module(model.task.forced(batch, asked)).argmax(dim=1)
            right += int((said == asked[asked != NOTHING]).sum())
            all_of_them += len(said)
        assert arms[name].mean["tokens_right"] == pytest.approx(right / all_of_them, abs=1e-9)


# --- what is refused ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        ({"students__words__preprocessing": {"side": "de"}}, "students.words.*'de' is none of the task's `sides`"),
        (
            {"teachers__english__preprocessing": {"side": "fr"}},
            "teachers.english reads 'fr', which domain 'here' does not have",
        ),
        (
            {"evaluation__baselines": ["source-only"]},
            "students.words reads 'fr', which domain 'here' does not have: leave source-only out of",
        ),
        ({"task__says": "words"}, "tokenizer 'words' gives no texts back"),
        ({"task__sides": ["en", "label"]}, "names of columns, each once, other than label"),
        (
            {"domains__here__label_budget": {"train": 4, "validation": 4, "without": ["the"]}},
            "domains.here.label_budget.without: samples of 'translation' have no one class",
        ),
        ({"teachers__english__class_map": {"a": "b"}}, "english.class_map: what models of 'translation' say is of the"),
        ({"evaluation__metrics": ["tokens_right"]}, "evaluation.metrics: 'tokens_right' .* cannot lead"),
        ({"students__words__method": "features"}, "'features': it reads `features` of the labels"),
    ],
)
def test_what_cannot_work_is_told_before_any_work(tmp_path: Path, changes: dict[str, Any], problem: str) -> None:
    with pytest.raises(SpecError, match=problem):
        check_spec(load_spec(write_spec(tmp_path, **changes)), Place(str(tmp_path / "workspace")))


def test_other_tokens_are_refused_with_the_way_out(tmp_path: Path) -> None:
    spec = load_spec(write_spec(tmp_path)).spec
    own = get_task(spec.task).vocabulary()
    assert own is not None

    def problems(classes: tuple[str, ...]) -> list[str]:
        schema = label_schema(classes, Dense(), LabelShape(kind="token"), (said_field(len(classes)),))
        return list(given_faults(spec, "said", schema))

    assert problems(own) == []
    (problem,) = problems(own[:-1])
    assert "distil what its teacher said, which needs no shared tokens" in problem


def test_a_text_is_its_tokens_and_an_unknown_one_is_none() -> None:
    task = get_task(Part.model_validate(TASK))
    asked = task.asked(np.array(["一二".encode(), -1], object))
    assert (asked[0] != NOTHING).sum() == 3
    assert (asked[1] != NOTHING).sum() == 1
