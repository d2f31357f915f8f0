"""What each of several speakers counts, by how often it is right: a majority vote of those that err independently."""

from __future__ import annotations

import math
from collections.abc import Sequence


def vote(figure: float, classes: int) -> float:
    """log((1 - e) / e) + log(C - 1) with e = 1 - figure, between 0 and 10 (SAMME, Zhu et al. 2009).

    One that is no better than chance, right once in C times, has none.
    """
    error = min(max(1.0 - figure, 1e-4), 1.0 - 1e-4)
    return min(max(math.log((1.0 - error) / error) + math.log(max(classes - 1, 1)), 0.0), 10.0)


def shares(figures: Sequence[float], classes: int) -> tuple[float, ...]:
    """Each one's part of all votes; the first of the best has all where none is better than chance."""
    votes = [vote(figure, classes) for figure in figures]
    if not (whole := sum(votes)):
        best = max(range(len(figures)), key=lambda number: figures[number])
        return tuple(float(number == best) for number in range(len(figures)))
    return tuple(item / whole for item in votes)
