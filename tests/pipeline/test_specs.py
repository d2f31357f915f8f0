"""Reading a spec: extends, forms, --set, relative places, and faults told in the words of the file."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from pipeline.specs import load_spec
from schemas.errors import ContractError, SpecError

BASE = """\
version: 1
name: base
task: {name: image-classification, image_size: 8, channels: 1}
domains:
  a: {from: {csv: data/a.csv}, split: {train: 0.8, validation: 0.1, test: 0.1}, label_budget: 20}
students:
  s: {model: mobile-tiny, domain: a, method: none}
"""


@pytest.fixture
def base(tmp_path: Path) -> Path:
    path = tmp_path / "base.yaml"
    path.write_text(BASE)
    return path


def test_places_are_relative_to_the_file(base: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir("/")
    loaded = load_spec(base)
    assert loaded.spec.domains["a"].from_.csv == str(base.parent / "data/a.csv")
    assert loaded.default_workspace == str(base.parent / "base.workspace")
    assert str(loaded.spec.domains["a"].label_budget) == "20 + 20"


def test_json_is_read_too(base: Path) -> None:
    import json

    import yaml

    other = base.with_suffix(".json")
    other.write_text(json.dumps(yaml.safe_load(BASE)))
    assert load_spec(other).spec == load_spec(base).spec


@pytest.mark.parametrize(
    ("override", "path", "value"),
    [
        ("students.s.seeds=3", ("students", "s", "seeds"), [0, 1, 2]),
        ("students.s.method.name=soft", ("students", "s", "method", "name"), "soft"),
        ("domains.a.label_budget={train: 5, validation: 6}", ("domains", "a", "label_budget", "validation"), 6),
        ("resources.mode=local", ("resources", "mode"), "local"),
        ("students.s.training.learning_rate=1.0e-2", ("students", "s", "training", "learning_rate"), 0.01),
    ],
)
def test_set_overrides_any_value(base: Path, override: str, path: tuple[str, ...], value: Any) -> None:
    found: Any = load_spec(base, [override]).spec.dump()
    for key in path:
        found = found[key]
    assert found == value


@pytest.mark.parametrize("override", ["students.s.seeds", "=3", "students.s.seeds={", "name.x=1"])
def test_a_bad_override_is_told(base: Path, override: str) -> None:
    with pytest.raises((SpecError, ContractError)) as error:
        load_spec(base, [override])
    assert "name" in str(error.value) or "--set" in str(error.value)


def test_set_of_an_unknown_field_names_the_probable_one(base: Path) -> None:
    with pytest.raises(ContractError, match="unknown field 'students.s.seed'; did you mean 'seeds'"):
        load_spec(base, ["students.s.seed=3"])


def test_extends_merges_and_keeps_the_places_of_each_file(base: Path) -> None:
    folder = base.parent / "deeper"
    folder.mkdir()
    child = folder / "child.yaml"
    student = "{model: x, domain: a, method: none, weights: w.pt}"
    child.write_text(f"extends: ../base.yaml\nname: child\nstudents:\n  s: {{seeds: 2}}\n  t: {student}\n")
    spec = load_spec(child).spec
    assert (spec.name, spec.students["s"].seeds, spec.students["s"].model.name) == ("child", (0, 1), "mobile-tiny")
    assert spec.domains["a"].from_.csv == str(base.parent / "data/a.csv")
    assert spec.students["t"].weights == str(folder / "w.pt")


FORMS = (
    "forms:\n  full: {name: base-full, students: {s: {seeds: 2}}, store: labels}\n  wide: {students: {s: {model: x}}}\n"
)


def test_a_form_is_laid_over_the_spec_and_set_over_both(base: Path) -> None:
    base.write_text(BASE + FORMS)
    assert load_spec(base).spec.dump() == load_spec(write(base.with_name("same.yaml"), BASE)).spec.dump()
    loaded = load_spec(base, ["students.s.model=y"], "full")
    student = loaded.spec.students["s"]
    assert (loaded.spec.name, student.seeds, student.model.name) == ("base-full", (0, 1), "y")
    assert loaded.spec.store == str(base.parent / "labels")
    assert (
        loaded.command("run", loaded.default_workspace)
        == f"crossdistill run {base} --form full --set students.s.model=y"
    )


def test_a_form_comes_with_the_spec_that_is_extended(base: Path) -> None:
    base.write_text(BASE + FORMS)
    child = write(base.parent / "child" / "c.yaml", "extends: ../base.yaml\nname: c\nforms: {full: {name: c-full}}\n")
    spec = load_spec(child, form="full").spec
    assert (spec.name, spec.students["s"].seeds, spec.store) == ("c-full", (0, 1), str(base.parent / "labels"))
    assert load_spec(child, form="wide").spec.name == "c"


@pytest.mark.parametrize(
    ("text", "form", "words"),
    [
        (FORMS, "ful", "base.yaml has no form 'ful'; did you mean 'full'?"),
        (FORMS, "large", "base.yaml has no form 'large'; known: full, wide"),
        ("", "full", "base.yaml has no form 'full' (it has none: leave --form out)"),
        ("forms: [full]\n", None, "`forms` holds, by name, what differs"),
        ("forms: {full: 3}\n", None, "`forms` holds, by name, what differs"),
        (FORMS.replace("seeds", "seed"), "full", "unknown field 'students.s.seed'; did you mean 'seeds'"),
    ],
)
def test_a_form_that_is_none_is_told(base: Path, text: str, form: str | None, words: str) -> None:
    base.write_text(BASE + text)
    with pytest.raises((SpecError, ContractError)) as error:
        load_spec(base, form=form)
    assert words in str(error.value)


def write(path: Path, text: str) -> Path:
    path.parent.mkdir(exist_ok=True)
    path.write_text(text)
    return path


def test_anchors_and_merge_keys_work(base: Path) -> None:
    base.write_text(BASE.replace("s: {", "s: &s {") + "  t: {<<: *s, seeds: 3}\n")
    students = load_spec(base).spec.students
    assert (students["t"].model, students["t"].seeds, students["s"].seeds) == (students["s"].model, (0, 1, 2), (0,))


def test_set_changes_one_place_though_an_anchor_stands_in_two(base: Path) -> None:
    training = "training: &t {steps: 5, augmentation: {rotate: 3}}"
    text = BASE.replace("method: none", f"method: none, {training}")
    base.write_text(text + "  t: {model: mobile-tiny, domain: a, method: none, training: *t}\n")
    students = load_spec(base, ["students.s.training.steps=7"]).spec.students
    assert (students["s"].training.steps, students["t"].training.steps) == (7, 5)


def test_extends_in_a_circle_is_refused(base: Path) -> None:
    base.write_text("extends: other.yaml\n")
    (base.parent / "other.yaml").write_text("extends: base.yaml\n")
    with pytest.raises(SpecError, match="extends itself"):
        load_spec(base)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("version: 1\nname: x\nname: y\n", r"line 3: not valid YAML: the key 'name' stands twice"),
        ("a: [1,\n", r"line 2: not valid YAML"),
        ("- 1\n", "it holds a list, not a mapping"),
        ("name: x\n", "has no version: a Spec begins with `version: 1`"),
        ("version: 9\nname: x\n", "version 9, this release reads up to version 1"),
        (BASE.replace("from:", "form:"), "unknown field 'domains.a.form'; did you mean 'from'"),
        (BASE.replace("csv:", "cvs:"), "did you mean 'csv'"),
        (BASE.replace("{csv: data/a.csv}", "{csv: x, jsonl: y}"), "exactly one of"),
        (BASE.replace("test: 0.1", "test: 0.2"), "add up to 1, not 1.1"),
        (
            BASE.replace("{csv: data/a.csv}", "{csv: 's3://b/k', storage: {secret: x}}"),
            "unknown field 'domains.a.from.storage.secret'",
        ),
        (BASE.replace("label_budget: 20", "label_budget: -1"), "a whole number n for n \\+ n"),
        (BASE.replace("label_budget: 20", "label_budget: '20'"), "a whole number n for n \\+ n"),
        (BASE.replace("method: none", "method: none, seeds: 0"), "`seeds` is how many"),
        (BASE.replace("label_budget: 20", "classes: [a, b, a]"), "a stand in it twice"),
        (BASE.replace("name: base", "name: 'a b/c'"), "is not a name: up to 80 letters"),
        (BASE + "evaluation: {baselines: [no-teacer]}\n", "did you mean 'no-teacher'"),
        (BASE.replace("model: mobile-tiny", "model: 3"), "give a name, or a mapping of `name`"),
        ("", "it holds nothing"),
    ],
)
def test_faults_are_told_in_the_words_of_the_file(base: Path, text: str, words: str) -> None:
    base.write_text(text)
    with pytest.raises((SpecError, ContractError), match=words):
        load_spec(base)


def test_all_faults_at_once(base: Path) -> None:
    base.write_text(BASE.replace("label_budget", "label_budgets").replace("domain: a, method", "domian: a, methd"))
    with pytest.raises(ContractError) as error:
        load_spec(base)
    assert len(error.value.problems) == 3


def test_a_missing_file_names_the_probable_one(base: Path) -> None:
    with pytest.raises(SpecError, match=r"there is no spec at .*bsae\.yaml; did you mean 'base\.yaml'"):
        load_spec(base.parent / "bsae.yaml")
