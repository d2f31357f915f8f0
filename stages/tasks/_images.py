"""Pictures as samples: decoding and packing. Loads PIL and numpy, no torch, since every ingest worker does this.

Shapes: H height, W width, K channels.
"""

from __future__ import annotations

from io import BytesIO
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from stages.tasks.base import BadRow, Column, Sample

Pixels = NDArray[np.uint8]
MODES = {1: "L", 3: "RGB"}
DEEP = ("I", "F")
"""First letters of PIL's modes with more than 8 bits a channel."""


def decode(data: bytes, channels: int) -> Pixels:
    """Pixels (H, W, K) of an image file, turned to grey or colour as asked. Raises BadRow."""
    try:
        with Image.open(BytesIO(data)) as image:
            if image.mode.startswith(DEEP):
                raise BadRow(f"the picture has mode {image.mode}: give 8 bits a channel")
            pixels = np.asarray(image.convert(MODES[channels]))
    except BadRow:
        raise
    except Exception as error:  # noqa: BLE001 - PIL raises anything on a broken file
        raise BadRow(f"not an image that can be read ({type(error).__name__})") from None
    return pixels.reshape(*pixels.shape[:2], channels)


def pack_picture(value: Any, channels: int, center_crop: int | None) -> Sample:
    """An image file's bytes or a uint8 array (H, W) or (H, W, K) as a sample under the role `image`.

    Files stay as they are, so that a photograph keeps its size on disk; arrays and cropped pictures are stored raw.
    The content is that of the pixels, so a PNG and an array of one picture are duplicates. Raises BadRow.
    """
    encoded = isinstance(value, bytes | bytearray | memoryview)
    if value is None or (encoded and not len(value)):
        raise BadRow("the picture is empty")
    pixels = decode(bytes(value), channels) if encoded else _checked(value, channels)
    if center_crop is not None:
        pixels = _center(pixels, center_crop)
    height, width, _ = pixels.shape
    raw = pixels.tobytes()
    content = f"{height}x{width}x{channels}:".encode() + raw
    if encoded and center_crop is None:
        return Sample({"image": bytes(value)}, {"image": Column("encoded")}, content)
    return Sample({"image": raw}, {"image": Column("raw", "uint8", pixels.shape)}, content)


def _checked(value: Any, channels: int) -> Pixels:
    array = np.asarray(value)
    if array.dtype != np.uint8:
        raise BadRow(f"the picture holds {array.dtype}, not uint8")
    if array.size == 0:
        raise BadRow("the picture is empty")
    if array.ndim == 2:
        array = array[:, :, None]
    if array.ndim != 3 or array.shape[2] != channels:
        shape = "x".join(map(str, array.shape))
        raise BadRow(f"the picture has shape {shape}, not height x width x {channels} channel(s)")
    return array


def _center(pixels: Pixels, side: int) -> Pixels:
    height, width, _ = pixels.shape
    if min(height, width) < side:
        raise BadRow(f"the picture of {height}x{width} is smaller than the centre crop of {side}")
    top, left = (height - side) // 2, (width - side) // 2
    return pixels[top : top + side, left : left + side]
