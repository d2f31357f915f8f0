"""Cohorts: equal to single students bit for bit, whatever fails, dies or is dealt otherwise."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch

from schemas.artifacts import ModelRef, SamplesRef, SplitRef
from schemas.base import Part
from schemas.errors import ContractError, DataError
from schemas.spec import Storage
from schemas.students import CohortInputs, CohortOutputs, SourceInputs, StudentInputs
from stages.cache import KEYS_AHEAD
from stages.context import Context
from stages.places import Place
from stages.students import fit
from stages.students.feed import Feed
from stages.students.order import Order
from stages.students.stage import STUDENTS
from stages.tasks import get_task
from stages.training import checkpoints
from stages.training.models import read_card, read_state
from stages.training.stream import RowStream, shard_order
from tests.students.world import CLASSES, Killed, Labels, World, cohort_of, ref, student

EARLY = {"keep": "best", "optimizer": "sgd", "gradient_clip": 1.0, "learning_rate": 0.3, "schedule": "constant"}
"""Best after its first epoch, so that the best weights have to outlive a kill."""
BOTH = Part.model_validate({"name": "combined", "parts": ["soft", {"name": "features", "weight": 0.5}]})
"""Reads features on both sides, and trains a projection of its own."""
EVERYTHING = Part.model_validate(
    {
        "name": "combined",
        "parts": [
            "features",
            {"name": "adversarial", "weight": 0.1, "generator": 4},
            {"name": "domain-adversarial", "weight": 0.1},
            {"name": "confident", "threshold": 0.3, "balance": 0.5},
            {"name": "hard-examples", "measure": "loss", "select": "weight"},
        ],
    }
)
"""Every kind of state that a method may have, and every kind of row that it may read."""
SOURCE = SourceInputs(samples=SamplesRef(**ref(7)), split=SplitRef(**ref(7)))
SIX = (
    student("soft"),
    student("hard", "hard", labels=1, budget=1, seed=1),
    student("none", "none", arm="no-teacher"),
    student("early", steps=20, training=EARLY),
    student("zero", budget=2, training={"schedule": "cosine", "label_smoothing": 0.1}),
    student("all", EVERYTHING, source=SOURCE),
)
"""Other methods, label sets, budgets, lengths and optimisers, on one stream."""


def digests(outputs: CohortOutputs) -> list[str]:
    """Content digest of each model; all must have ended well."""
    assert [one.failure for one in outputs.students] == [None] * len(outputs.students)
    return [one.model.digest for one in outputs.students if one.model is not None]


def test_a_cohort_equals_its_students_alone(world: World, contexts: Any) -> None:
    together = STUDENTS.run(contexts("together"), cohort_of(*SIX))
    alone = [STUDENTS.run(contexts(f"alone-{one.name}"), cohort_of(one)).students[0] for one in SIX]
    assert digests(together) == digests(CohortOutputs(students=tuple(alone)))
    assert [one.history for one in together.students] == [one.history for one in alone]
    assert len(set(digests(together))) == len(SIX)
    accuracies = [line.validation["accuracy"] for line in together.students[3].history]
    assert accuracies.index(max(accuracies)) == 0


def test_shards_are_on_their_way_in_the_order_of_the_stream(world: World) -> None:
    begun: list[int] = []

    def coming(shard: int) -> list[Callable[[], object]]:
        begun.append(shard)
        return []

    asked, rows = cohort_of(student("one")), RowStream(np.arange(40), np.arange(0, 41, 2), 1.0, 4, 8, seed=3)

    def feed() -> Feed:  # 20 shards of 2 rows, windows of 8 rows, steps of 4
        here = torch.device("cpu")
        return Feed(get_task(asked.task), CLASSES, asked.stream, world.samples, rows, {}, {}, here, coming=coming)

    one, (first, second) = feed(), (shard_order(rows.offsets, 3, epoch).tolist() for epoch in range(2))
    one.shared(0, {})
    assert begun == first[: len(begun)]
    assert 1 + KEYS_AHEAD < len(begun) <= 4 + KEYS_AHEAD, "what the window needs, and eight shards more"
    one.shared(9, {})
    assert begun == first
    one.shared(10, {})
    assert begun[20:] == second[: len(begun) - 20] != []
    begun.clear()
    feed().shared(4, {})
    assert not set(begun) & set(first[:8]), "a training that goes on needs no shard again that it had"


def test_order_in_the_cohort_changes_nothing(world: World, contexts: Any) -> None:
    forth = STUDENTS.run(contexts("forth"), cohort_of(*SIX))
    back = STUDENTS.run(contexts("back"), cohort_of(*SIX[::-1]))
    assert digests(forth) == digests(back)[::-1]


def test_each_row_is_touched_once_whatever_the_number_of_students(world: World, local_context: Context) -> None:
    STUDENTS.run(local_context, cohort_of(*(student(f"s{seed}", seed=seed) for seed in range(4))))
    counters = world.feeds[0].counters
    assert counters["augmented"] == 14 * (8 + 4), "14 steps of 8 shared and 4 labelled rows"
    assert counters["decoded"] == 14 * (8 + 4) + 3 * 6, "beside them the validation rows after 6, 12 and 14 steps"
    assert counters["labels"] == 14 * 8
    assert sum(map(len, world.samples.read)) == counters["decoded"]


def test_without_a_teacher_no_shared_rows_are_read(world: World, local_context: Context) -> None:
    STUDENTS.run(local_context, cohort_of(student("n", "none"), student("m", "none", seed=1, budget=1)))
    assert world.feeds[0].counters["augmented"] == 14 * 2 * 4, "4 rows per draw of the budget"
    assert world.feeds[0].counters["labels"] == 0


def test_arms_of_a_budget_see_the_same_labelled_rows(world: World, contexts: Any) -> None:
    """In the same order and augmented alike, whoever else is in the cohort."""
    one = STUDENTS.run(contexts("one"), cohort_of(student("n", "none")))
    seen_alone = [rows for rows in world.samples.read if len(rows) == 4]
    world.samples.read.clear()
    many = STUDENTS.run(contexts("many"), cohort_of(*SIX[:2], student("n", "none")))
    budget = world.budgets[f"{0:032x}"].train_positions
    seen = [rows for rows in world.samples.read if len(rows) == 4 and np.isin(rows, budget).all()]
    assert digests(one)[0] == digests(many)[2]
    assert all(any(np.array_equal(rows, other) for other in seen) for rows in seen_alone)
    assert len({tuple(rows) for rows in seen_alone}) > 10, "each step draws anew"


@pytest.mark.parametrize(
    ("model", "method"),
    [("not_finite", "soft"), ("raises", "soft"), ("vandal", "soft"), ("vandal", "none"), ("unbuildable", "soft")],
)
def test_a_student_that_goes_wrong_harms_nobody(world: World, contexts: Any, model: str, method: str) -> None:
    healthy = STUDENTS.run(contexts("healthy"), cohort_of(*SIX))
    context = contexts("mixed")
    mixed = STUDENTS.run(context, cohort_of(SIX[0], student("bad", method, model=model), *SIX[1:]))
    bad = mixed.students[1]
    others = CohortOutputs(students=(mixed.students[0], *mixed.students[2:]))
    assert digests(others) == digests(healthy)
    assert [one.history for one in others.students] == [one.history for one in healthy.students]
    if model == "vandal":
        assert bad.failure is None
        return
    assert bad.model is None
    reasons = {
        "not_finite": "the loss is nan: lower `learning_rate` or set `gradient_clip` (after 2 of 14 steps)",
        "raises": "OutOfMemoryError: no memory (after 3 of 14 steps)",
        "unbuildable": "its factory failed: RuntimeError('no such layer') (after 0 of 14 steps)",
    }
    assert bad.failure is not None
    assert bad.failure.endswith(reasons[model])
    assert STUDENTS.find(context, cohort_of(SIX[0], student("bad", method, model=model))) is None
    folder = context.artifact_place(
        "students", STUDENTS.fingerprints(cohort_of(student("bad", method, model=model)))["bad/distilled/0"]
    )
    assert folder.names("failures") == []
    assert not folder.exists("artifact.json")


def test_a_student_with_nothing_to_learn_from_says_so(world: World, local_context: Context) -> None:
    outputs = STUDENTS.run(
        local_context,
        cohort_of(student("n", "none", budget=2), student("m", "none", budget=None), student("s", budget=None)),
    )
    assert [one.model is None for one in outputs.students] == [True, True, False]
    assert all("no true labels" in str(one.failure) for one in outputs.students[:2])
    assert outputs.students[2].history[-1].validation == {}, "without validation truth nothing is claimed"


def test_a_student_without_what_its_method_reads_says_so(world: World, local_context: Context) -> None:
    lost = student("s").model_copy(update={"labels": None})
    assert "needs `labels`" in str(STUDENTS.run(local_context, cohort_of(lost)).students[0].failure)
    without = cohort_of(student("s", Part(name="domain-adversarial")))
    assert "needs `source`" in str(STUDENTS.run(local_context, without).students[0].failure)


def test_labels_without_what_a_method_needs_end_its_student_alone(world: World, local_context: Context) -> None:
    """A spec is refused before; here it is another team's set, opened at the start of the training."""
    labels = world.label_sets[f"{0:032x}"]
    world.label_sets[f"{0:032x}"] = Labels(labels.values)
    outputs = STUDENTS.run(local_context, cohort_of(student("s"), student("f", Part(name="features"))))
    assert outputs.students[0].failure is None
    assert "it reads `features` of the labels, which do not hold it" in str(outputs.students[1].failure)


