"""English verses of the Quran's 25 long chapters and their Chinese."""

from __future__ import annotations

from functools import partial

from stages.domains.examples._verses import CHINESE, ENGLISH, LICENCE, read_verses
from stages.domains.examples.base import Example

SIDES = ("en", "zh")
EXAMPLE = Example(
    name="long-verses",
    licence=LICENCE,
    members=(ENGLISH, CHINESE),
    parse=partial(read_verses, SIDES, True),
    columns=("sample_id", *SIDES),
)
