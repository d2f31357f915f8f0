"""The search for the member that ends its process: who is found, who gets through, and at what cost."""

from __future__ import annotations

import math
from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stages.students.bisection import bisect


class Works:
    """Processes in which members work until a deadly one is met, or until there are too many of them."""

    def __init__(self, deadly: Sequence[int], room: int = 10**6, chance: int = 0) -> None:
        self.deadly, self.room, self.chance = set(deadly), room, chance
        self.done: set[int] = set()
        self.starts: list[tuple[int, ...]] = []

    def attempt(self, group: Sequence[int], restarts: int) -> str | None:
        for _ in range(restarts + 1):
            group = self.left(group)
            self.starts.append(tuple(group))
            if self.chance:
                self.chance -= 1
                continue
            if self.deadly.isdisjoint(group) and len(group) <= self.room:
                self.done |= set(group)
                return None
        return f"died with {len(group)}"

    def left(self, group: Sequence[int]) -> list[int]:
        return [member for member in group if member not in self.done]


@given(st.integers(1, 40).flatmap(lambda n: st.tuples(st.just(n), st.sets(st.integers(0, n - 1)))))
def test_just_the_deadly_ones_are_found_and_all_others_get_through(case: tuple[int, set[int]]) -> None:
    count, deadly = case
    works = Works(list(deadly))
    found = bisect(range(count), works.attempt, works.left)
    assert set(found) == deadly
    assert works.done == set(range(count)) - deadly
    assert all(reason == "died with 1" for reason in found.values())


@pytest.mark.parametrize("count", [1, 2, 3, 8, 31, 64])
def test_one_among_many_costs_what_is_said(count: int) -> None:
    for deadly in {0, count // 2, count - 1}:
        works = Works([deadly])
        bisect(range(count), works.attempt, works.left)
        assert len(works.starts) <= 2 * math.log2(count) + 4


def test_a_death_by_chance_costs_one_start() -> None:
    works = Works([], chance=1)
    assert bisect(range(8), works.attempt, works.left) == {}
    assert works.starts == [tuple(range(8))] * 2


def test_nobody_is_found_guilty_of_one_death() -> None:
    """Three deaths by chance in a row reach a member that is alone: it works on all the same."""
    works = Works([], chance=3)
    assert bisect(range(2), works.attempt, works.left) == {}
    assert works.done == {0, 1}


def test_too_many_at_once_get_through_in_parts() -> None:
    works = Works([], room=3)
    assert bisect(range(10), works.attempt, works.left) == {}
    assert works.done == set(range(10))


def test_what_is_done_already_is_left_in_peace() -> None:
    works = Works([1])
    works.done = {0, 2}
    assert set(bisect(range(3), works.attempt, works.left)) == {1}
    assert works.starts == [(1,), (1,)]
    assert bisect([], works.attempt, works.left) == {}
