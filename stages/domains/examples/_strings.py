"""Interface strings of LibreOffice 7.4, English with their French and simplified Chinese translations.

They ship as message catalogs (`.mo`), one for each part of the suite. Signs for keyboard shortcuts are taken out
(`~File`, `Datei(~D)`), and a string that was left untranslated is no pair.
"""

from __future__ import annotations

import gettext
import io
import re
import tarfile
from collections.abc import Iterator
from functools import partial
from typing import TYPE_CHECKING

from stages.domains.fetch import Member

if TYPE_CHECKING:
    import numpy as np

LICENCE = "LibreOffice's translations (The Document Foundation and contributors), MPL-2.0; come with Debian"
CALC = frozenset({"sc", "sca", "scc", "for"})
"""Catalogs of the spreadsheet program and its functions."""
_FOLDER = "usr/lib/libreoffice/program/resource"
_MEMBER = partial(Member, version="4:7.4.7-1+deb12u14", client="apt-get")
CHINESE = _MEMBER(
    package="libreoffice-l10n-zh-cn",
    path=f"{_FOLDER}/zh_CN/LC_MESSAGES/",
    sha256="887fcee8a9a12af81bd7b316e69dad06aa460e1848233f686de5cb0da32f88e2",
)
FRENCH = _MEMBER(
    package="libreoffice-l10n-fr",
    path=f"{_FOLDER}/fr/LC_MESSAGES/",
    sha256="094989da1d6bb0fdb14bbac8617d9eac9feb73d4382b82fb1b31dc630360c114",
)
_CONTEXT = "\x04"
_SHORTCUT = re.compile(r"\s*[(\uff08]\s*[~_]\w\s*[)\uff09]|[~_](?=\w)")

Catalogs = dict[str, dict[tuple[str, int], str]]
"""By catalog: a translation by its message (context and English) and the number of its plural form."""


def read_catalogs(data: bytes) -> Catalogs:
    """The catalogs in a kept folder, by name without suffix."""
    with tarfile.open(fileobj=io.BytesIO(data)) as tar:
        return {item.name.removesuffix(".mo"): _messages(tar.extractfile(item)) for item in tar.getmembers()}


def pairs(
    catalogs: Catalogs, names: frozenset[str] | set[str]
) -> Iterator[tuple[tuple[str, tuple[str, int]], str, str]]:
    """((catalog, message), English, translation), cleaned, of some catalogs in order."""
    for name in sorted(names & catalogs.keys()):
        for key, translation in catalogs[name].items():
            source, target = cleaned(key[0].rpartition(_CONTEXT)[2]), cleaned(translation)
            if source and target and source != target:
                yield (name, key), source, target


def cleaned(text: str) -> str:
    """Without signs for keyboard shortcuts, and with single spaces."""
    return " ".join(_SHORTCUT.sub("", text).split())


def columns(**values: list[str]) -> dict[str, np.ndarray]:
    """Texts as columns."""
    import numpy as np

    return {name: np.array(texts) for name, texts in values.items()}


def _messages(file: object) -> dict[tuple[str, int], str]:
    catalog = gettext.GNUTranslations(file)._catalog  # type: ignore[arg-type, attr-defined] # no public way to list
    return {(key if isinstance(key, tuple) else (key, 0)): text for key, text in catalog.items() if key}
