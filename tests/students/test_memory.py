"""Memory where a cohort starts: what is measured, and that a cohort which splits gives the same students."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import torch

from schemas.runs import Event
from schemas.spec import Resources
from stages.context import Context
from stages.places import Place
from stages.students import cohort
from stages.students.fit import Fit
from stages.students.memory import HostMemory, host_free
from stages.students.stage import STUDENTS
from tests.students.test_cohort import SIX, digests
from tests.students.world import World, cohort_of, student


@dataclass
class Counted:
    """Memory in which every student that is built takes one unit, and its step another one for a moment."""

    limit: int | None
    built: list[Fit] = field(default_factory=list)
    most: int = 0
    given_back: int = 0

    def give_back(self) -> None:
        self.given_back += 1

    def begin(self) -> None:
        """Nothing is remembered."""

    def held(self) -> int:
        return sum("_steps" in fit.__dict__ for fit in self.built)

    def peak(self) -> int:
        self.most = max(self.most, self.held())
        return self.held() + 1


@pytest.fixture
def memory(monkeypatch: pytest.MonkeyPatch) -> Counted:
    """Counts the students of a cohort."""
    counted = Counted(None)
    build = Fit.build

    def counting(self: Fit) -> None:
        if self not in counted.built:
            counted.built.append(self)
        build(self)

    monkeypatch.setattr(Fit, "build", counting)
    monkeypatch.setattr(cohort, "memory_of", lambda device: counted)
    return counted


def contexts(folder: Path, told: list[Event]) -> Context:
    return Context(workspace=Place(str(folder)), resources=Resources(mode="local"), sink=told.append)


@pytest.mark.parametrize(("limit", "together"), [(2, 1), (3, 2), (7, 6)])
def test_a_cohort_that_splits_gives_the_same_students(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, memory: Counted, limit: int, together: int
) -> None:
    World().use(monkeypatch)
    whole = STUDENTS.run(contexts(tmp_path / "whole", []), cohort_of(*SIX))
    memory.limit, memory.built, memory.most = limit, [], 0
    told: list[Event] = []
    split = STUDENTS.run(contexts(tmp_path / "split", told), cohort_of(*SIX))
    assert digests(split) == digests(whole)
    assert [one.history for one in split.students] == [one.history for one in whole.students]
    warnings = [event.message for event in told if event.kind == "warning"]
    if together == len(SIX):
        assert warnings == []
    else:
        assert warnings[0].startswith(f"{together} of 6 students fit into memory at once")
        assert memory.given_back == len(warnings)
    assert memory.most <= together + 1, "one more was built at most, and taken back"


def test_students_that_are_built_alike_are_not_tried(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, memory: Counted
) -> None:
    """What one takes is known from the first: the next one is built only where there is room for it."""
    World().use(monkeypatch)
    memory.limit = 3
    alike = [student(f"s{seed}", seed=seed) for seed in range(4)]
    outputs = STUDENTS.run(contexts(tmp_path, []), cohort_of(*alike))
    assert len(set(digests(outputs))) == 4
    assert memory.most == 2


def test_each_part_reads_the_stream_once(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, memory: Counted) -> None:
    world = World().use(monkeypatch)
    memory.limit = 3
    STUDENTS.run(contexts(tmp_path, []), cohort_of(*(student(f"s{seed}", seed=seed) for seed in range(4))))
    assert world.feeds[0].counters["augmented"] == 2 * 14 * (8 + 4)


def test_memory_that_ends_beside_others_is_no_failure(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, memory: Counted
) -> None:
    """A student that finds none in its first step trains after the others; one that is alone has failed."""
    World().use(monkeypatch)
    step = Fit.step

    def needs_all(self: Fit, *batches: Any) -> None:
        if self.student.name == "hard" and self.done == 0 and memory.held() > 1:
            raise torch.OutOfMemoryError("no memory")
        if self.student.name == "none":
            raise MemoryError("never enough")
        step(self, *batches)

    whole = STUDENTS.run(contexts(tmp_path / "whole", []), cohort_of(*SIX))
    monkeypatch.setattr(Fit, "step", needs_all)
    told: list[Event] = []
    found = STUDENTS.run(contexts(tmp_path / "found", told), cohort_of(*SIX)).students
    assert [one.failure for one in found] == [
        None,
        None,
        "MemoryError: never enough (after 0 of 14 steps)",
        None,
        None,
        None,
    ]
    assert [one.name for one in found if one.model is None] == ["none"]
    digest = {one.name: one.model.digest for one in whole.students if one.model}
    assert all(digest[one.name] == one.model.digest for one in found if one.model)
    assert any("1 of 6 students fit into memory at once" in event.message for event in told)


def test_the_host_is_measured() -> None:
    """A block of 64 MiB is seen while it is held, and in the peak afterwards."""
    memory = HostMemory()
    assert memory.limit is not None
    assert memory.limit > memory.held() > 50 * 2**20, "torch alone takes that"
    memory.begin()
    before = memory.held()
    block = torch.ones(16 * 2**20)
    held = memory.held()
    del block
    assert held - before > 60 * 2**20
    assert memory.peak() - before > 60 * 2**20
    memory.give_back()
    memory.begin()
    assert memory.held() < held - 60 * 2**20
    assert memory.peak() < held - 60 * 2**20, "the peak begins anew"


def test_ranks_of_a_node_share_what_is_free(monkeypatch: pytest.MonkeyPatch) -> None:
    free = host_free()
    assert free is not None
    monkeypatch.setattr("stages.students.memory.host_free", lambda: 10 * 2**30)
    alone = HostMemory()
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "4")
    shared = HostMemory()
    assert alone.limit is not None
    assert shared.limit is not None
    assert alone.limit - alone.held() == pytest.approx(9 * 2**30, rel=0.01)
    assert shared.limit - shared.held() == pytest.approx(9 * 2**28, rel=0.01)
    monkeypatch.setattr("stages.students.memory.host_free", lambda: None)
    assert HostMemory().limit is None
