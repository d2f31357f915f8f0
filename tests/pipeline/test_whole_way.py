"""The whole way in this process: made once, redone only where it must be, the same after any kill, nothing leaked."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from pipeline.api import plan, run
from pipeline.runner import RunResult, Selection
from schemas.errors import MissingUpstream, SpecError, StoreError
from stages import code
from stages.artifacts import find_artifact
from stages.places import Place
from tests.pipeline.world import bars, write_domain, write_world


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A spec, run once."""
    spec = write_world(tmp_path_factory.mktemp("world"))
    result = run(spec)
    assert not result.failures, result.failures
    return spec


def digests(result: RunResult) -> dict[str, Any]:
    """Content digest of everything that a run came to, by step and part."""
    found: dict[str, Any] = {}

    def walk(where: str, value: Any) -> None:
        if isinstance(value, dict):
            if "digest" in value and "fingerprint" in value:
                found[where] = value["digest"]
            for key, item in value.items():
                walk(f"{where}.{key}", item)
        elif isinstance(value, list | tuple):
            for index, item in enumerate(value):
                walk(f"{where}[{index}]", item)

    for step, outputs in result.outputs.items():
        walk(step, outputs.dump())
    return found


def steps_to_do(spec: Path, *overrides: str) -> set[str]:
    return set(plan(spec, overrides=overrides).to_do)


def test_a_finished_run_has_everything(world: Path) -> None:
    made = plan(world)
    assert made.to_do == []
    table = made.outputs["evaluation.small"].table
    arms = {arm.arm: arm for arm in table.arms}
    assert set(arms) == {"teacher", "distilled", "no-teacher", "source-only", "source-finetuned"}
    assert all(len(arms[name].seeds) == 2 for name in arms if name != "teacher")
    assert all(0 <= seed.final["accuracy"] <= 1 for arm in table.arms for seed in arm.seeds)
    assert table.comparison is not None
    assert table.comparison.difference.low <= table.comparison.difference.value <= table.comparison.difference.high


def test_a_second_run_does_nothing(world: Path) -> None:
    before = {path: path.stat().st_mtime_ns for path in world.with_suffix(".workspace").rglob("*") if path.is_file()}
    assert run(world).made == []
    after = {path: path.stat().st_mtime_ns for path in world.with_suffix(".workspace").rglob("*") if path.is_file()}
    assert after == before


ALL_EVALUATIONS = {"evaluation.small", "evaluation.sharp", "report"}
STUDENTS = {"students.small", "students.sharp", *ALL_EVALUATIONS}


@pytest.mark.parametrize(
    ("override", "redone"),
    [
        ("students.sharp.method.temperature=3.0", {"students.sharp", "evaluation.sharp", "report"}),
        ("evaluation.bootstrap=300", {"evaluation.big.source", "evaluation.big.target", *ALL_EVALUATIONS}),
        (
            "domains.target.label_budget={train: 8, validation: 6}",
            {"budgets.target.seed0", "budgets.target.seed1", "screening.fit.target",
             "evaluation.big.target", *STUDENTS},
        ),
        ("labels.said.precision=bfloat16", {"labels.said", *STUDENTS}),
        ("teachers.big.seed=1", {"teachers.big", "teachers.fit", "screening.fit.target", "labels.said",
                                 "evaluation.big.source", "evaluation.big.target", *STUDENTS}),
        ("resources.workers=2", set()),
        ("resources.cpus_per_worker=2", set()),
    ],
)  # fmt: skip
def test_a_change_redoes_only_what_it_must(world: Path, override: str, redone: set[str]) -> None:
    assert steps_to_do(world, override) == redone


def test_a_change_of_one_temperature_trains_one_student(world: Path, tmp_path: Path) -> None:
    changed = plan(world, overrides=["students.sharp.method.temperature=3.0"])
    old = plan(world).steps["students.sharp"].fingerprints
    new = changed.steps["students.sharp"].fingerprints
    assert {part for part in new if new[part] != old.get(part)} == {"sharp/distilled/0", "sharp/distilled/1"}
    assert "temperature: 1.0 -> 3.0" in changed.steps["students.sharp"].why


def test_a_baseline_has_a_rate_of_its_own(world: Path) -> None:
    asked = plan(world, overrides=["students.small.baseline_rates={source-finetuned: 0.001}"])
    rates = {one.arm: one.training.learning_rate for one in asked.steps["students.small"].inputs.students}  # type: ignore[union-attr]
    assert rates == {"distilled": 0.01, "no-teacher": 0.01, "source-finetuned": 0.001}
    assert {name for name in asked.to_do if name.startswith("students")} == {"students.small"}


def test_a_changed_split_relabels_only_for_an_adapted_teacher(world: Path) -> None:
    split = "domains.target.split={train: 0.6, validation: 0.2, test: 0.2}"
    assert "labels.said" in steps_to_do(world, split)  # its teacher was adapted on the train rows
    raw = ("labels.said.teacher=big",)
    run(world, overrides=raw, selection=Selection(only=("labels",)))
    assert "labels.said" not in steps_to_do(world, *raw, split)


