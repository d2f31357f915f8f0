"""Label sets that each student weighs itself, in a spec: the whole way, and every fault before any work."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from pipeline.api import plan, run
from schemas.errors import CrossdistillError
from schemas.students import CohortInputs, Ensemble
from stages.domains.reader import read_budget
from stages.evaluation.reader import read_report
from stages.labels.reader import LabelSet
from stages.places import Place
from stages.votes import shares
from tests.pipeline.world import CLASSES, bars, write_domain, write_spec

SEEDS = (0, 1)


def weighed(folder: Path, hidden: np.ndarray | None = None, **changes: Any) -> Path:
    """The tiny world with a second teacher, whose labels were shuffled, and a student that weighs both.

    `hidden`: other truth of the target's rows.
    """
    folder.mkdir(parents=True, exist_ok=True)
    own = write_domain(folder / "source.npz", 120, 1, 190)
    write_domain(folder / "shuffled.npz", 120, 1, 190, np.random.default_rng(0).permutation(own))
    write_domain(folder / "target.npz", 150, 2, 90, hidden)
    spec = write_spec(folder / "spec.yaml")
    value = yaml.safe_load(spec.read_text())
    source, big = value["domains"]["source"], value["teachers"]["big"]
    value["domains"]["shuffled"] = source | {"from": {"arrays": "shuffled.npz"}}
    value["domains"]["target"]["label_budget"] = {"train": 6, "validation": 12}
    value["teachers"]["wrong"] = big | {"domains": ["shuffled"]}
    value["labels"] |= {
        "noise": {"teacher": "wrong", "domain": "target", "encoding": {"kind": "top-k", "k": 2}},
        "both": {"fuse": ["said", "noise"], "weights": "selection"},
    }
    value["students"] = {"small": value["students"]["small"] | {"labels": "both", "baselines": []}}
    value["evaluation"]["bootstrap"] = 50
    for path, item in changes.items():
        *way, last = path.split("__")
        here = value
        for key in way:
            here = here[key]
        here[last] = item
    spec.write_text(yaml.safe_dump(value, sort_keys=False))
    return spec


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return weighed(tmp_path_factory.mktemp("weighed"))


def test_each_seed_weighs_them_on_its_own_budget(world: Path) -> None:
    """The weights follow from what both sets say of that draw's validation rows; the shuffled one is the lighter."""
    outputs = run(world).outputs
    sets = [
        LabelSet.open_ref(Place(ref.uri), ref) for ref in (outputs[f"labels.{n}"].labels for n in ("said", "noise"))
    ]
    for one in outputs["students.small"].students:
        ref = outputs[f"budgets.target.seed{one.seed}"].budget
        budget = read_budget(Place(ref.uri), ref)
        rows, truth = budget.validation_positions, budget.validation_truth
        right = [float((labels.logits(rows).argmax(axis=1) == truth).mean()) for labels in sets]
        assert one.model is not None, one.failure
        assert one.weights == pytest.approx(shares(right, len(CLASSES)))
        assert one.weights[0] > 2 * one.weights[1]


def test_the_stored_set_is_their_even_mean_and_no_truth_is_in_it(world: Path) -> None:
    outputs = run(world).outputs
    said, noise, both = (
        LabelSet.open_ref(Place(ref.uri), ref)
        for ref in (outputs[f"labels.{name}"].labels for name in ("said", "noise", "both"))
    )
    rows = np.arange(150)
    p, q, mean = (np.exp(one.decode(one.gather(rows)).log_probabilities(1.0)) for one in (said, noise, both))
    assert np.allclose(mean, (p + q) / 2, atol=1e-3), "float16"
    asked = plan(world).steps["students.small"].inputs
    assert isinstance(asked, CohortInputs)
    for student in asked.students:
        assert isinstance(student.labels, Ensemble)
        assert [ref.digest for ref in student.labels.sets] == [said.digest, noise.digest]


def test_the_report_says_the_weights_and_a_rerun_does_nothing(world: Path) -> None:
    result = run(world)
    ref = result.outputs["report"].report
    notes = read_report(Place(ref.uri), ref).notes
    for one in result.outputs["students.small"].students:
        first, second = one.weights
        assert f"students.small of seed {one.seed} learned from {first:.2f} said + {second:.2f} noise" in notes
    assert any("tables show the even mean of said and noise" in note for note in notes)
    assert run(world).made == []


def test_hidden_truth_changes_no_weight(world: Path, tmp_path: Path) -> None:
    """Every label of the target beyond the budgets is another: weights and students are the same."""
    outputs = run(world).outputs
    visible = np.zeros(150, bool)
    for seed in SEEDS:
        ref = outputs[f"budgets.target.seed{seed}"].budget
        budget = read_budget(Place(ref.uri), ref)
        visible[np.concatenate([budget.train_positions, budget.validation_positions])] = True
    _, truth = bars(150, 2, 90)
    other = run(weighed(tmp_path / "flipped", np.where(visible, truth, (truth + 1) % 3))).outputs
    for ours, theirs in zip(outputs["students.small"].students, other["students.small"].students, strict=True):
        assert ours.weights == theirs.weights
        assert ours.model is not None
        assert theirs.model is not None
        assert ours.model.digest == theirs.model.digest


def test_what_changes_and_what_is_kept(world: Path) -> None:
    run(world)
    planned = plan(world, overrides=["labels.both.weights=[1, 1]"])
    assert "students.small" in planned.to_do
    assert not {"labels.both", "labels.said", "labels.noise"} & set(planned.to_do), "the even mean is stored already"
    assert "students.small" not in plan(world, overrides=["labels.both.encoding={kind: top-k, k: 2}"]).to_do, (
        "students read the sets that it is made of"
    )


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"domains__target__label_budget": {"train": 6, "validation": 0}},
            "students.small.labels: the sets of 'both' are weighed by validation labels, and 'target' has none",
        ),
        ({"labels__both__ids": "union"}, "reads every set for each row, and mixes them then: leave out ids"),
        ({"labels__both__difficulty": ["entropy"]}, "leave out difficulty"),
        ({"labels__both__weights": "validation"}, "one a set, or `confidence` or `selection`"),
        (
            {"labels__twice": {"fuse": ["both", "noise"]}},
            "labels.twice.fuse: 'both' is weighed by each student for itself: fuse the sets that it is made of",
        ),
        (
            {"rounds": {"policy": "co-training", "max_rounds": 2}},
            "labels.both.weights: rounds weigh label sets from round to round themselves",
        ),
        (
            {"students__small__method": {"name": "features"}},
            "'features': it reads `features` of the labels, which do not hold it",
        ),
        (
            {"labels__noise__views": {"count": 2, "settings": {"flip": True}}},
            "labels.both.fuse: 'said' and 'noise' hold other views of a sample,",
        ),
    ],
)
def test_faults_are_told_before_any_training_of_students(tmp_path: Path, changes: dict[str, Any], message: str) -> None:
    spec = weighed(tmp_path, **changes)
    with pytest.raises(CrossdistillError, match=message):
        plan(spec, look_only=True)
