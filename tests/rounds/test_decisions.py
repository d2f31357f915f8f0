"""What policies decide on made-up histories, and when chains end. Nothing is trained."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import pytest

from pipeline.rounds import POLICIES, get_policy
from pipeline.rounds._chains import reason_to_end
from pipeline.rounds.base import Base, Past, Policy, Round, Stop
from schemas.base import Part
from schemas.errors import SpecError
from schemas.rounds import Measured, Rounds
from schemas.spec import Labels, Student, Teacher
from stages.votes import vote

SOFT = Part.model_validate({"name": "soft", "alpha": 0.5, "temperature": 2.0})


def base(students: int = 1, teachers: int = 1, metric: str = "accuracy", **more: Any) -> Base:
    """Students `a`, `b`, … and teachers `t0`, `t1`, …, each with a label set `said0`, `said1`, …"""
    names = "abcd"[:students]
    return Base(
        {f"t{n}": Teacher(domains=("source",), model=Part(name="resnet-tiny")) for n in range(teachers)},
        {f"said{n}": Labels(teacher=f"t{n}", domain="target") for n in range(teachers)},
        {
            name: Student(model=Part(name="mobile-tiny"), labels=f"said{n % teachers}", method=SOFT)
            for n, name in enumerate(names)
        },
        metric,
        **more,
    )


def measured(name: str, figure: float | None, **more: Any) -> Measured:
    if figure is None:
        return Measured(name=name, failure="it failed")
    return Measured(name=name, quality={"accuracy": figure}, **more)


def played(
    policy: Policy,
    material: Base,
    figures: Sequence[Mapping[str, float | None]],
    said: float | Sequence[float] = 0.9,
    differ: float | None = None,
) -> tuple[Sequence[Past], Round | Stop]:
    """The history in which each round's students came to some figures, and what the policy says to it."""
    history: list[Past] = []
    asked: Round | Stop = policy.initial(material)
    for number, found in enumerate(figures, start=1):
        assert isinstance(asked, Round), f"it ended before round {number}: {asked}"
        sets = dict.fromkeys(str(student.labels) for student in asked.students.values())
        worth = said if isinstance(said, float) else said[number - 1]
        history.append(
            Past(
                number,
                asked,
                {name: measured(name, figure) for name, figure in found.items()},
                {name: measured(name, worth) for name in sets},
                10,
                differ,
            )
        )
        asked = policy.next(material, history)
    return history, asked


def policy(name: str, **settings: Any) -> Policy:
    return get_policy(Part.model_validate({"name": name, **settings}))


def settings_of(asked: Round | Stop, name: str = "a") -> dict[str, Any]:
    assert isinstance(asked, Round)
    return asked.students[name].method.settings


# --- adaptive ------------------------------------------------------------------------------------------------


def test_a_poor_student_gets_more_of_its_teacher_and_softer_labels() -> None:
    _, asked = played(policy("adaptive"), base(), [{"a": 0.859}])
    assert settings_of(asked) == {"alpha": 0.7, "temperature": 3.0}
    assert isinstance(asked, Round)
    assert asked.decision == "a 4.1 points under its teacher: alpha 0.50 -> 0.70, temperature 2 -> 3"
    assert not asked.teachers
    assert not asked.labels
    assert asked.students["a"].labels == "said0"


def test_a_student_above_its_teacher_gets_less_of_it() -> None:
    _, asked = played(policy("adaptive"), base(), [{"a": 0.95}])
    assert settings_of(asked) == {"alpha": 0.3, "temperature": pytest.approx(2 / 1.5, abs=1e-4)}


def test_a_student_that_is_level_with_its_teacher_is_left_alone() -> None:
    _, asked = played(policy("adaptive"), base(), [{"a": 0.903}])
    assert isinstance(asked, Stop)
    assert "nothing left to adjust" in asked.reason


def test_a_step_that_did_harm_is_taken_back_and_halved() -> None:
    history, asked = played(policy("adaptive"), base(), [{"a": 0.85}, {"a": 0.80}])
    assert history[1].round.students["a"].method.settings["alpha"] == 0.7
    assert settings_of(asked)["alpha"] == pytest.approx(0.6)
    assert isinstance(asked, Round)
    assert "round 2 did harm; from round 1 on" in asked.decision


