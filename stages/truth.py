"""True labels in memory: int32 class numbers, or bytes that a task makes of them (a text, boxes, a mask).

Bytes stand in an object array. Either kind is cut, joined and compared as numpy does it; UNKNOWN is a row without
truth.

Shapes: N rows.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

UNKNOWN = -1
"""Truth of a row whose label cell is empty."""
Truth = NDArray[Any]
"""int32 (N,), or object (N,) of bytes and UNKNOWN."""


def as_truth(values: Sequence[int | bytes], coded: bool) -> Truth:
    """Truth of N rows; `coded`: as bytes."""
    if not coded:
        return np.asarray(values, np.int32)
    truth = np.empty(len(values), object)
    truth[:] = list(values)
    return truth


def to_arrow(truth: Truth) -> pa.Array:
    """As it is stored: int32, or binary and null."""
    if truth.dtype != object:
        return pa.array(truth)
    return pa.array([value if isinstance(value, bytes) else None for value in truth], pa.large_binary())


def from_arrow(column: pa.Array) -> Truth:
    """What `to_arrow` made; numbers without a copy, read-only."""
    if not pa.types.is_large_binary(column.type):
        return np.asarray(column.to_numpy(zero_copy_only=True))
    return as_truth([UNKNOWN if value is None else value for value in column.to_pylist()], coded=True)


def content(truth: Truth) -> bytes:
    """What a digest of it is taken of: numbers as int32, bytes after their lengths."""
    if truth.dtype != object:
        return truth.astype("<i4").tobytes()
    sizes = np.array([len(value) if isinstance(value, bytes) else UNKNOWN for value in truth], "<i8")
    return sizes.tobytes() + b"".join(value for value in truth if isinstance(value, bytes))


def counts(truth: Truth, classes: int) -> tuple[int, ...]:
    """Rows of each class; of bytes, all rows as one."""
    if truth.dtype == object:
        return (len(truth),)
    return tuple(np.bincount(truth, minlength=classes).tolist())
