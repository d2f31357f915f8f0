"""What holds of a label store on every kind of place: a subclass gives an empty one, and inherits all tests.

Places are spoilt and looked at through `Place` alone, so nothing here knows a disk from a bucket.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import ClassVar

import numpy as np
import pytest
import torch

from schemas.encodings import Dense, Encoding, Hard, Sampled, TopK
from schemas.errors import StoreError
from schemas.labels import Tag, Views
from stages.labels.garbage import Garbage, collect, remove_set
from stages.labels.publish import copy_set
from stages.labels.reader import LabelSet
from stages.labels.store import Store
from stages.labels.tags import all_tags, history, put_tag, read_tag
from stages.labels.verify import verify
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


_folder = TemporaryDirectory(prefix="crossdistill-suite-")


@cache
def whole() -> LabelSet:
    """The set of a run that nothing interrupted."""
    place = Place(_folder.name)
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

    # --- sharing ---------------------------------------------------------------------------------------------

    def test_published_and_pulled_it_is_the_same_set(self, place: Place, tmp_path: Path) -> None:
        here, back = Place(str(tmp_path / "here")), Place(str(tmp_path / "back"))
        encoding = TopK(kind="top-k", k=None, mass=0.8)
        made = make_fake_set(here, FakeSamples(ROWS), OracleTeacher(), inputs_for(encoding))
        told: list[tuple[int, int]] = []
        copied = copy_set(LabelSet.open(here), place, lambda done, total: told.append((done, total)))
        assert told == [(1, 3), (2, 3), (3, 3)]
        again = copy_set(LabelSet.open(place), back)
        assert made.digest == copied.digest == again.digest
        rows = np.arange(TOTAL)
        assert np.array_equal(LabelSet.open(back).logits(rows), LabelSet.open(here).logits(rows))
        assert verify(LabelSet.open(place), deep=True) == verify(LabelSet.open(back), deep=True) == []
        before = place.stats()
        assert copy_set(LabelSet.open(here), place) == copied
        assert place.stats() == before

    @pytest.mark.parametrize("at", range(OPERATIONS))
    def test_publishing_is_killed_and_repeated(self, place: Place, at: int) -> None:
        """From memory, so that only the target's operations count; what the first try copied is not copied again."""
        with pytest.raises(Killed):
            copy_set(whole(), CrashingPlace(place.uri, place.storage, crash=Crash(at)))
        done = [name for name in place.stats() if name.endswith("receipt.json")] if at else []
        copied = copy_set(whole(), place)
        assert copied.digest == whole().digest
        assert set(done) <= set(place.stats())
        assert verify(LabelSet.open(place), deep=True) == []
        collect(Store(place), unfinished=True)
        self._check_no_leftovers(place, FakeSamples(ROWS), 4)

    def test_publishers_race(self, place: Place) -> None:
        made: list[str] = []
        _together([lambda: made.append(copy_set(whole(), place).digest) for _ in range(2)])
        assert made == [whole().digest] * 2
        self._check_no_leftovers(place, FakeSamples(ROWS), 4)

    def test_what_is_damaged_is_not_published(self, place: Place, tmp_path: Path) -> None:
        here = Place(str(tmp_path / "here"))
        make_fake_set(here, FakeSamples((3,)), OracleTeacher())
        labels = LabelSet.open(here)
        receipt = labels.units[0].receipt
        name = f"units/{receipt.key}/{receipt.attempt}/content_id/c/0/0"
        data = here.read(name)
        (here.path / name).write_bytes(b"x" + data[1:])
        with pytest.raises(StoreError, match="content_id/c/0/0 is damaged: nothing was published"):
            copy_set(labels, place)
        (here.path / name).unlink()
        with pytest.raises(StoreError, match="content_id/c/0/0 is missing: nothing was published"):
            copy_set(labels, place)
        assert Store(place).manifest(labels.fingerprint) is None
        (here.path / name).write_bytes(data)
        assert copy_set(labels, place).digest == labels.digest

    # --- tags ------------------------------------------------------------------------------------------------

    def test_a_name_has_a_history(self, place: Place) -> None:
        sets = [make_fake_set(place, FakeSamples(rows), OracleTeacher()) for rows in ((3,), (2,))]
        tags = [Tag(fingerprint=item.fingerprint, digest=item.digest, notes=f"{item.rows} rows") for item in sets]
        assert [put_tag(place, "digits", tag) for tag in (*tags, tags[1], tags[0])] == [1, 2, 2, 3]
        assert [LabelSet.open(place, name).rows for name in ("digits", "digits@v1", "digits@v2")] == [3, 3, 2]
        assert list(history(place, "digits").values()) == [tags[0], tags[1], tags[0]]
        assert all_tags(place) == {"digits": (3, tags[0])}
        for name in ("digits@v4", "digits@v0", "digit", "../digits", "digits@vx"):
            with pytest.raises(StoreError, match="has no tag"):
                read_tag(place, name)
        with pytest.raises(StoreError, match="did you mean 'digits'"):
            read_tag(place, "digit")
        for name in ("0123456789ab", "a/b", "", "x" * 81):
            with pytest.raises(StoreError, match="cannot be a tag"):
                put_tag(place, name, tags[0])
        with pytest.raises(StoreError, match="has no finished label set"):
            put_tag(place, "digits", tags[0].model_copy(update={"digest": "0" * 32}))

    def test_taggers_race(self, place: Place) -> None:
        made = make_fake_set(place, FakeSamples((2,)), OracleTeacher())
        tags = [Tag(fingerprint=made.fingerprint, digest=made.digest, notes=f"{number}") for number in range(3)]
        numbers: list[int] = []
        _together([lambda tag=tag: numbers.append(put_tag(place, "raced", tag)) for tag in tags])  # type: ignore[misc]
        assert sorted(numbers) == [1, 2, 3]
        assert sorted(tag.notes for tag in history(place, "raced").values()) == ["0", "1", "2"]

    # --- garbage ---------------------------------------------------------------------------------------------

    def test_only_what_lost_is_collected(self, place: Place) -> None:
        samples = FakeSamples(ROWS)
        manifest = make_fake_set(place, samples, OracleTeacher())
        before = place.stats()
        key = LabelSet.open(place).units[0].receipt.key
        place.put(f"units/{key}/{'0' * 32}/zarr.json", b"lost")
        place.put(f"units/{'a' * 32}/{'1' * 32}/zarr.json", b"at work")
        dry = collect(Store(place), dry_run=True)
        assert (dry.attempts, dry.units, dry.bytes) == ([f"units/{key}/{'0' * 32}"], [], 4)
        assert collect(Store(place)).attempts == dry.attempts
        assert f"units/{'a' * 32}/{'1' * 32}/zarr.json" in place.stats()
        assert collect(Store(place), unfinished=True).attempts == [f"units/{'a' * 32}/{'1' * 32}"]
        assert place.stats().keys() == before.keys()
        assert LabelSet.open(place).digest == manifest.digest

    def test_a_set_is_taken_away_and_its_units_collected(self, place: Place) -> None:
        small, large = (make_fake_set(place, FakeSamples(rows), OracleTeacher()) for rows in ((5, 3), (5, 3, 1)))
        put_tag(place, "kept", Tag(fingerprint=small.fingerprint, digest=small.digest))
        with pytest.raises(StoreError, match="is tagged kept"):
            remove_set(Store(place), small.fingerprint)
        remove_set(Store(place), large.fingerprint)
        assert collect(Store(place)).units == []
        assert len(collect(Store(place), unreachable=True).units) == 1
        assert verify(LabelSet.open(place, "kept"), deep=True) == []
        assert make_fake_set(place, FakeSamples((5, 3, 1)), OracleTeacher()).digest == large.digest

    def test_what_cannot_be_read_is_kept(self, place: Place) -> None:
        made = make_fake_set(place, FakeSamples(ROWS), OracleTeacher())
        place.remove(f"sets/{made.fingerprint}/set.json")
        place.remove(f"sets/{made.fingerprint}/plan.json")
        place.put(f"sets/{made.fingerprint}/plan.json", b"{")
        found = collect(Store(place), unfinished=True, unreachable=True)
        assert (found.attempts, found.units) == ([], [])
        assert "Nothing that it may list is removed" in found.kept[0]

    def test_collecting_beside_a_live_writer(self, place: Place) -> None:
        """Labelling stops after each batch while garbage is collected; nothing of it is lost."""
        samples, collected = FakeSamples(ROWS), list[Garbage]()

        def meanwhile(batch: torch.Tensor) -> torch.Tensor:
            collected.append(collect(Store(place)))
            return batch

        assert make_fake_set(place, samples, OracleTeacher(meanwhile)).digest == whole().digest
        assert collected
        assert not any(found.attempts or found.units for found in collected)
        assert verify(LabelSet.open(place), deep=True) == []

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
