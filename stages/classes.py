"""Classes go by their names: the same names in another order are remapped, other names are refused."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from schemas.errors import StoreError


def class_columns(theirs: Sequence[str], ours: Sequence[str], who: str, whom: str) -> NDArray[np.int64] | None:
    """Column among theirs of each of our classes; None where they stand alike.

    Raises StoreError, naming both sides as `who` (theirs) and `whom` (ours), if they do not speak of the same classes.
    """
    if tuple(theirs) == tuple(ours):
        return None
    if differing := sorted(set(theirs) ^ set(ours)):
        raise StoreError(
            f"{who} ({len(theirs)} classes) and {whom} ({len(ours)}) do not speak of the same classes: "
            f"{len(differing)} stand on one side only (first: {differing[0]!a}). Name them alike, or give the "
            "teacher a `class_map` onto the target's classes"
        )
    return _places(theirs, ours)


def class_numbers(theirs: Sequence[str], ours: Sequence[str]) -> NDArray[np.int64] | None:
    """Our number of each of their classes; None where they stand alike. Both have the same ones."""
    return None if tuple(theirs) == tuple(ours) else _places(ours, theirs)


def reordered(who: str, whom: str) -> str:
    """What is told of classes that were remapped."""
    return f"{who} and {whom} have the same classes in another order: they are read by their names"


def _places(names: Sequence[str], wanted: Sequence[str]) -> NDArray[np.int64]:
    """Where each wanted name stands among some."""
    places = {name: number for number, name in enumerate(names)}
    return np.array([places[name] for name in wanted], np.int64)
