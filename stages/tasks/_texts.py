"""Texts as samples, and words that are dropped or hidden. No torch.

Changes are made to words, before any tokenizer: models with other tokenizers miss the same words.

Shapes: B texts.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable
from typing import Any, Literal

import numpy as np

from schemas.errors import SpecError
from stages.tasks.base import BadRow, Column, Sample

WORDS = 128
"""Numbers that the words of a text are drawn by; those of a longer text go through them again."""
_PIECES = re.compile(r"\s*\S+")
_COLUMN = Column("encoded")


def pack_text(value: Any, role: str, form: Literal["NFC", "NFKC"]) -> Sample:
    """A text, or its UTF-8 bytes, as a sample under one role: in one Unicode form. Raises BadRow."""
    if isinstance(value, bytes | bytearray | memoryview):
        try:
            value = bytes(value).decode("utf-8")
        except UnicodeDecodeError as error:
            raise BadRow(f"the {role} is not UTF-8 (byte {error.start + 1})") from None
    if not isinstance(value, str):
        raise BadRow(f"the {role} is a {type(value).__name__}, not text")
    if not value.strip():
        raise BadRow(f"the {role} is empty")
    try:
        data = unicodedata.normalize(form, value).encode("utf-8")
    except UnicodeEncodeError:
        raise BadRow(f"the {role} holds half a character (a lone surrogate)") from None
    return Sample({role: data}, {role: _COLUMN}, data)


def decoded(values: Iterable[bytes]) -> list[str]:
    """Packed texts as they are."""
    return [value.decode("utf-8") for value in values]


def changed(texts: list[str], drop: float, hide: float, mask: str | None, draw_BW: np.ndarray) -> list[str]:
    """Texts of which each word (what stands between white space) is left out or stands hidden, by its number in [0, 1).

    A number below `drop` drops the word, one below drop + hide puts `mask` in its place. A text of which nothing would
    be left keeps the word with the largest number. Raises SpecError where words are to be hidden and there is no mask.
    """
    if hide and mask is None:
        raise SpecError("augmentation: this tokenizer has no sign for a hidden word: use `drop` instead of `mask`")
    return [_changed(text, drop, drop + hide, mask or "", row) for text, row in zip(texts, draw_BW, strict=True)]


def _changed(text: str, drop: float, hide: float, mask: str, numbers: np.ndarray) -> str:
    pieces = _PIECES.findall(text)
    number_N = np.resize(numbers, len(pieces))
    kept_N = number_N >= drop
    if not kept_N.any():
        kept_N[number_N.argmax()] = True
    hidden_N = kept_N & (number_N < hide)
    return "".join(
        piece[: len(piece) - len(piece.lstrip())] + mask if hidden else piece
        for piece, kept, hidden in zip(pieces, kept_N.tolist(), hidden_N.tolist(), strict=True)
        if kept
    )
