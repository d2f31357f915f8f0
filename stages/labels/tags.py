"""Names of label sets: `tags/NAME/000001.json`, a numbered history in which the highest number wins.

An entry is put if absent and never changes; giving a name to another set adds one. It also holds what its publisher
says of the set, which may rest on truth or change, and so is no part of the set.
"""

from __future__ import annotations

import re

from schemas.errors import NAME_PATTERN, StoreError, did_you_mean
from schemas.labels import Tag
from stages.artifacts import read_document
from stages.places import Log, Place

TRIES = 16
"""Attempts at the next number while others take it first."""
_FINGERPRINT = re.compile(r"[0-9a-f]{8,32}")
_WITH_VERSION = re.compile(r"(?P<name>.+)@v(?P<number>[1-9][0-9]{0,5})")


def is_fingerprint(name: str) -> bool:
    """Whether a name can only mean a fingerprint or root digest, or the beginning of one: no tag is called so."""
    return bool(_FINGERPRINT.fullmatch(name))


def check_name(name: str) -> None:
    """Raise StoreError for a name that cannot be a tag."""
    if not re.fullmatch(NAME_PATTERN, name) or is_fingerprint(name):
        raise StoreError(
            f"'{name}' cannot be a tag: give up to 80 letters, digits, dots, underscores and hyphens, a letter "
            "or digit first, that are not 8 to 32 hexadecimal digits"
        )


def put_tag(place: Place, name: str, tag: Tag) -> int:
    """Give a set of a store a name; the answer is the entry's number. Says the same twice: one entry.

    Raises StoreError for a name that cannot be one, or if the store has no such set.
    """
    from stages.labels.store import Store

    check_name(name)
    manifest = Store.open(place).manifest(tag.fingerprint)
    if manifest is None or manifest.digest != tag.digest:
        raise StoreError(f"{place.uri} has no finished label set {tag.fingerprint} with root digest {tag.digest}")
    log = Log(place / f"tags/{name}")
    for _ in range(TRIES):
        number, data = log.last()
        if data is not None and Tag.parse_json(data, f"{name}@v{number}") == tag:
            return number
        log.append(number + 1, tag.to_json())  # whether it was taken is seen in what stands there: answers get lost
        if _entry(place, name, number + 1) == tag:
            return number + 1
    raise StoreError(f"tag '{name}' of {place.uri} is given to other sets all the time: try again")


def read_tag(place: Place, name: str) -> tuple[int, Tag]:
    """(number, entry) that `NAME` (the newest) or `NAME@v3` means. Raises StoreError naming the tags there are."""
    match = _WITH_VERSION.fullmatch(name)
    if match is not None:
        number = int(match["number"])
        found = _entry(place, match["name"], number) if re.fullmatch(NAME_PATTERN, match["name"]) else None
    else:
        number = Log(place / f"tags/{name}").last()[0] if re.fullmatch(NAME_PATTERN, name) else 0
        found = _entry(place, name, number) if number else None
    if found is None:
        known = place.names("tags")
        raise StoreError(f"{place.uri} has no tag '{name}'{did_you_mean(name.partition('@')[0], known)}")
    return number, found


def history(place: Place, name: str) -> dict[int, Tag]:
    """Every entry of a name by its number, oldest first."""
    numbers = sorted(int(item.split(".")[0]) for item in place.names(f"tags/{name}") if item.split(".")[0].isdigit())
    entries = {number: _entry(place, name, number) for number in numbers}
    return {number: entry for number, entry in entries.items() if entry is not None}


def all_tags(place: Place) -> dict[str, tuple[int, Tag]]:
    """The newest entry of every name. One listing a name and one small read."""
    found = {}
    for name in place.names("tags"):
        number, data = Log(place / f"tags/{name}").last()
        if data is not None:
            found[name] = (number, Tag.parse_json(data, f"{place.uri}/tags/{name}/{number:06d}.json"))
    return found


def _entry(place: Place, name: str, number: int) -> Tag | None:
    return read_document(place, f"tags/{name}/{number:06d}.json", Tag, "labels")