def test_oscillation_ends_in_ever_smaller_steps() -> None:
    material, adaptive = base(), policy("adaptive")
    figures: list[dict[str, float | None]] = []
    for number in range(12):
        figures.append({"a": 0.85 if number % 2 == 0 else 0.80})
        _, asked = played(adaptive, material, figures)
        if isinstance(asked, Stop):
            break
    assert isinstance(asked, Stop)
    assert number < 8


def test_a_student_that_diverged_goes_on_from_its_best_round() -> None:
    _, asked = played(policy("adaptive"), base(), [{"a": 0.85}, {"a": None}])
    assert settings_of(asked)["alpha"] == pytest.approx(0.6)


def test_alpha_stays_between_its_ends_and_then_there_is_nothing_to_change() -> None:
    high = policy("adaptive", high=0.7, hottest=3.0)
    _, asked = played(high, base(), [{"a": 0.5}, {"a": 0.6}])
    assert isinstance(asked, Stop)


def test_each_student_follows_its_own_gap() -> None:
    _, asked = played(policy("adaptive"), base(2), [{"a": 0.8, "b": 0.95}])
    assert (settings_of(asked, "a")["alpha"], settings_of(asked, "b")["alpha"]) == (0.7, 0.3)


def test_unsure_labels_stop_counting_while_the_student_is_poor() -> None:
    _, asked = played(policy("adaptive", sure=0.6), base(), [{"a": 0.8}])
    assert isinstance(asked, Round)
    assert asked.students["a"].method.name == "confident"
    assert settings_of(asked) == {"target": "soft", "threshold": 0.6, "temperature": 3.0, "alpha": 0.7}


def test_a_method_without_alpha_is_refused() -> None:
    material = base()
    student = material.students["a"].model_copy(update={"method": Part(name="none")})
    with pytest.raises(SpecError, match="students.a.method: policy adaptive changes `alpha`"):
        policy("adaptive").initial(Base(material.teachers, material.labels, {"a": student}, "accuracy"))


# --- migration -----------------------------------------------------------------------------------------------


def test_statistics_come_first_then_tuning_on_the_teachers_own_sure_labels() -> None:
    history, asked = played(policy("migration"), base(), [{"a": 0.6}, {"a": 0.7}], said=[0.6, 0.7])
    second = history[1].round
    adapted = second.teachers["t0.r2"]
    assert (adapted.from_, adapted.adapt and adapted.adapt.domain) == ("t0", "target")
    assert second.students["a"].labels == "said0.r2"
    assert isinstance(asked, Round)
    tuning = asked.helpers["t0.tuning.r3"]
    assert (tuning.start, tuning.labels, tuning.baselines) == ("t0.r2", "said0.r2", ())
    assert tuning.model.name == "resnet-tiny"
    assert tuning.method.settings["threshold"] == 0.9
    assert asked.teachers["t0.r3"].student == "t0.tuning.r3"
    assert asked.labels["said0.r3"].teacher == "t0.r3"


def test_the_threshold_relaxes_while_the_teacher_rises_and_tightens_when_it_falls() -> None:
    go = policy("migration", statistics=False)
    rising, asked = played(go, base(), [{"a": 0.6}] * 3, said=[0.6, 0.7, 0.8])
    assert rising[2].round.helpers["t0.tuning.r3"].method.settings["threshold"] == pytest.approx(0.8)
    assert isinstance(asked, Round)
    assert asked.helpers["t0.tuning.r4"].method.settings["threshold"] == pytest.approx(0.7)
    _, falling = played(go, base(), [{"a": 0.6}] * 2, said=[0.7, 0.6])
    assert isinstance(falling, Stop)  # 0.9 + 0.1 is above the largest threshold
    _, gentle = played(policy("migration", statistics=False, move=0.05), base(), [{"a": 0.6}] * 2, said=[0.7, 0.6])
    assert isinstance(gentle, Round)
    tuning = gentle.helpers["t0.tuning.r3"]
    assert (tuning.start, tuning.labels) == ("t0", "said0")
    assert tuning.method.settings["threshold"] == pytest.approx(0.95)
    assert "it fell by 10.0 points, so the threshold tightens: 0.9 -> 0.95" in gentle.decision