def test_what_a_method_trains_belongs_to_the_students_seed(world: World, local_context: Context) -> None:
    """It starts alike for one seed, learns with the student, and is no part of the model that is kept."""
    one = cohort_of(student("a", BOTH), student("b", "soft", seed=1))
    fits = [fit.Fit(order_of(one, number), get_task(one.task), Storage(), torch.device("cpu")) for number in (0, 0, 1)]
    feed, states = world.feed(fits, Storage(), torch.device("cpu")), []
    for item in fits:
        item.meet(feed)
        item.build()
        states.append(item._steps.learners.pack()[0])
    assert states[2] == {}
    assert set(states[0]) == {"1.projection.module.weight", "1.projection.module.bias"}
    assert all(torch.equal(value, states[1][name]) for name, value in states[0].items())
    before = states[0]["1.projection.module.weight"].clone()
    fits[0].step(feed.shared(0, {f"{0:032x}": ["features"]}), None)
    assert not torch.equal(fits[0]._steps.learners.pack()[0]["1.projection.module.weight"], before)
    assert not any("projection" in name for name in fits[0]._steps.trainee.module.state_dict())


def order_of(inputs: CohortInputs, number: int) -> Order:
    asked = inputs.model_copy(update={"students": (inputs.students[number],)})
    return Order(asked, "0" * 32, Place("nowhere"), {}, "students", 1)


