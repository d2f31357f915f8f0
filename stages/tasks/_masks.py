"""Masks as truth: a class number for each pixel, IGNORED where nobody says. No torch, for every ingest worker.

Stored as runs of equal numbers, row after row: small where regions are large, and the same bytes whatever library
wrote the picture that they came in.

Shapes: B rows, H height, W width, S side of the picture that models see.
"""

from __future__ import annotations

from io import BytesIO
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from stages.tasks.base import BadRow
from stages.truth import Truth

Mask = NDArray[np.uint8]
IGNORED = 255
"""Class number of a pixel that counts neither in a loss nor in a metric."""
NUMBER = np.dtype("<u4")
NUMBERED = ("1", "L", "P", "I")
"""PIL's modes whose values are numbers as they stand, by how they begin."""


def code_mask(value: Any, classes: int, ignore: int) -> bytes:
    """A source's label as bytes: height and width, the length of each run, the number of each run.

    The label is an array (H, W) of whole numbers, or the bytes of a picture whose values are class numbers: paletted,
    or grey. `ignore` becomes IGNORED. Raises BadRow.
    """
    numbers = _numbers(value)
    known = (numbers >= 0) & (numbers < classes) & (numbers != ignore)
    if (strange := numbers[~known & (numbers != ignore)]).size:
        raise BadRow(
            f"the mask has the class number {int(strange[0])} in {strange.size:,} pixels, the task's {classes} classes "
            f"go from 0 to {classes - 1}, and {ignore} is what does not count"
        )
    if not known.any():
        raise BadRow(f"the mask tells nothing: each pixel is {ignore}. Leave the picture without a mask")
    mask = np.where(known, numbers, IGNORED).astype(np.uint8)
    flat = mask.reshape(-1)
    begins = np.concatenate([[0], np.flatnonzero(flat[1:] != flat[:-1]) + 1])
    lengths = np.diff(np.append(begins, flat.size))
    parts = np.array(mask.shape, NUMBER), lengths.astype(NUMBER), flat[begins]
    return b"".join(part.tobytes() for part in parts)


def decode_mask(coded: bytes) -> Mask:
    """What `code_mask` made, uint8 (H, W)."""
    height, width = np.frombuffer(coded, NUMBER, 2).tolist()
    runs = (len(coded) - 2 * NUMBER.itemsize) // (NUMBER.itemsize + 1)
    lengths = np.frombuffer(coded, NUMBER, runs, 2 * NUMBER.itemsize)
    return np.repeat(np.frombuffer(coded, np.uint8)[-runs:], lengths).reshape(height, width)


def true_masks(truth: Truth, side: int) -> Mask:
    """Masks of B rows as models see them, uint8 (B, S * S): each pixel takes the number that its middle lies on."""
    masks = np.full((len(truth), side, side), IGNORED, np.uint8)
    for row, coded in enumerate(truth):
        if isinstance(coded, bytes):
            mask = decode_mask(coded)
            places = ((2 * np.arange(side) + 1) * length // (2 * side) for length in mask.shape)
            masks[row] = mask[np.ix_(*places)]
    return masks.reshape(len(truth), -1)


def size_of(value: Any) -> tuple[int, ...] | None:
    """(H, W) of a picture or mask, an array or a file's bytes; none of what is neither. Reads the file's head."""
    if isinstance(value, bytes | bytearray | memoryview):
        try:
            with Image.open(BytesIO(value)) as image:
                return image.size[::-1]
        except Exception:  # noqa: BLE001 - PIL raises anything on a broken file, which is told where it is decoded
            return None
    return value.shape[:2] if isinstance(value, np.ndarray) and value.ndim > 1 else None


def _numbers(value: Any) -> NDArray[np.int64]:
    """Whole numbers (H, W), as they stand in an array or a picture."""
    if isinstance(value, bytes | bytearray | memoryview) and len(value):
        try:
            with Image.open(BytesIO(value)) as image:
                mode, value = image.mode, np.asarray(image)
        except Exception as error:  # noqa: BLE001 - PIL raises anything on a broken file
            raise BadRow(f"the mask is no image that can be read ({type(error).__name__})") from None
        if not mode.startswith(NUMBERED) or value.ndim != 2:
            raise BadRow(f"the mask is a picture of mode {mode}: give class numbers, paletted or grey")
    if not isinstance(value, np.ndarray) or value.ndim != 2 or value.dtype.kind not in "bui" or not value.size:
        shown = f"an array of {value.dtype} {value.shape}" if isinstance(value, np.ndarray) else repr(value)[:40]
        raise BadRow(f"the label is {shown}, not a mask: class numbers, height x width, or a picture of them")
    return value.astype(np.int64)