def test_a_teacher_without_statistics_is_tuned_at_once() -> None:
    _, asked = played(policy("migration"), base(2, 2, fixed=frozenset({"t1"})), [{"a": 0.6, "b": 0.6}])
    assert isinstance(asked, Round)
    assert set(asked.helpers) == {"t1.tuning.r2"}
    assert asked.helpers["t1.tuning.r2"].start == "t1"
    assert (asked.teachers["t0.r2"].from_, asked.teachers["t1.r2"].student) == ("t0", "t1.tuning.r2")


def test_all_teachers_migrate() -> None:
    _, asked = played(policy("migration"), base(2, 2), [{"a": 0.6, "b": 0.6}])
    assert isinstance(asked, Round)
    assert set(asked.teachers) == {"t0.r2", "t1.r2"}
    assert {name: student.labels for name, student in asked.students.items()} == {"a": "said0.r2", "b": "said1.r2"}


@pytest.mark.parametrize("name", ["migration", "bootstrap"])
def test_labels_of_a_store_have_no_teacher_to_change(name: str) -> None:
    given = {"said0": Labels(from_="s3://b/store", tag="x", domain="target")}
    material = base()
    with pytest.raises(SpecError, match="labels.said0: rounds of this policy need a `teacher`"):
        policy(name).initial(Base({}, given, material.students, "accuracy"))


# --- born-again, bootstrap -----------------------------------------------------------------------------------


def test_each_student_is_the_teacher_of_the_next() -> None:
    history, asked = played(policy("born-again"), base(2), [{"a": 0.8, "b": 0.7}, {"a": 0.82, "b": None}])
    second = history[1].round
    assert {name: one.student for name, one in second.teachers.items()} == {"a.r1": "a.r1", "b.r1": "b.r1"}
    assert second.students["a"].labels == "a.r1"
    assert isinstance(asked, Round)
    assert set(asked.teachers) == {"a.r2"}
    assert asked.students["b"].labels == "b.r1"  # the one that failed tries again with the teacher that it had
    assert "b failed and teaches nobody" in asked.decision


def test_teacher_and_students_take_turns() -> None:
    history, asked = played(policy("bootstrap"), base(2), [{"a": 0.7, "b": 0.8}])
    first = history[0].round.students["a"].method
    assert (first.name, first.settings["target"], first.settings["share"]) == ("hard-examples", "hard", 0.5)
    assert isinstance(asked, Round)
    tuning = asked.helpers["t0.tuning.r2"]
    assert (tuning.start, tuning.labels) == ("t0", "b.r1")
    assert asked.teachers["b.r1"].student == "b.r1"
    assert asked.teachers["t0.r2"].student == "t0.tuning.r2"
    assert asked.students["a"].labels == "said0.r2"


# --- co-training ---------------------------------------------------------------------------------------------


def test_nobody_hears_its_own_echo() -> None:
    _, asked = played(policy("co-training"), base(3), [{"a": 0.8, "b": 0.7, "c": 0.6}])
    assert isinstance(asked, Round)
    for name in "abc":
        members = set(asked.labels[f"to-{name}.r2"].fuse)
        assert members == {"said0"} | {f"{peer}.r1" for peer in "abc" if peer != name}
        assert asked.students[name].labels == f"to-{name}.r2"
    assert {one.student for one in asked.teachers.values()} == {"a.r1", "b.r1", "c.r1"}


def test_weights_are_those_of_a_majority_vote_and_a_wrong_teacher_has_none() -> None:
    material = base(3, 4)
    first = policy("co-training").initial(material)
    figures = {"said0": 0.95, "said1": 0.8, "said2": 0.6, "said3": 0.1}  # the last was trained on shuffled labels
    sets = {name: measured(name, figure) for name, figure in figures.items()}
    students = {name: measured(name, 0.7) for name in "abc"}
    asked = policy("co-training").next(material, [Past(1, first, students, sets, 10, 0.2)])
    assert isinstance(asked, Round)
    fused = asked.labels["to-a.r2"]
    assert "said3" not in fused.fuse
    weights = dict(zip(fused.fuse, fused.weights or (), strict=True))
    votes = {name: math.log(q / (1 - q)) + math.log(9) for name, q in {**figures, "b.r1": 0.7, "c.r1": 0.7}.items()}
    del votes["said3"]
    assert weights == pytest.approx({name: vote / sum(votes.values()) for name, vote in votes.items()}, abs=1e-4)
    assert "not from said3" in asked.decision
    assert vote(0.1, 10) == pytest.approx(0.0, abs=1e-9)


