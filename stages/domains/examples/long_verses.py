"""English verses of the Quran's 25 long chapters and their Chinese."""

from __future__ import annotations

from typing import TYPE_CHECKING

from stages.domains.examples._strings import columns
from stages.domains.examples._verses import CHINESE, ENGLISH, LICENCE, long_verses, read_verses
from stages.domains.examples.base import Example

if TYPE_CHECKING:
    import numpy as np


def _parse(english: bytes, chinese: bytes) -> dict[str, np.ndarray]:
    """`sample_id` (chapter:verse), `en` and `zh`; each English once."""
    verses = long_verses(read_verses(english, chinese))
    return columns(sample_id=list(verses), en=[en for en, _ in verses.values()], zh=[zh for _, zh in verses.values()])


EXAMPLE = Example(
    name="long-verses", licence=LICENCE, members=(ENGLISH, CHINESE), parse=_parse, columns=("sample_id", "en", "zh")
)
