"""Verses of the Quran's 89 short chapters in English, French and Chinese: those whose English no `long-verses` has."""

from __future__ import annotations

from functools import partial

from stages.domains.examples._verses import CHINESE, ENGLISH, FRENCH, LICENCE, read_verses
from stages.domains.examples.base import Example

SIDES = ("en", "fr", "zh")
EXAMPLE = Example(
    name="short-verses",
    licence=LICENCE,
    members=(ENGLISH, FRENCH, CHINESE),
    parse=partial(read_verses, SIDES, False),
    columns=("sample_id", *SIDES),
)
