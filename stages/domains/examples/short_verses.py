"""Verses of the Quran's 89 short chapters in English, French and Chinese: those whose English no `long-verses` has."""

from __future__ import annotations

from typing import TYPE_CHECKING

from stages.domains.examples._strings import columns
from stages.domains.examples._verses import CHINESE, ENGLISH, FRENCH, LICENCE, read_verses, short_verses
from stages.domains.examples.base import Example

if TYPE_CHECKING:
    import numpy as np


def _parse(english: bytes, french: bytes, chinese: bytes) -> dict[str, np.ndarray]:
    """`sample_id` (chapter:verse), `en`, `fr` and `zh`; each English once."""
    verses = short_verses(read_verses(english, french, chinese))
    en, fr, zh = (list(side) for side in zip(*verses.values(), strict=True))
    return columns(sample_id=list(verses), en=en, fr=fr, zh=zh)


EXAMPLE = Example(
    name="short-verses",
    licence=LICENCE,
    members=(ENGLISH, FRENCH, CHINESE),
    parse=_parse,
    columns=("sample_id", "en", "fr", "zh"),
)
