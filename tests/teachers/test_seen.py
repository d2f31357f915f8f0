"""Which rows a teacher has seen: kept with it, handed on, and compared before it is trained."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from schemas.artifacts import HeldOut
from schemas.domains import SplitInputs
from schemas.errors import DataError, StoreError
from schemas.spec import Split
from schemas.teachers import TeacherInputs, TeacherOutputs
from stages.context import Context
from stages.domains.reader import TRAIN, Samples, read_budget, read_split
from stages.domains.seen import seen_keys
from stages.domains.stage import SPLITS
from stages.teachers.stage import TEACHERS
from stages.training.models import read_seen
from tests.teachers.world import Domain, adapted, given, trained


def run(context: Context, inputs: TeacherInputs) -> TeacherOutputs:
    return TEACHERS.run(context, inputs)


def held_out(domain: Domain) -> HeldOut:
    return HeldOut(samples=domain.packed.samples, split=domain.split.split, name="bars")


def keys(context: Context, domain: Domain, positions: np.ndarray) -> set[int]:
    samples = Samples.open(context.place(domain.packed.samples), domain.packed.samples)
    return set(seen_keys(samples.all_content_ids()[positions]).tolist())


def test_what_it_learned_from_goes_with_it(local_context: Context, tmp_path: Path) -> None:
    source, target = Domain(local_context, tmp_path, 40, 1, budget=6), Domain(local_context, tmp_path, 30, 2)
    teacher = run(local_context, trained(source, epochs=1))
    budget = read_budget(local_context.place(source.budget.budget), source.budget.budget)
    wanted = keys(local_context, source, np.concatenate([budget.train_positions, budget.validation_positions]))
    seen = read_seen(local_context.place(teacher.model), teacher.model)
    assert seen is not None
    assert (set(seen.keys.tolist()), seen.whole, len(wanted)) == (wanted, True, 12)
    carried = run(local_context, adapted(run(local_context, trained(source, model="resnet-tiny")).model, target))
    train = np.flatnonzero(read_split(local_context.place(target.split.split), target.split.split) == TRAIN)
    both = read_seen(local_context.place(carried.model), carried.model)
    assert both is not None
    assert set(both.keys.tolist()) == wanted | keys(local_context, target, train)
    assert carried.seen is not None
    assert (carried.seen.rows, carried.seen.whole) == (len(both.keys), True)


def test_nobody_knows_what_a_given_one_has_seen(local_context: Context, tmp_path: Path) -> None:
    target = Domain(local_context, tmp_path, 30, 2)
    teacher = run(local_context, given("resnet-tiny"))
    assert teacher.seen is None
    assert read_seen(local_context.place(teacher.model), teacher.model) is None
    carried = run(local_context, adapted(teacher.model, target))
    assert carried.seen is not None
    assert (carried.seen.rows, carried.seen.whole) == (18, False)


def test_a_split_that_tests_what_it_learned_is_refused_before_training(local_context: Context, tmp_path: Path) -> None:
    source, target = Domain(local_context, tmp_path, 40, 1), Domain(local_context, tmp_path, 40, 3)
    fine = trained(source, epochs=1).model_copy(update={"held_out": (held_out(source), held_out(target))})
    run(local_context, fine)
    shares = Split(train=0.5, test=0.5, seed=5)
    other = SPLITS.run(local_context, SplitInputs(samples=source.packed.samples, split=shares)).split
    again = HeldOut(samples=source.packed.samples, split=other, name="bars")
    asked = trained(source, epochs=2).model_copy(update={"held_out": (held_out(target), again)})
    assert TEACHERS.fingerprint(asked) == TEACHERS.fingerprint(trained(source, epochs=2))
    with pytest.raises(DataError, match=r"^\d+ of the 20 test rows of 'bars' are among the 32 that this teacher was"):
        run(local_context, asked)
    assert TEACHERS.find(local_context, asked) is None
    assert local_context.artifact_place("teachers", TEACHERS.fingerprint(asked)).names() == []


def test_a_list_that_is_lost_is_told(local_context: Context, tmp_path: Path) -> None:
    teacher = run(local_context, trained(Domain(local_context, tmp_path, 40, 1), epochs=1))
    (path,) = local_context.place(teacher.model).path.glob("*/seen.npy")
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(StoreError, match=r"seen.npy is damaged: it says which rows a teacher was trained on"):
        read_seen(local_context.place(teacher.model), teacher.model)
