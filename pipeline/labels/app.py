"""The group of commands that the files beside this one add theirs to, and how they name a store and a set."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from schemas.errors import SpecError, StoreError
from schemas.spec import Storage

if TYPE_CHECKING:
    from stages.labels.reader import LabelSet
    from stages.places import Place

labels_app = typer.Typer(
    help="Look at, check, share and change the form of label sets.", no_args_is_help=True, rich_markup_mode=None
)

StoreArgument = Annotated[str, typer.Argument(metavar="STORE", help="A store, or a workspace that holds one.")]
SetArgument = Annotated[
    str, typer.Argument(metavar="SET", help="A tag (NAME or NAME@v3), or 8 digits or more of a fingerprint or digest.")
]
SETS = "As SET; one of another store is STORE#SET."


def find_store(where: str, endpoint_url: str | None) -> Place:
    """The store at an address, or in the workspace there. Raises SpecError if there is none."""
    from stages.places import Place

    place = Place(where, Storage(endpoint_url=endpoint_url))
    if not place.exists("store.json") and place.exists("store/store.json"):
        place = place / "store"
    if not place.exists("store.json"):
        raise SpecError(f"{place.uri} is no label store (it has no store.json), nor a workspace that holds one")
    return place


def find_name(place: Place, name: str) -> str:
    """Fingerprint of the set that SET means. Raises StoreError naming what there is, or what is damaged."""
    from stages.labels.catalog import list_sets
    from stages.labels.tags import is_fingerprint, read_tag

    if not is_fingerprint(name):
        if len(name) < 8 and set(name) <= set("0123456789abcdef"):
            raise StoreError(f"8 digits or more are needed, no set can be told from '{name}'")
        return read_tag(place, name)[1].fingerprint
    sets, damaged = list_sets(place)
    told = [problem for fingerprint, problem in damaged.items() if fingerprint.startswith(name)]
    found = [item for item in sets if item.fingerprint.startswith(name) or item.digest.startswith(name)]
    if told and not found:
        raise StoreError(*told)
    if len(found) != 1:
        raise StoreError(
            f"{len(found)} sets begin with '{name}' in {place.uri}: see them with `crossdistill labels ls {place.uri}`"
        )
    return found[0].fingerprint


def open_set(where: str, name: str, endpoint_url: str | None) -> LabelSet:
    """The set that STORE and SET mean, or SET alone as `STORE#SET`. Raises like `find_store` and `find_name`."""
    from stages.labels.reader import LabelSet

    if "#" in name:
        where, _, name = name.rpartition("#")
    place = find_store(where, endpoint_url)
    return LabelSet.open(place, find_name(place, name))


def new_store(to: str, endpoint_url: str | None) -> Place:
    """The store to copy to: that of a workspace, where one is named."""
    from stages.places import Place

    place = Place(to, Storage(endpoint_url=endpoint_url))
    inside = not place.exists("store.json") and place.exists("store/store.json")
    return place / "store" if inside else place
