"""Verses of the Quran in English, French and Chinese, 6,236 of them: the long chapters apart from the short ones."""

from __future__ import annotations

import json
from functools import partial

from stages.domains.fetch import Member

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

Verses = dict[str, tuple[str, ...]]
"""A verse in each of some languages, English first, by its place (`chapter:verse`)."""


def read_verses(*texts: bytes) -> Verses:
    """All verses, each English where it stands first."""
    read = [_by_place(text) for text in texts]
    first: dict[str, str] = {}
    for place, english in read[0].items():
        first.setdefault(english, place)
    return {place: tuple(verses[place] for verses in read) for place in first.values()}


def long_verses(verses: Verses) -> Verses:
    """Those of the long chapters."""
    return {place: sides for place, sides in verses.items() if int(place.partition(":")[0]) in LONG}


def short_verses(verses: Verses) -> Verses:
    """The others."""
    return {place: sides for place, sides in verses.items() if int(place.partition(":")[0]) not in LONG}


def _by_place(text: bytes) -> dict[str, str]:
    return {
        f"{chapter['id']}:{verse['id']}": verse["translation"]
        for chapter in json.loads(text)
        for verse in chapter["verses"]
    }
