"""What holds of a label store on every kind of place: a subclass gives an empty one, and inherits all tests.

Places are spoilt and looked at through `Place` alone, so nothing here knows a disk from a bucket.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from functools import cache
from typing import ClassVar

import numpy as np
import pytest
import torch

from schemas.encodings import Dense, Encoding, Hard, Sampled, TopK
from schemas.errors import StoreError
from schemas.labels import Views
from stages.labels.reader import LabelSet
from stages.labels.store import Store
from stages.places import Place
from tests.labels.fakes import (
    Crash,
    CrashingPlace,
    FakeSamples,
    Killed,
    OracleTeacher,
    inputs_for,
    labeller_for,
    make_fake_set,
    plan_for,
)

ROWS = (5, 3, 1)
TOTAL = sum(ROWS)
OPERATIONS = 10
"""store.json, plan.json, files and receipt of three units, index, set.json."""
ENCODINGS: list[Encoding] = [
    Dense(dtype="float32"),
    TopK(kind="top-k", k=2, values="uint8"),
    TopK(kind="top-k", k=None, mass=0.8),
    Sampled(kind="sampled", draws=5),
    Hard(kind="hard"),
]


@cache
def whole() -> LabelSet:
    """The set of a run that nothing interrupted."""
    place = Place("memory://suite/whole")
    make_fake_set(place, FakeSamples(ROWS), OracleTeacher())
    return LabelSet.open(place)


class StoreSuite:
    """One place, many stores."""

    forks: ClassVar[bool] = True
    """Whether another process can reach the place."""

    @pytest.fixture
    def place(self) -> Place:
        raise NotImplementedError

    @pytest.mark.parametrize("encoding", ENCODINGS, ids=lambda item: item.kind)
    def test_the_same_set_on_every_place(self, place: Place, encoding: Encoding) -> None:
        samples, there = FakeSamples(ROWS), Place(f"memory://suite/{os.urandom(8).hex()}")
        made = [make_fake_set(where, samples, OracleTeacher(), inputs_for(encoding)) for where in (place, there)]
        assert made[0].digest == made[1].digest
        rows = np.array([TOTAL - 1, 0, 4, 4])
        assert np.array_equal(LabelSet.open(place).logits(rows), LabelSet.open(there).logits(rows))

    def test_only_what_is_missing_is_inferred(self, place: Place) -> None:
        samples = FakeSamples(ROWS)
        make_fake_set(place, samples, OracleTeacher())
        place.remove(f"sets/{whole().fingerprint}/set.json")
        place.remove(f"units/{plan_for(samples, inputs_for()).units[1].key}/receipt.json")
        teacher = OracleTeacher()
        assert make_fake_set(place, samples, teacher).digest == whole().digest
        assert teacher.rows == ROWS[1]

    def test_a_domain_that_grew_infers_only_the_new_shard(self, place: Place) -> None:
        teacher = OracleTeacher()
        make_fake_set(place, FakeSamples(ROWS), OracleTeacher())
        manifest = make_fake_set(place, FakeSamples((*ROWS, 5)), teacher)
        assert (teacher.rows, manifest.rows, len(place.names("sets"))) == (5, TOTAL + 5, 2)

    @pytest.mark.parametrize("after", [False, True], ids=["before", "after"])
    @pytest.mark.parametrize("at", range(OPERATIONS))
    def test_killed_at_any_operation_and_run_again(self, place: Place, at: int, after: bool) -> None:
        samples, crash = FakeSamples(ROWS), Crash(at, after)
        with pytest.raises(Killed):
            make_fake_set(CrashingPlace(place.uri, place.storage, crash=crash), samples, OracleTeacher())
        try:
            assert LabelSet.open(place).digest == whole().digest  # killed after set.json: the set is whole
        except StoreError:
            assert not place.exists(f"sets/{whole().fingerprint}/set.json")
        receipts = Store(place).receipts(plan_for(samples, inputs_for()))
        teacher = OracleTeacher()
        assert make_fake_set(place, samples, teacher).digest == whole().digest
        assert teacher.rows == TOTAL - sum(receipt.rows for receipt in receipts.values())
        assert np.array_equal(LabelSet.open(place).logits(np.arange(TOTAL)), whole().logits(np.arange(TOTAL)))

    def test_every_operation_is_known(self, place: Place) -> None:
        crash = Crash()
        make_fake_set(CrashingPlace(place.uri, place.storage, crash=crash), FakeSamples(ROWS), OracleTeacher())
        assert len(crash.names) == OPERATIONS

    def test_two_writers_race(self, place: Place) -> None:
        """Both infer every unit at once; one receipt each wins, and the losers' attempts are gone."""
        samples, barrier = FakeSamples(ROWS), threading.Barrier(2)
        made: list[str] = []

        def once(batch: torch.Tensor) -> torch.Tensor:
            barrier.wait(20)
            return batch

        def run(teacher: OracleTeacher) -> None:
            made.append(make_fake_set(place, samples, teacher, inputs_for(batch_size=100)).digest)

        teachers = [OracleTeacher(once), OracleTeacher(once)]
        _together([lambda teacher=teacher: run(teacher) for teacher in teachers])  # type: ignore[misc]
        assert [teacher.rows for teacher in teachers] == [TOTAL, TOTAL]
        assert len(made) == 2
        assert made[0] == made[1]
        self._check_no_leftovers(place, samples, 100)

    def test_two_processes_race(self, place: Place) -> None:
        if not self.forks:
            pytest.skip("this place is in one process")
        children = []
        for _ in range(2):
            if (pid := os.fork()) == 0:
                code = 1
                try:
                    code = 0 if make_fake_set(place, FakeSamples(ROWS), OracleTeacher()).digest == whole().digest else 2
                finally:
                    os._exit(code)
            children.append(pid)
        assert [os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) for pid in children] == [0, 0]
        assert LabelSet.open(place).digest == whole().digest
        self._check_no_leftovers(place, FakeSamples(ROWS), 4)

    def test_a_zombie_adopts_what_was_done_without_it(self, place: Place) -> None:
        """A writer stopped between inference and commit wakes after the set is whole."""
        samples, asleep, awake = FakeSamples((5,)), threading.Event(), threading.Event()

        def sleep(batch: torch.Tensor) -> torch.Tensor:
            asleep.set()
            assert awake.wait(20)
            return batch

        plan, results = plan_for(samples, inputs_for(batch_size=8)), []
        zombie = labeller_for(Store.create(place), samples, OracleTeacher(sleep), batch_size=8)
        thread = threading.Thread(target=lambda: results.append(zombie.label(plan.units[0])))
        thread.start()
        asleep.wait(20)
        manifest = make_fake_set(place, samples, OracleTeacher(), inputs_for(batch_size=8))
        before = sorted(place.stats())
        awake.set()
        thread.join()
        assert [(result.made, result.rows) for result in results] == [(False, 5)]
        assert sorted(place.stats()) == before
        assert LabelSet.open(place).digest == manifest.digest

    @pytest.mark.parametrize("fault", ["missing", "cut", "flipped"])
    def test_a_fault_in_an_object_is_found_and_named(self, place: Place, fault: str) -> None:
        make_fake_set(place, FakeSamples((3, 2)), OracleTeacher())
        receipt = LabelSet.open(place).units[1].receipt
        name = f"units/{receipt.key}/{receipt.attempt}/logits/c/0/0"
        data = place.read(name)
        place.remove(name)
        if fault != "missing":
            place.put(name, data[:-1] if fault == "cut" else bytes([data[0] ^ 1]) + data[1:])
        with pytest.raises(StoreError, match="logits/c/0/0 is (missing|damaged)"):
            LabelSet.open(place).logits(np.arange(5))

    def test_more_views_infer_only_the_new_units(self, place: Place) -> None:
        samples = FakeSamples(ROWS)
        plans = [plan_for(samples, inputs_for(views=Views(count=count))) for count in (1, 3, 2)]
        keys = [{unit.key for unit in plan.units} for plan in plans]
        assert [len(found) for found in keys] == [3, 9, 6]
        assert keys[0] < keys[2] < keys[1]

    def _check_no_leftovers(self, place: Place, samples: FakeSamples, batch_size: int) -> None:
        for unit in plan_for(samples, inputs_for(batch_size=batch_size)).units:
            receipt = Store(place).receipt(unit.key)
            assert receipt is not None
            files = (place / f"units/{unit.key}").stats()  # a server may still list the folders of removed files
            assert {name.split("/")[0] for name in files} == {receipt.attempt, "receipt.json"}


def _together(calls: list[Callable[[], None]]) -> None:
    threads = [threading.Thread(target=call) for call in calls]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
