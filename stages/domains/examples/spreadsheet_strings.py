"""A spreadsheet's interface strings in English, French and Chinese: those whose English no `interface-strings` has."""

from __future__ import annotations

from typing import TYPE_CHECKING

from stages.domains.examples._strings import CALC, CHINESE, FRENCH, LICENCE, columns, pairs, read_catalogs
from stages.domains.examples.base import Example

if TYPE_CHECKING:
    import numpy as np


def _parse(chinese: bytes, french: bytes) -> dict[str, np.ndarray]:
    """`en`, `fr` and `zh`, joined on the English message and its context; each English once."""
    into = read_catalogs(chinese)
    elsewhere = {en for _, en, _ in pairs(into, into.keys() - CALC)}
    french_of = {message: fr for message, _, fr in pairs(read_catalogs(french), CALC)}
    found: dict[str, tuple[str, str]] = {}
    for message, en, zh in pairs(into, CALC):
        if message in french_of and en not in elsewhere:
            found.setdefault(en, (french_of[message], zh))
    return columns(en=list(found), fr=[fr for fr, _ in found.values()], zh=[zh for _, zh in found.values()])


EXAMPLE = Example(
    name="spreadsheet-strings", licence=LICENCE, members=(CHINESE, FRENCH), parse=_parse, columns=("en", "fr", "zh")
)
