"""6,236 verses of the Quran in English, French and Chinese."""

from __future__ import annotations

import json
from functools import partial
from typing import TYPE_CHECKING

from stages.domains.examples._strings import columns
from stages.domains.examples.base import Example
from stages.domains.fetch import Member

if TYPE_CHECKING:
    import numpy as np

_MEMBER = partial(Member, package="quran-json", version="3.1.2", client="npm")


def _parse(english: bytes, french: bytes, chinese: bytes) -> dict[str, np.ndarray]:
    """`sample_id` (chapter:verse), `en`, `fr` and `zh`."""
    texts = [
        {
            f"{chapter['id']}:{verse['id']}": verse["translation"]
            for chapter in json.loads(data)
            for verse in chapter["verses"]
        }
        for data in (english, french, chinese)
    ]
    en, fr, zh = ([text[key] for key in texts[0]] for text in texts)
    return columns(sample_id=list(texts[0]), en=en, fr=fr, zh=zh)


EXAMPLE = Example(
    name="verses",
    licence="Translations by Saheeh International, Hamidullah and Ma Jian, which are their publishers'; come with "
    "quran-json, CC BY-SA 4.0",
    members=(
        _MEMBER(
            path="package/dist/quran_en.json", sha256="bae3acab517304dc2684d65949a00f31000a92818041cefabc234663da99d7a3"
        ),
        _MEMBER(
            path="package/dist/quran_fr.json", sha256="2efc6d899d9504d63c4d62efa4fc89d38f99105237b7030b01b12f24bc1ebb8e"
        ),
        _MEMBER(
            path="package/dist/quran_zh.json", sha256="0646a4794227cfbcd45f23b86328e7b9617bfbcce9571e91f87360495b11ef6c"
        ),
    ),
    parse=_parse,
    columns=("sample_id", "en", "fr", "zh"),
)
