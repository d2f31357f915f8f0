"""What a plan refuses of a `training:` block, for teachers and students alike; torch stays unloaded."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from pipeline.checks import check_spec
from pipeline.specs import load_spec
from schemas.errors import ContractError, SpecError
from stages.places import Place
from stages.tasks.image_classification import ImageClassification
from tests.pipeline.world import write_world


def check(folder: Path, part: str, training: dict[str, Any], **changes: Any) -> None:
    """Check the tiny world with the training of one part (`students.small`) and some top-level parts changed."""
    path = write_world(folder)
    value = yaml.safe_load(path.read_text())
    for name, change in changes.items():
        for key, item in change.items():
            value[name][key] |= item
    kind, name = part.split(".")
    value[kind][name]["training"] |= training
    path.write_text(yaml.safe_dump(value, sort_keys=False))
    check_spec(load_spec(path), Place(str(folder / "workspace")))


@pytest.mark.parametrize("part", ["teachers.big", "students.small"])
@pytest.mark.parametrize(
    ("training", "problem"),
    [
        ({"optimizer": "timm/lam"}, "optimizer: no optimiser is called 'timm/lam'; did you mean 'timm/lamb'"),
        ({"optimizer": "sgd", "betas": [0.9, 0.99]}, "optimizer: .*'sgd' takes no pair of `betas`"),
    ],
)
def test_what_no_training_can_do(tmp_path: Path, part: str, training: dict[str, Any], problem: str) -> None:
    with pytest.raises(SpecError, match=f"{part}.training.{problem}"):
        check(tmp_path, part, training)


@pytest.mark.parametrize(
    ("part", "domain", "change"),
    [
        ("students.small", "target", {"label_budget": {"train": 6, "validation": 0}}),
        ("students.small", "target", {"split": {"train": 0.5, "test": 0.5}}),
        ("teachers.big", "source", {"split": {"train": 1.0}}),
        ("teachers.big", "source", {"label_budget": {"train": 6, "validation": 0}}),
    ],
)
def test_early_stopping_needs_validation_labels(tmp_path: Path, part: str, domain: str, change: dict[str, Any]) -> None:
    with pytest.raises(SpecError, match=f"{part}.training.early_stopping: .*{domain} has none to use"):
        check(tmp_path, part, {"early_stopping": {}}, domains={domain: change})


@pytest.mark.parametrize("part", ["teachers.big", "students.small"])
def test_the_model_that_a_training_begins_with_exists(tmp_path: Path, part: str) -> None:
    check(tmp_path / "known", part, {"scaling": {"start": {"name": "mobile-tiny", "width": 0.5}}})
    with pytest.raises(
        SpecError, match=f"{part}.training.scaling.start: task .* has no model 'mobil-tiny'; did you mean"
    ):
        check(tmp_path / "unknown", part, {"scaling": {"start": "mobil-tiny"}})


def test_a_student_with_weights_of_its_own_does_not_start_small(tmp_path: Path) -> None:
    (tmp_path / "w.safetensors").write_bytes(b"")
    with pytest.raises(SpecError, match="students.small.training.scaling: .* than the given `weights`"):
        check(
            tmp_path,
            "students.small",
            {"scaling": {"start": "mobile-tiny"}},
            students={"small": {"weights": str(tmp_path / "w.safetensors")}},
        )


@pytest.mark.parametrize("part", ["teachers.big", "students.small"])
def test_only_what_can_be_mixed_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, part: str) -> None:
    check(tmp_path / "pictures", part, {"mixing": {"cutmix": 1.0, "mixup": 0.2}})
    monkeypatch.setattr(ImageClassification, "mixes", frozenset({"mixup"}))
    with pytest.raises(SpecError, match=f"{part}.training.mixing: inputs of task .* cannot be mixed by cutmix"):
        check(tmp_path / "numbers", part, {"mixing": {"cutmix": 1.0, "mixup": 0.2}})


@pytest.mark.parametrize(
    "training", [{"accumulate": 17, "batch_size": 16}, {"accumulate": 3, "batch_size": 16, "labelled_batch_size": 2}]
)
def test_a_batch_is_not_cut_into_more_parts_than_rows(tmp_path: Path, training: dict[str, Any]) -> None:
    with pytest.raises(ContractError, match="`accumulate` cannot cut"):
        check(tmp_path, "students.small", training)


@pytest.mark.parametrize("part", ["teachers.big", "students.small"])
def test_what_it_can(tmp_path: Path, part: str) -> None:
    training = {"optimizer": "timm/lamb", "betas": [0.9, 0.99], "schedule": "cosine", "warmup": 0.1}
    check(tmp_path, part, {**training, "ema": 0.9, "accumulate": 4, "precision": "bfloat16", "early_stopping": {}})


def test_what_needs_whole_batches_is_not_shared_out(tmp_path: Path) -> None:
    path = write_world(tmp_path)
    value = yaml.safe_load(path.read_text())
    value["students"]["small"]["training"]["accumulate"] = 2
    value["resources"]["data_parallel"] = True
    path.write_text(yaml.safe_dump(value))
    with pytest.raises(SpecError, match="students.small: accumulate needs whole batches on one worker"):
        check_spec(load_spec(path), Place(str(tmp_path / "workspace")))


def test_methods_that_follow_validation_or_have_peers_need_what_they_need(tmp_path: Path) -> None:
    def faults(name: str, method: dict[str, Any], **changes: Any) -> None:
        path = write_world(tmp_path / name)
        value = yaml.safe_load(path.read_text())
        value["students"]["small"]["method"] = method
        for part, change in changes.items():
            value[part] |= change
        path.write_text(yaml.safe_dump(value, sort_keys=False))
        check_spec(load_spec(path), Place(str(tmp_path / "workspace")))

    mutual = {"name": "mutual", "peers": ["mobile-tiny"]}
    faults("fine", mutual)
    faults("fine too", {"name": "adaptive"})
    with pytest.raises(SpecError, match="students.small.method: 'mutual' trains on one worker"):
        faults("parallel", mutual, resources={"data_parallel": True})
    target = yaml.safe_load(write_world(tmp_path / "plain").read_text())["domains"]["target"]
    blind = {"target": target | {"label_budget": {"train": 6, "validation": 0}}}
    with pytest.raises(SpecError, match="students.small.method: 'adaptive' follows what validation says"):
        faults("blind", {"name": "adaptive"}, domains=blind)