@pytest.mark.parametrize("die_at", [0, 1, 9, 23, 42])
def test_killed_and_resumed_equals_uninterrupted(
    world: World, contexts: Any, monkeypatch: pytest.MonkeyPatch, die_at: int
) -> None:
    whole = STUDENTS.run(contexts("whole"), cohort_of(*SIX))
    monkeypatch.setattr(checkpoints, "EVERY_SECONDS", 0.0)
    dying = World().use(monkeypatch)
    dying.samples.die_at = die_at
    context = contexts("killed")
    with pytest.raises(Killed):
        STUDENTS.run(context, cohort_of(*SIX))
    assert STUDENTS.find(context, cohort_of(*SIX)) is None
    fresh = World().use(monkeypatch)
    again = STUDENTS.run(context, cohort_of(*SIX))
    assert digests(again) == digests(whole)
    assert [one.history for one in again.students] == [one.history for one in whole.students]
    if die_at > 20:
        assert fresh.feeds[0].counters["decoded"] < world.feeds[0].counters["decoded"], "it went on, not back"


def test_peers_and_the_teachers_share_resume_too(world: World, contexts: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    peers = Part.model_validate({"name": "mutual", "peers": ["tests.students.world:small"]})
    share = Part.model_validate({"name": "adaptive", "alpha": 0.5, "rate": 0.5})
    asked = cohort_of(student("m", peers), student("a", share), student("s", Part(name="soft")))
    whole = STUDENTS.run(contexts("whole"), asked)
    assert [one.failure for one in whole.students] == [None] * 3
    alone = STUDENTS.run(contexts("alone"), cohort_of(asked.students[0])).students[0]
    assert alone.model is not None
    assert whole.students[0].model is not None
    assert alone.model.digest == whole.students[0].model.digest, "peers are its own: neighbours do not count"
    monkeypatch.setattr(checkpoints, "EVERY_SECONDS", 0.0)
    World().use(monkeypatch).samples.die_at = 23
    context = contexts("killed")
    with pytest.raises(Killed):
        STUDENTS.run(context, asked)
    World().use(monkeypatch)
    assert digests(STUDENTS.run(context, asked)) == digests(whole)


@pytest.mark.parametrize("die_at", [1, 5, 12])
def test_killed_between_two_checkpoints_of_one_step(
    world: World, contexts: Any, monkeypatch: pytest.MonkeyPatch, die_at: int
) -> None:
    """Then the students are at different steps: those ahead wait."""
    whole = STUDENTS.run(contexts("whole"), cohort_of(*SIX))
    monkeypatch.setattr(checkpoints, "EVERY_SECONDS", 0.0)
    saves, save = [], fit.Fit.save

    def dying_save(self: fit.Fit) -> None:
        saves.append(self)
        if len(saves) == die_at:
            raise Killed
        save(self)

    context = contexts("killed")
    with monkeypatch.context() as patch:
        patch.setattr(fit.Fit, "save", dying_save)
        with pytest.raises(Killed):
            STUDENTS.run(context, cohort_of(*SIX))
    assert digests(STUDENTS.run(context, cohort_of(*SIX))) == digests(whole)


def test_killed_while_committing(world: World, contexts: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = STUDENTS.run(contexts("whole"), cohort_of(*SIX))
    context = contexts("killed")

    def dying_commit(self: fit.Fit) -> None:
        raise Killed

    with monkeypatch.context() as patch:
        patch.setattr(fit.Fit, "commit", dying_commit)
        with pytest.raises(Killed):
            STUDENTS.run(context, cohort_of(*SIX))
    assert digests(STUDENTS.run(context, cohort_of(*SIX))) == digests(whole)


def test_only_what_is_missing_is_trained(world: World, local_context: Context) -> None:
    first = STUDENTS.run(local_context, cohort_of(SIX[0]))
    both = STUDENTS.run(local_context, cohort_of(*SIX[:2]))
    assert both.students[0] == first.students[0]
    assert world.feeds[1].counters["labels"] == 14 * 8
    assert len(world.feeds) == 2
    assert STUDENTS.run(local_context, cohort_of(*SIX[:2])) == both
    assert len(world.feeds) == 2, "nothing was read again"


def test_equal_arms_are_trained_once_and_keep_their_names(world: World, local_context: Context) -> None:
    twice = cohort_of(student("a", "none", arm="no-teacher"), student("b", "none", arm="distilled"))
    outputs = STUDENTS.run(local_context, twice)
    assert outputs.students[0].model == outputs.students[1].model
    assert [(one.name, one.arm) for one in outputs.students] == [("a", "no-teacher"), ("b", "distilled")]
    assert len(local_context.workspace.names("artifacts/students")) == 1
    with pytest.raises(ContractError, match="a/no-teacher/0"):
        STUDENTS.fingerprints(cohort_of(twice.students[0], twice.students[0]))


def test_a_fingerprint_says_what_was_asked() -> None:
    def fingerprint(one: StudentInputs, **stream: Any) -> str:
        return next(iter(STUDENTS.fingerprints(cohort_of(one, **stream)).values()))

    base = fingerprint(student("a"))
    assert fingerprint(student("b", arm="no-teacher")) == base, "names and roles are for people"
    changed = [
        fingerprint(student("a", "hard")),
        fingerprint(student("a", labels=1)),
        fingerprint(student("a", budget=1)),
        fingerprint(student("a", steps=15)),
        fingerprint(student("a", seed=1)),
        fingerprint(student("a", training={"learning_rate": 0.03})),
        fingerprint(student("a"), seed=1),
        fingerprint(student("a", model="vandal")),
    ]
    assert len({base, *changed}) == 1 + len(changed)


def test_a_student_starts_from_given_weights(world: World, contexts: Any) -> None:
    context = contexts("start")
    first = STUDENTS.run(context, cohort_of(SIX[0])).students[0].model
    assert first is not None
    still = student("still", start=first, steps=1, training={"learning_rate": 1e-12, "weight_decay": 0.0})
    after = STUDENTS.run(context, cohort_of(still)).students[0].model
    assert after is not None
    old, new = weights(context, first), weights(context, after)
    parameters = [name for name in old if name.endswith(("weight", "bias"))]
    assert len(parameters) == 8
    assert all(torch.equal(old[name], new[name]) for name in parameters)
    foreign = cohort_of(still).model_copy(update={"classes": ("three", "two", "one")})
    assert "other classes" in str(STUDENTS.run(context, foreign).students[0].failure)


def weights(context: Context, ref: ModelRef) -> dict[str, torch.Tensor]:
    return read_state(context.place(ref), ref)


def test_the_best_or_the_last_weights_are_kept(world: World, contexts: Any) -> None:
    def run(keep: str, steps: int) -> tuple[CohortOutputs, Context]:
        context = contexts(f"{keep}-{steps}")
        one = student("s", steps=steps, training={"keep": keep, "schedule": "constant", "learning_rate": 0.02})
        return STUDENTS.run(context, cohort_of(one)), context

    best, _ = run("best", 24)
    figures = [line.validation["accuracy"] for line in best.students[0].history]
    earliest = 6 * (1 + figures.index(max(figures)))
    last_at_best, _ = run("last", earliest)
    assert digests(best) == digests(last_at_best), "the earliest of the best epochs, as if it had ended there"


def test_what_is_kept_of_a_student(world: World, local_context: Context) -> None:
    one = STUDENTS.run(local_context, cohort_of(SIX[0])).students[0]
    assert one.model is not None
    card = read_card(local_context.place(one.model), one.model)
    assert (card.classes, card.model, card.task) == (("one", "two", "three"), SIX[0].model, cohort_of().task)
    assert [line.epoch for line in one.history] == [1, 2, 3]
    assert set(one.history[0].validation) >= {"accuracy", "nll"}
    folder = Place(one.model.uri)
    assert [name for name in folder.names() if len(name) != 32] == ["artifact.json"], "checkpoints are gone"


def test_a_distilled_student_learns(world: World, local_context: Context) -> None:
    one = STUDENTS.run(local_context, cohort_of(student("s", steps=60))).students[0]
    assert one.history[-1].loss < one.history[0].loss / 2
    assert one.history[-1].validation["accuracy"] > 0.6


def test_labels_of_other_classes_are_refused(world: World, local_context: Context) -> None:
    world.label_sets[f"{0:032x}"] = Labels(world.label_sets[f"{0:032x}"].values, ("one", "two", "four"))
    with pytest.raises(DataError, match="class_map"):
        STUDENTS.run(local_context, cohort_of(SIX[0]))


def test_labels_in_another_order_of_classes(world: World, contexts: Any) -> None:
    expected = STUDENTS.run(contexts("same"), cohort_of(SIX[0]))
    labels = world.label_sets[f"{0:032x}"]
    world.label_sets[f"{0:032x}"] = Labels(labels.values[:, [2, 0, 1]].copy(), ("three", "one", "two"))
    assert digests(STUDENTS.run(contexts("other"), cohort_of(SIX[0]))) == digests(expected)


def test_the_process_finds_torch_as_it_was(world: World, local_context: Context) -> None:
    torch.manual_seed(5)
    state, threads = torch.get_rng_state(), torch.get_num_threads()
    STUDENTS.run(local_context, cohort_of(SIX[0]))
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.get_num_threads() == threads


def test_the_example_is_a_valid_input() -> None:
    example = STUDENTS.example()
    assert CohortInputs.model_validate(example.dump()) == example
    assert len(STUDENTS.fingerprints(example)) == 2