def test_the_best_one_speaks_alone_where_none_is_better_than_chance() -> None:
    _, asked = played(policy("co-training"), base(2), [{"a": 0.05, "b": 0.08}], said=0.02)
    assert isinstance(asked, Round)
    assert (asked.students["a"].labels, asked.students["b"].labels) == ("b.r1", "a.r1")


def test_students_that_have_collapsed_onto_each_other_end_it() -> None:
    two = [{"a": 0.8, "b": 0.8}, {"a": 0.79, "b": 0.8}]
    _, asked = played(policy("co-training"), base(2), two, differ=0.004)
    assert isinstance(asked, Stop)
    assert "differ on 0.4% of the rows" in asked.reason
    better = [{"a": 0.8, "b": 0.8}, {"a": 0.9, "b": 0.8}]
    assert isinstance(played(policy("co-training"), base(2), better, differ=0.004)[1], Round)
    assert isinstance(played(policy("co-training"), base(2), two, differ=0.2)[1], Round)


def test_co_training_takes_two() -> None:
    with pytest.raises(SpecError, match="two students or more"):
        policy("co-training").initial(base(1))


# --- ends ----------------------------------------------------------------------------------------------------


def ends(figures: Sequence[float | None], material: Base | None = None, **rounds: Any) -> str | None:
    asked = Round({}, "")
    past = [Past(n, asked, {"a": measured("a", figure)}, {}, 10) for n, figure in enumerate(figures, start=1)]
    return reason_to_end(material or base(), past, Rounds.model_validate({"policy": "born-again", **rounds}))


def test_when_a_chain_ends() -> None:
    assert ends([0.5]) is None
    assert ends([0.5, 0.6]) is None
    assert ends([0.5, 0.5]) == "no gain of 0.2 points in a round"
    assert ends([0.5, 0.501]) == "no gain of 0.2 points in a round"
    assert ends([0.5, 0.5], patience=2) is None
    assert ends([0.5, 0.5, 0.5], patience=2) == "no gain of 0.2 points in 2 rounds"
    assert ends([0.6, 0.5, 0.65], patience=2) is None
    assert ends([0.5, 0.6], max_rounds=2) == "the most rounds (2) are done"
    assert ends([0.5, 0.96], until={"accuracy": 0.95}) == "the target is reached: accuracy 0.95"
    assert ends([0.5, 0.94], until={"accuracy": 0.95}) is None
    assert ends([0.5, None]) == "all students of round 2 failed"


def test_less_of_an_error_is_better() -> None:
    material = base(error=True, bounded=False)
    assert ends([0.5, 0.4], material) is None
    assert ends([0.4, 0.5], material) is not None
    assert ends([0.5, 0.2], material, until={"accuracy": 0.3}) == "the target is reached: accuracy 0.3"


def test_without_labels_agreement_and_confidence_guide() -> None:
    one = Measured(name="a", agreement=0.8, confidence=0.6)
    assert base().figure(one) == pytest.approx(0.7)
    assert base().figure(Measured(name="said", confidence=0.6)) == pytest.approx(0.6)
    assert base().figure(Measured(name="a")) is None


def test_the_first_of_the_best_rounds_is_the_result() -> None:
    asked = Round({}, "")
    past = [Past(n, asked, {"a": measured("a", f)}, {}, 10) for n, f in enumerate([0.5, None, 0.7, 0.7], start=1)]
    assert base().best(past).number == 3


@pytest.mark.parametrize("name", POLICIES.names())
def test_policies_are_pure(name: str) -> None:
    figures: list[dict[str, float | None]] = [{"a": 0.8, "b": 0.7}, {"a": 0.82, "b": 0.75}]
    one, other = (played(policy(name), base(2), figures, said=[0.7, 0.75]) for _ in range(2))
    assert one == other
    most = policy(name).most(base(2))
    for past in one[0][1:]:
        made = sum(
            teacher.student is None or teacher.student in past.round.helpers for teacher in past.round.teachers.values()
        )
        assert made <= most.teachers
        asked = sum(labels.teacher is not None for labels in past.round.labels.values())
        assert asked <= most.labels
        assert len(past.round.students) <= most.students
