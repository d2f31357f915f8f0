"""English interface strings of an office suite and their Chinese: every program and dialog but the spreadsheet's."""

from __future__ import annotations

from typing import TYPE_CHECKING

from stages.domains.examples._strings import CALC, CHINESE, LICENCE, columns, pairs, read_catalogs
from stages.domains.examples.base import Example

if TYPE_CHECKING:
    import numpy as np


def _parse(chinese: bytes) -> dict[str, np.ndarray]:
    """`en` and `zh`, each pair once."""
    catalogs = read_catalogs(chinese)
    found = dict.fromkeys((en, zh) for _, en, zh in pairs(catalogs, catalogs.keys() - CALC))
    return columns(en=[en for en, _ in found], zh=[zh for _, zh in found])


EXAMPLE = Example(name="interface-strings", licence=LICENCE, members=(CHINESE,), parse=_parse, columns=("en", "zh"))
