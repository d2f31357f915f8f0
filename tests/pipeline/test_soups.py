"""Soups: the mean of students' weights, chosen within the budget, and a student like any other from there on."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml

from pipeline.api import plan, run
from pipeline.specs import load_spec
from schemas.artifacts import TruthRef
from schemas.errors import ModelError, SpecError, UserError
from schemas.students import SoupInputs
from stages.domains.reader import Samples, read_split
from stages.places import Place
from stages.students.soups import Mean, State, greedy
from stages.training.models import load_model, read_state
from stages.training.statistics import re_estimate
from tests.pipeline.world import write_world


def with_soups(spec: Path, soups: dict[str, Any], name: str = "soups.yaml", **changes: Any) -> Path:
    """The spec with soups, and students changed; beside it, so that its workspace can be given to both."""
    value = yaml.safe_load(spec.read_text())
    for student, change in changes.items():
        value["students"][student] |= change
    path = spec.with_name(name)
    path.write_text(yaml.safe_dump({**value, "soups": soups}, sort_keys=False))
    return path


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """A run with a soup of both students, and a teacher that is made of it."""
    spec = write_world(tmp_path_factory.mktemp("soups"))
    value = yaml.safe_load(spec.read_text())
    value["teachers"]["again"] = {"student": "soup", "seed": 1}
    value["labels"]["echo"] = {"teacher": "again", "domain": "target"}
    value["soups"] = {"soup": {"of": ["small", "sharp"], "how": "uniform"}, "best": {"of": ["small", "sharp"]}}
    spec.write_text(yaml.safe_dump(value, sort_keys=False))
    result = run(spec)
    assert not result.failures, result.failures
    return spec, result


def ref_of(result: Any, name: str, seed: int) -> Any:
    return next(
        one for one in result.outputs[f"students.{name}"].students if one.arm == "distilled" and one.seed == seed
    )


def test_it_is_the_mean_with_statistics_of_its_own(made: Any) -> None:
    _, result = made
    for seed in (0, 1):
        soup, *parts = (ref_of(result, name, seed) for name in ("soup", "small", "sharp"))
        assert soup.averaged == ("small", "sharp")
        states = [read_state(Place(one.model.uri), one.model) for one in (soup, *parts)]
        statistics = [name for name in states[0] if "running" in name]
        assert statistics
        for name, values in states[0].items():
            if values.is_floating_point() and name not in statistics:
                assert torch.allclose(values, (states[1][name] + states[2][name]) / 2, atol=1e-7), name
        model = load_model(Place(soup.model.uri), soup.model)
        before = {name: values.clone() for name, values in model.network.state_dict().items()}
        domain, split = result.outputs["domains.target"].samples, result.outputs["splits.target"].split
        re_estimate(model, Samples.open(Place(domain.uri), domain), read_split(Place(split.uri), split), 256)
        assert all(torch.allclose(before[name], values) for name, values in model.network.state_dict().items())
        mean = (states[1][statistics[0]] + states[2][statistics[0]]) / 2
        assert not torch.allclose(states[0][statistics[0]], mean, atol=1e-4)


def test_a_greedy_soup_is_no_worse_than_its_best_by_what_may_be_seen(made: Any) -> None:
    _, result = made

    def selection(name: str) -> dict[int, float]:
        arms = result.outputs[f"evaluation.{name}"].table.arms
        return {one.seed: one.selection["accuracy"] for arm in arms if arm.arm == "distilled" for one in arm.seeds}

    best, small, sharp = (selection(name) for name in ("best", "small", "sharp"))
    assert set(best) == {0, 1}
    for seed in best:
        assert best[seed] >= max(small[seed], sharp[seed])
        taken = ref_of(result, "best", seed)
        if len(taken.averaged) == 1:  # then it is that student, to the bit
            alone = ref_of(result, taken.averaged[0], seed)
            ours, theirs = (read_state(Place(one.model.uri), one.model) for one in (taken, alone))
            assert all(torch.equal(ours[name], values) for name, values in theirs.items())


def test_it_is_judged_told_of_and_taught_from_as_a_student_is(made: Any) -> None:
    spec, result = made
    arms = {arm.arm for arm in result.outputs["evaluation.soup"].table.arms}
    assert arms == {"teacher", "distilled", "no-teacher", "source-only", "source-finetuned"}
    assert result.outputs["labels.echo"].rows == 150
    again = result.outputs["teachers.again"]
    assert again.seen.rows == result.outputs["teachers.fit"].seen.rows + 6  # and the validation rows of its budget
    report = result.outputs["report"]
    text = next(Path(report.report.uri).rglob("report.md")).read_text()
    assert "students.soup of seed 0 is the mean of small, sharp" in text
    assert plan(spec).to_do == []


def test_nothing_but_validation_rows_is_in_its_hands(made: Any) -> None:
    spec, _ = made
    asked = plan(spec).steps["students.best"].inputs
    assert isinstance(asked, SoupInputs)

    def held(value: Any) -> list[Any]:
        if isinstance(value, TruthRef):
            return [value]
        parts = value if isinstance(value, tuple | list) else vars(value).values() if hasattr(value, "__dict__") else ()
        return [found for part in parts for found in held(part)]

    assert held(asked) == []


def test_a_soup_is_made_once_a_seed_under_whatever_name(made: Any) -> None:
    spec, result = made
    renamed = plan(spec, overrides=["soups.soup.how=greedy"])  # as `best` is
    assert not {name for name in renamed.to_do if name.startswith("students")}
    one = plan(spec, overrides=["students.small.seeds=1", "students.sharp.seeds=1", "teachers.again.seed=0"])
    assert one.steps["students.soup"].state == "present"
    (kept,) = one.outputs["students.soup"].students
    assert kept.model == ref_of(result, "soup", 0).model


# --- greedy, on made-up students -----------------------------------------------------------------------------


def state(number: float) -> State:
    return {"weight": torch.tensor([number, 2 * number]), "batches": torch.tensor(7)}


def test_greedy_takes_the_best_first_and_then_whatever_does_not_lower_it() -> None:
    seen: list[float] = []

    def worth(mean: Mean) -> float:
        at = float(mean.like(state(0.0))["weight"][0])
        seen.append(at)
        return -abs(at - 3.0)

    chosen, mean = greedy([state(0.0), state(4.0), state(9.0), state(2.0), state(3.0)], worth)
    # 3 alone is best; with 2 or 4 it falls, with both it would not: greedy sees one after the other
    assert chosen == [4]
    assert seen == [0.0, 4.0, 9.0, 2.0, 3.0, 3.5, 2.5, 1.5, 6.0]
    assert mean.like(state(0.0))["weight"].tolist() == [3.0, 6.0]
    chosen, mean = greedy([state(2.0), state(4.0), state(9.0)], worth)
    assert chosen == [0, 1]
    assert mean.like(state(0.0))["weight"].tolist() == [3.0, 6.0]
    assert int(mean.like(state(0.0))["batches"]) == 7


def test_other_networks_are_no_ingredients() -> None:
    with pytest.raises(ModelError, match="between equal models only"):
        Mean.of(state(1.0)).with_({"weight": torch.zeros(3), "batches": torch.tensor(7)})


def test_the_mean_is_that_of_numpy() -> None:
    rows = np.random.default_rng(0).normal(size=(5, 2)).astype("f4")
    mean = Mean.of({"weight": torch.from_numpy(rows[0])})
    for row in rows[1:]:
        mean = mean.with_({"weight": torch.from_numpy(row)})
    assert np.array_equal(
        mean.like({"weight": torch.zeros(2)})["weight"].numpy(), rows.astype("f8").mean(0).astype("f4")
    )


# --- what is refused -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("soup", "changes", "problem"),
    [
        ({"of": ["smal"]}, {}, r"soups.s.of: no student is called 'smal'; did you mean 'small'\?"),
        ({"of": ["small", "small"]}, {}, "stands in it twice"),
        ({"of": ["small", "sharp"]}, {"sharp": {"model": "resnet-tiny"}}, "'sharp' differ in `model`: weights"),
        ({"of": ["small", "sharp"]}, {"sharp": {"labels": None}}, "differ in `labels`"),
        ({"of": ["small", "sharp"]}, {"sharp": {"seeds": [7]}}, "no seed in common"),
        ({"of": []}, {}, "soups.s.of"),
    ],
)
def test_soups_that_cannot_be(tmp_path: Path, soup: Any, changes: Any, problem: str) -> None:
    spec = with_soups(write_world(tmp_path), {"s": soup}, **changes)
    with pytest.raises(UserError, match=problem):
        load_spec(spec)


def test_a_greedy_soup_needs_validation_labels(tmp_path: Path) -> None:
    spec = with_soups(write_world(tmp_path), {"s": {"of": ["small", "sharp"]}})
    with pytest.raises(SpecError, match="soups.s: a greedy soup is chosen by validation labels, and 'target' has none"):
        load_spec(spec, ["domains.target.label_budget.validation=0"])
    load_spec(spec, ["domains.target.label_budget.validation=0", "soups.s.how=uniform"])


def test_a_grid_stands_for_all_its_points(tmp_path: Path) -> None:
    grid = {"grid": {"method.temperature": [1.0, 4.0]}}
    spec = load_spec(with_soups(write_world(tmp_path), {"s": {"of": ["small"]}}, small=grid)).spec
    soup = spec.students["s"].soup
    assert soup is not None
    assert soup.of == ("small-temperature-1", "small-temperature-4")
    assert spec.students["s"].point is None
    with pytest.raises(SpecError, match="write it there"):
        load_spec(with_soups(write_world(tmp_path), {}, small={"soup": {"of": ["sharp"]}}))
