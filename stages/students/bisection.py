"""The search for the member of a group that ends the process it works in. Pure: the work is somebody else's."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from typing import TypeVar

RESTARTS = 1
"""How often a group that died is started again as it is: a node may be lost by chance."""
Member = TypeVar("Member", bound=Hashable)


def bisect(
    members: Sequence[Member],
    attempt: Callable[[Sequence[Member], int], str | None],
    left: Callable[[Sequence[Member]], Sequence[Member]],
) -> dict[Member, str]:
    """Let all members work; the answer is how the process ended, by each member that ends it even alone.

    `attempt(group, restarts)` lets a group work in one process, started again so often if it dies, and tells how it
    died in the end; None: all of it is done. `left` are those of a group that are not done yet. A group that dies
    twice works on in halves: one member that ends it among n costs 2 log2(n) + 4 processes, and each half keeps what
    it has done. A process may also die by chance or of too many members at once: then the halves simply get through.
    """
    found: dict[Member, str] = {}
    todo: list[tuple[Sequence[Member], int]] = [(members, RESTARTS)]
    while todo:
        group, restarts = todo.pop(0)
        group = left(group)
        if not group:
            continue
        death = attempt(group, restarts)
        group = left(group)
        if death is None or not group:
            continue
        if len(group) == 1:
            found[group[0]] = death
            continue
        half = (len(group) + 1) // 2
        # Only a member that is alone is found guilty, and then of two deaths: none may be by chance.
        todo = [(part, RESTARTS if len(part) == 1 else 0) for part in (group[:half], group[half:])] + todo
    return found