def test_a_changed_task_source_redoes_its_work(world: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(code, "_parse", lambda path, mtime, size: ("changed", ()))
    assert "teachers.big" not in plan(world).outputs


def test_only_from_and_force(world: Path) -> None:
    assert run(world, selection=Selection(only=("labels",))).made == []
    forced = run(world, selection=Selection(force=("evaluation.small",)))
    assert forced.made == ["evaluation.small"]
    with pytest.raises(
        MissingUpstream, match=r"labels\.said needs teachers\.fit.*`crossdistill run .*spec\.yaml --set"
    ):
        run(world, overrides=["teachers.big.seed=5"], selection=Selection(only=("labels",)))
    with pytest.raises(
        MissingUpstream, match=r"Make it: `crossdistill run .*spec\.yaml --set .* --only teachers\.big`"
    ):
        run(world, overrides=["teachers.big.seed=5"], selection=Selection(only=("teachers.fit",)))
    with pytest.raises(SpecError, match="no stage or step is called 'lables'; did you mean 'labels'"):
        run(world, selection=Selection(only=("lables",)))


def test_forced_work_gives_the_same_bytes(world: Path) -> None:
    before = digests(run(world))
    result = run(world, selection=Selection(force=("teachers", "labels", "students")))
    assert {"teachers.big", "teachers.fit", "labels.said", "students.sharp"} <= set(result.made)
    assert digests(result) == before


@pytest.mark.parametrize("damage", [b"", b"{", b"[]", b'{"version": 1}'], ids=["empty", "cut", "list", "other"])
def test_a_damaged_artifact_is_named_and_forced_or_removed(world: Path, damage: bytes) -> None:
    before = digests(run(world))
    uri = plan(world).outputs["splits.target"].split.uri
    path = Path(uri) / "artifact.json"
    path.write_bytes(damage)
    mend = rf"^{path}.*: remove it, or make it again with --force splits$"
    planned = plan(world)
    assert planned.steps["splits.target"].state == "damaged"
    assert re.search(mend, planned.steps["splits.target"].why)
    with pytest.raises(StoreError, match=mend):
        run(world)
    assert run(world, selection=Selection(force=("splits.target",))).made == ["splits.target"]
    path.unlink()
    assert digests(run(world)) == before


def test_outputs_of_another_form_are_damage_another_version_is_not(world: Path) -> None:
    path = Path(plan(world).outputs["splits.target"].split.uri) / "artifact.json"
    whole = path.read_text()
    found = []
    for old, new in (('"split": {', '"spilt": {'), ('"version": 1', '"version": 2')):
        path.write_text(whole.replace(old, new, 1))
        found.append(plan(world).steps["splits.target"].why)
        path.write_text(whole)
    assert found[0].endswith("'split' is missing. It is damaged: remove it, or make it again with --force splits")
    assert found[1].endswith("install a newer crossdistill")  # it is whole, and no loss is proposed


def test_damaged_verdicts_are_tried_again_and_replaced(world: Path) -> None:
    verdicts = {path: path.read_bytes() for path in world.with_suffix(".workspace").glob("probes/models/*.json")}
    for path in verdicts:
        path.write_bytes(b"{")
    assert plan(world).to_do == []
    tried = {path: path.read_bytes() for path in verdicts if path.read_bytes() != b"{"}
    assert tried
    assert tried.items() <= verdicts.items()


class Killed(BaseException):
    """Stands for the end of the process."""


@pytest.fixture
def kills(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """Ends the run before or after its first commit that was not reached before."""
    real = Place.put_new
    state: dict[str, Any] = {"seen": set(), "armed": False}

    def put_new(self: Place, name: str, data: bytes) -> bool:
        commit = name.endswith(("artifact.json", "receipt.json", "set.json", "plan.json")) or "checkpoint" in self.uri
        key = (self.uri, name)
        if state["armed"] and commit:
            for moment in ("before", "after"):
                if (key, moment) not in state["seen"]:
                    state["seen"].add((key, moment))
                    if moment == "after":
                        real(self, name, data)
                    raise Killed(f"{moment} {name}")
        return real(self, name, data)

    monkeypatch.setattr(Place, "put_new", put_new)
    return state


def test_killed_at_every_commit_the_result_is_the_same(world: Path, tmp_path: Path, kills: dict[str, Any]) -> None:
    wanted = digests(run(world))
    workspace = str(tmp_path / "killed")
    kills["armed"] = True
    for _ in range(300):
        result = run(world, workspace)
        if not result.failures:
            break
    kills["armed"] = False
    assert len(kills["seen"]) > 60
    assert digests(run(world, workspace)) == wanted


def test_hidden_labels_change_nothing(world: Path, tmp_path: Path) -> None:
    """Every label of the target beyond the budget is flipped, train and validation: students are the same bytes."""
    from stages.domains.reader import TRAIN, VALIDATION, read_budget, read_split

    outputs = plan(world).outputs
    split = read_split(Place(outputs["splits.target"].split.uri), outputs["splits.target"].split)
    visible: set[int] = set()
    for seed in (0, 1):
        ref = outputs[f"budgets.target.seed{seed}"].budget
        budget = read_budget(Place(ref.uri), ref)
        visible |= {int(row) for row in (*budget.train_positions, *budget.validation_positions)}
    _, truth = bars(150, 2, 90)
    hidden = np.array([row not in visible and split[row] in (TRAIN, VALIDATION) for row in range(150)])
    assert 60 < hidden.sum() < 110
    flipped = np.where(hidden, (truth + 1) % 3, truth)

    other = write_world(tmp_path / "flipped")
    write_domain(other.parent / "target.npz", 150, 2, 90, truth=flipped)
    result = run(other)
    assert not result.failures
    ours, theirs = digests(run(world)), digests(result)
    changed = {name for name in ours if ours[name] != theirs[name]}
    assert changed == {"domains.target.truth"}
    assert theirs.keys() == ours.keys()


def test_changed_labels_reach_nobody_who_may_not_see_them(world: Path, tmp_path: Path) -> None:
    """Test labels flipped too: only truth and final figures change; models, labels and selection do not."""
    _, truth = bars(150, 2, 90)
    from stages.domains.reader import TEST, read_split

    ref = plan(world).outputs["splits.target"].split
    test = read_split(Place(ref.uri), ref) == TEST
    other = write_world(tmp_path / "test-flipped")
    write_domain(other.parent / "target.npz", 150, 2, 90, truth=np.where(test, (truth + 1) % 3, truth))
    ours, theirs = digests(run(world)), digests(run(other))
    changed = {name.split(".")[0] for name in ours if ours[name] != theirs[name]}
    assert changed == {"domains", "evaluation", "report"}


def test_students_start_from_given_weights_and_so_do_their_baselines(world: Path, tmp_path: Path) -> None:
    """Weights of a finished student are given to another: every arm that starts anew starts from them."""
    made = next(out for out in plan(world).outputs["students.small"].students if out.arm == "distilled")
    artifact = find_artifact(Place(made.model.uri))
    assert artifact is not None
    weights = Path(made.model.uri) / artifact.attempt / "model.safetensors"
    overrides = [f"students.small.weights={weights}", "students.small.seeds=1", "students.sharp.seeds=1"]
    only = Selection(only=("students",))
    started = run(world, str(tmp_path / "started"), overrides)
    assert not started.failures
    plain = plan(world, overrides=overrides)
    assert {"students.small", "students.small.source"} <= set(plain.to_do), "given weights count"
    assert "students.sharp.source" not in plain.to_do
    ours = {(out.arm, out.seed): out.model.digest for out in plan(world).outputs["students.small"].students}
    theirs = {(out.arm, out.seed): out.model.digest for out in started.outputs["students.small"].students}
    assert all(theirs[arm] != ours[arm] for arm in theirs)
    (tmp_path / "copy.safetensors").write_bytes(weights.read_bytes())
    moved = [override.replace(str(weights), str(tmp_path / "copy.safetensors")) for override in overrides]
    assert run(world, str(tmp_path / "started"), moved, selection=only).made == [], "weights count by their bytes"


def test_budget_zero(world: Path) -> None:
    budget = "domains.target.label_budget=0"
    result = run(world, overrides=[budget, "students.small.seeds=1"], selection=Selection(only=(
        "domains", "splits", "budgets", "students.small", "students.small.source", "evaluation.small")))  # fmt: skip
    assert not result.failures
    arms = {arm.arm: arm for arm in result.outputs["evaluation.small"].table.arms}
    assert "impossible" in str(arms["no-teacher"].note)
    assert "impossible" in str(arms["source-finetuned"].note)
    assert arms["distilled"].mean["accuracy"] >= 0
    assert arms["distilled"].seeds[0].selection == {}
    assert arms["distilled"].seeds[0].agreement is not None


def test_a_target_without_truth(world: Path, tmp_path: Path) -> None:
    spec = write_world(tmp_path / "no-truth")
    pictures, _ = bars(150, 2, 90)
    np.savez(spec.parent / "target.npz", image=pictures)
    value = yaml.safe_load(spec.read_text())
    value["domains"]["target"]["label_budget"] = 0
    spec.write_text(yaml.safe_dump(value))
    result = run(spec)
    assert not result.failures, result.failures
    arms = {arm.arm: arm for arm in result.outputs["evaluation.small"].table.arms}
    assert arms["distilled"].mean == {}
    assert 0 <= arms["distilled"].seeds[0].agreement <= 1


def test_class_sets_that_do_not_match(world: Path, tmp_path: Path) -> None:
    spec = write_world(tmp_path / "classes")
    pictures, truth = bars(150, 2, 90)
    np.savez(spec.parent / "target.npz", image=pictures, label=np.array(["across", "down", "steep"])[truth])
    result = run(spec)
    assert set(result.failures) == {"teachers.big", "students.small.source", "students.sharp.source"}
    assert "the students have 3, which are not the same (first: 'slope')" in str(
        result.failures["students.small.source"]
    )
    message = str(result.failures["teachers.big"])
    assert "slope" in message
    assert "steep" in message
    assert "class_map" in message
    assert "teachers.big" not in result.made
