"""What a plan refuses of methods and their labels, before anything is made; torch stays unloaded."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from pipeline.api import plan
from pipeline.checks import check_spec
from pipeline.specs import load_spec
from schemas.errors import SpecError
from stages.places import Place
from tests.pipeline.world import write_world


def changed(folder: Path, method: Any, **labels: Any) -> Path:
    """The tiny world with one student's method, and its labels, changed."""
    spec = write_world(folder)
    value = yaml.safe_load(spec.read_text())
    value["students"]["small"]["method"] = method
    value["labels"]["said"] |= labels
    spec.write_text(yaml.safe_dump(value, sort_keys=False))
    return spec


@pytest.mark.parametrize(
    ("method", "labels", "problem"),
    [
        ("features", {}, "'features': it reads `features` of the labels, .* label with `features: float16`"),
        (["soft", "features"], {}, "'combined': it reads `features`"),
        ({"name": "soft", "temperature": 0.5}, {"encoding": {"kind": "top-k"}}, "'soft': temperature 0.5 lies below"),
        ("logit-standardisation", {"encoding": {"kind": "top-k"}}, "cannot learn from top-k.*dense, low-rank"),
        (["dkd", "logit-standardisation"], {"encoding": {"kind": "hard"}}, "cannot learn from hard"),
        ({"name": "hard-examples", "stored": True}, {}, r"reads `entropy`.*difficulty: \[entropy\]"),
        ({"name": "hard-examples", "stored": True, "measure": "loss"}, {}, "never stored: leave out `stored`"),
        ({"name": "combined"}, {}, "'parts' is missing"),
        ([{"name": "soft", "wieght": 1}], {}, "did you mean 'weight'|unknown field 'wieght'"),
    ],
)
def test_methods_that_labels_do_not_serve(tmp_path: Path, method: Any, labels: dict[str, Any], problem: str) -> None:
    loaded = load_spec(changed(tmp_path, method, **labels))
    with pytest.raises(SpecError, match=f"students.small.method: .*{problem}"):
        check_spec(loaded, Place(str(tmp_path / "workspace")))


def test_with_what_they_need_they_pass(tmp_path: Path) -> None:
    loaded = load_spec(changed(tmp_path, ["soft", "features"], features="float16"))
    check_spec(loaded, Place(str(tmp_path / "workspace")))


def test_source_rows_need_a_source(tmp_path: Path) -> None:
    """The teacher's own domain is it; labels of a teacher that was trained elsewhere have none."""
    spec = changed(tmp_path, ["soft", "domain-adversarial"])
    check_spec(load_spec(spec), Place(str(tmp_path / "workspace")))
    value = yaml.safe_load(spec.read_text())
    value["teachers"] = {"fit": {"model": "resnet-tiny", "weights": "big.safetensors"}}
    value["evaluation"]["baselines"] = ["no-teacher"]
    (tmp_path / "big.safetensors").touch()
    spec.write_text(yaml.safe_dump(value, sort_keys=False))
    with pytest.raises(
        SpecError, match="'combined' reads rows of the source domain, and there is none: give it labels"
    ):
        check_spec(load_spec(spec), Place(str(tmp_path / "workspace")))


def test_asking_a_method_loads_no_torch(tmp_path: Path) -> None:
    spec = changed(tmp_path, ["soft", "features"], features="float16")
    code = (
        "import sys; from pipeline.checks import check_spec; from pipeline.specs import load_spec; "
        "from stages.places import Place; from stages.students.methods import METHODS; "
        f"check_spec(load_spec({str(spec)!r}), Place({str(tmp_path / 'w')!r})); "
        "[METHODS.get(name) for name in METHODS.names()]; "
        "print(sorted({'torch', 'ray'} & set(sys.modules)))"
    )
    answer = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert answer.stdout.strip() == "[]"


def test_a_teacher_without_batch_norm_is_not_carried_over(tmp_path: Path) -> None:
    """Found before the teacher is trained, also by way of a student that became a teacher."""
    spec = write_world(tmp_path)
    shutil.copy(Path(__file__).parent.parent / "user_code" / "image_factories.py", tmp_path)
    value = yaml.safe_load(spec.read_text())
    value["teachers"]["big"]["model"] = value["students"]["small"]["model"] = "image_factories:plain"
    value["teachers"] |= {
        "fit": {"from": "big", "adapt": {"domain": "target"}},
        "pupil": {"student": "small", "seed": value["students"]["small"].get("seed", 0)},
        "pupil-fit": {"from": "pupil", "adapt": {"domain": "target"}},
    }
    spec.write_text(yaml.safe_dump(value, sort_keys=False))
    with pytest.raises(SpecError) as refused:
        plan(spec)
    assert [re.sub(":.*? the model of", ":", problem) for problem in refused.value.problems] == [
        f"teachers.{name}.adapt: '{made}' has no batch-norm layers, so there is nothing to re-estimate: use '{made}' "
        "as it is, without `adapt`"
        for name, made in (("fit", "big"), ("pupil-fit", "pupil"))
    ]


def test_a_detector_is_not_scaled(tmp_path: Path) -> None:
    spec = Path(__file__).parents[2] / "examples" / "scenes-detection.yaml"
    scaling = "students.light.training.scaling={start: {name: ssd-light, width: 16}}"
    with pytest.raises(
        SpecError, match=r"^students.light.training.scaling: models of 'detection' say more than classes"
    ):
        check_spec(load_spec(spec, [scaling]), Place(str(tmp_path / "workspace")))


def test_left_out_classes_are_classes_of_the_domain(tmp_path: Path) -> None:
    spec = write_world(tmp_path)
    value = yaml.safe_load(spec.read_text())
    value["domains"]["target"] |= {"classes": ["across", "down", "slope"]}
    value["domains"]["target"]["label_budget"]["without"] = ["slop"]
    spec.write_text(yaml.safe_dump(value, sort_keys=False))
    with pytest.raises(
        SpecError, match=r"^domains.target.label_budget.without: no class is called 'slop'; did you mean 'slope'\?$"
    ):
        check_spec(load_spec(spec), Place(str(tmp_path / "workspace")))
