"""Verses of the Quran in English, French and Chinese, 6,236 of them: the long chapters apart from the short ones."""

from __future__ import annotations

import json
from functools import partial
from typing import TYPE_CHECKING

from stages.domains.examples._strings import columns
from stages.domains.fetch import Member

if TYPE_CHECKING:
    import numpy as np

LICENCE = (
    "Translations by Saheeh International, Hamidullah and Ma Jian, which are their publishers'; come with "
    "quran-json, CC BY-SA 4.0"
)
LONG = range(1, 26)
"""The long chapters: they stand first, by and large, and have the longer verses."""
_MEMBER = partial(Member, package="quran-json", version="3.1.2", client="npm")
ENGLISH = _MEMBER(
    path="package/dist/quran_en.json", sha256="bae3acab517304dc2684d65949a00f31000a92818041cefabc234663da99d7a3"
)
FRENCH = _MEMBER(
    path="package/dist/quran_fr.json", sha256="2efc6d899d9504d63c4d62efa4fc89d38f99105237b7030b01b12f24bc1ebb8e"
)
CHINESE = _MEMBER(
    path="package/dist/quran_zh.json", sha256="0646a4794227cfbcd45f23b86328e7b9617bfbcce9571e91f87360495b11ef6c"
)


def read_verses(sides: tuple[str, ...], long: bool, *texts: bytes) -> dict[str, np.ndarray]:
    """Columns of the long chapters' verses or of all others': `sample_id` (chapter:verse) and each side.

    `texts`: a file for each side, English first. Each English is taken where it stands first.
    """
    read = [_by_place(text) for text in texts]
    first: dict[str, str] = {}
    for place, english in read[0].items():
        first.setdefault(english, place)
    places = [place for place in first.values() if (int(place.partition(":")[0]) in LONG) == long]
    texts_by_side = {side: [verses[place] for place in places] for side, verses in zip(sides, read, strict=True)}
    return columns(sample_id=places, **texts_by_side)


def _by_place(text: bytes) -> dict[str, str]:
    return {
        f"{chapter['id']}:{verse['id']}": verse["translation"]
        for chapter in json.loads(text)
        for verse in chapter["verses"]
    }
