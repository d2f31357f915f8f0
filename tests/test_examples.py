"""The examples as people run them, cut short: real data, the whole way, in this process."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from pipeline.api import plan
from pipeline.specs import load_spec
from tests.test_door import ROOT, command

EXAMPLES = ROOT / "examples"


def ran(spec: str, workspace: Path, *overrides: str, form: str | None = None) -> dict[str, Any]:
    """Outputs of a run by the command line."""
    words = [word for override in ("resources.mode=local", *overrides) for word in ("--set", override)]
    words += [] if form is None else ["--form", form]
    answer = command("run", str(EXAMPLES / spec), "--workspace", str(workspace), "--json", *words)
    assert answer.returncode == 0, answer.stderr
    outputs: dict[str, Any] = json.loads(answer.stdout)["outputs"]
    return outputs


@pytest.mark.parametrize("spec", sorted(path.name for path in EXAMPLES.glob("*.yaml")))
def test_every_example_is_a_spec(spec: str) -> None:
    name = spec.removesuffix(".yaml")
    assert load_spec(EXAMPLES / spec).spec.name == name
    for form in yaml.safe_load((EXAMPLES / spec).read_text()).get("forms", {}):
        assert load_spec(EXAMPLES / spec, form=form).spec.name == f"{name}-{form}"


def test_mnist_to_digits_cut_short(tmp_path: Path) -> None:
    outputs = ran(
        "mnist-to-digits.yaml",
        tmp_path / "workspace",
        "teachers.resnet.training={steps: 60, learning_rate: 4.0e-3}",
        "students.mobile.training.steps=30",
        "students.mobile.seeds=2",
    )
    assert outputs["domains.mnist"]["rows"] == 5000
    assert outputs["labels.resnet-on-digits"]["rows"] == 1797
    table = outputs["evaluation.mobile"]["table"]
    arms = {arm["arm"]: arm["mean"] for arm in table["arms"]}
    assert set(arms) == {"teacher", "distilled", "no-teacher", "source-only", "source-finetuned"}
    assert table["test_rows"] == 503
    assert table["selection_rows"] == [50, 50]
    assert arms["teacher"]["accuracy"] > 0.5, "sixty steps on MNIST and re-estimated statistics carry over"
    costs = {cost["name"]: cost for cost in outputs["costs"]["table"]["costs"]}
    assert costs["resnet-adapted"]["parameters"] > 10 * costs["mobile"]["parameters"]


def test_bring_your_teacher_cut_short(tmp_path: Path) -> None:
    data = tmp_path / "data"
    make = [sys.executable, str(EXAMPLES / "bring_your_teacher/make.py"), "--out", str(data)]
    subprocess.run([*make, "--pictures", "160", "--steps", "2"], check=True, capture_output=True)
    pictures = data / "pictures"
    overrides = (
        f"domains.pictures.from={{image_folder: {pictures}, labels: {pictures / 'classes.csv'}}}",
        f"teachers.resnet18.weights={data / 'resnet18.safetensors'}",
        "students.mobilenet.training.steps=3",
        "students.mobilenet.seeds=1",
        "domains.pictures.label_budget=20",
    )
    outputs = ran("bring-your-teacher.yaml", tmp_path / "workspace", *overrides)
    assert outputs["domains.pictures"]["classes"] == ["round", "straight", "mixed"]
    assert outputs["teachers.resnet18-adapted"]["classes"] == ["round", "straight", "mixed"]
    arms = [arm["arm"] for arm in outputs["evaluation.mobilenet"]["table"]["arms"]]
    assert arms == ["teacher", "distilled", "no-teacher"]
    made = plan(EXAMPLES / "bring-your-teacher.yaml", str(tmp_path / "workspace"), ("resources.mode=local", *overrides))
    assert made.to_do == []


@pytest.mark.parametrize(
    ("name", "source", "target"),
    [("strings", ("suite", 14765), ("spreadsheet", 3006)), ("verses", ("long", 2926), ("short", 3172))],
)
def test_translation_cut_short(name: str, source: tuple[str, int], target: tuple[str, int], tmp_path: Path) -> None:
    """A few steps of tiny models: every byte of the packages is read all the same."""
    tiny, labels = "width: 16, layers: 1, decoder_layers: 1, heads: 1", f"english-on-{target[0]}"
    outputs = ran(
        f"{name}-translation.yaml",
        tmp_path / "workspace",
        "task.said_tokens=8",
        f"teachers.english.model={{name: marian, {tiny}}}",
        "teachers.english.preprocessing={side: en, beams: 1}",
        "teachers.english.training.steps=4",
        f"students={{words: {{model: {{name: marian-light, {tiny}}}, labels: {labels}, "
        "preprocessing: {side: fr, beams: 1}, training: {steps: 3}}}",
        "evaluation.cost=false",
    )
    assert outputs[f"domains.{source[0]}"]["rows"] == source[1]
    assert outputs[f"labels.{labels}"]["rows"] == target[1]
    table = outputs["evaluation.words"]["table"]
    assert {arm["arm"] for arm in table["arms"]} == {"teacher", "distilled", "no-teacher"}
    assert table["comparison"]["metric"] == "bleu"


def test_scenes_detection_cut_short(tmp_path: Path) -> None:
    """All scenes, at four tenths of their size; a few steps of each model."""
    outputs = ran(
        "scenes-detection.yaml",
        tmp_path / "workspace",
        "task.image_size=64",
        "task.items=16",
        "teachers.two-stage.training.steps=2",
        "students.two-stage-on-ten.training.steps=2",
        "students.light.training.steps=2",
        "students.light.seeds=2",
        "evaluation.metrics=[map50]",
        "evaluation.cost=false",
        form="full",
    )
    assert outputs["labels.two-stage-on-uci"]["rows"] == outputs["domains.uci"]["rows"] == 547
    assert [name for name in outputs if name.startswith("budgets.uci")] == ["budgets.uci.seed0"]
    table = outputs["evaluation.light"]["table"]
    assert {arm["arm"] for arm in table["arms"]} == {
        "teacher", "distilled", "no-teacher", "source-only", "source-finetuned"
    }  # fmt: skip
    assert table["selection_rows"] == [20, 20]


def test_scenes_segmentation_cut_short(tmp_path: Path) -> None:
    """All scenes, at a fifth of their size; a few steps of each model."""
    outputs = ran(
        "scenes-segmentation.yaml",
        tmp_path / "workspace",
        "task.image_size=32",
        "task.stride=4",
        "teachers.unet.training.steps=3",
        "students.light.training.steps=3",
        "students.unet-on-ten.training.steps=3",
        "evaluation.metrics=[mean_iou, iou_background]",
        "evaluation.cost=false",
    )
    assert outputs["domains.mnist"]["classes"] == ["background", *"0123456789"]
    assert outputs["labels.unet-on-uci"]["rows"] == outputs["domains.uci"]["rows"] == 547
    table = outputs["evaluation.light"]["table"]
    assert {arm["arm"] for arm in table["arms"]} == {
        "teacher", "distilled", "no-teacher", "source-only", "source-finetuned"
    }  # fmt: skip
    assert all(set(arm["mean"]) == {"mean_iou", "iou_background"} for arm in table["arms"])
    assert table["comparison"]["metric"] == "mean_iou"


def test_reviews_to_tweets_cut_short(tmp_path: Path) -> None:
    """With a bag of words for a teacher: MiniLM would read each tweet for a minute."""
    outputs = ran(
        "reviews-to-tweets.yaml",
        tmp_path / "workspace",
        "teachers.mini={domains: [reviews], model: embedding-bag, training: {steps: 20}}",
        "students.bag.training.steps=20",
        "evaluation.cost=false",
    )
    assert outputs["domains.reviews"]["rows"] == 10605
    assert outputs["labels.mini-on-tweets"]["rows"] == 4200
    table = outputs["evaluation.bag"]["table"]
    assert {arm["arm"] for arm in table["arms"]} == {
        "teacher", "distilled", "no-teacher", "source-only", "source-finetuned"
    }  # fmt: skip
    assert table["comparison"]["metric"] == "balanced_accuracy"
    assert 1000 < table["test_rows"] < 1100


def test_reviews_to_tweets_rating_cut_short(tmp_path: Path) -> None:
    """As above; a tweet whose rating is 0 has a label here."""
    outputs = ran(
        "reviews-to-tweets-rating.yaml",
        tmp_path / "workspace",
        "teachers.mini={domains: [reviews], model: embedding-bag, training: {steps: 20}}",
        "students.mini-on-fifty={model: embedding-bag, domain: tweets, start: mini, method: none, baselines: [], "
        "training: {steps: 5}}",
        "students.bag.training.steps=20",
        "evaluation.baselines=[no-teacher]",
        "evaluation.cost=false",
    )
    assert len(outputs["domains.tweets"]["classes"]) == 33
    table = outputs["evaluation.bag"]["table"]
    assert table["comparison"]["metric"] == "mae"
    assert all(0 < arm["mean"]["mae"] <= arm["mean"]["rmse"] < 4 for arm in table["arms"])
