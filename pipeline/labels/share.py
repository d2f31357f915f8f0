"""Sharing label sets: `publish`, `pull` and `tag`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from pipeline.labels.app import SetArgument, StoreArgument, find_name, find_store, labels_app, new_store, open_set
from pipeline.labels.progress import progress
from pipeline.options import AsJson, Endpoint
from schemas.errors import SpecError

if TYPE_CHECKING:
    from schemas.labels import Tag
    from stages.labels.reader import LabelSet
    from stages.places import Place

Licence = Annotated[str, typer.Option(help="Terms of use, shown on the label card.")]
Notes = Annotated[str, typer.Option(help="What users should know, shown on the label card.")]
Publisher = Annotated[str, typer.Option(help="Who says so, shown on the label card.")]
Quality = Annotated[
    list[str] | None, typer.Option(metavar="NAME=FIGURE", help="A figure of the teacher: 'accuracy on target=0.958'.")
]
Measured = Annotated[
    str | None,
    typer.Option(metavar="WORKSPACE", help="Take the teacher's figures from the evaluations of a finished run."),
]
Sign = Annotated[
    Path | None,
    typer.Option("--sign", metavar="KEY", help="Private Ed25519 key to sign the tag with."),
]
ToEndpoint = Annotated[
    str | None, typer.Option("--to-endpoint-url", metavar="URL", help="Server of the target, if it is another.")
]


@labels_app.command()
def publish(
    store: StoreArgument,
    name: SetArgument,
    to: Annotated[str, typer.Option("--to", metavar="STORE", help="Store to copy it to; made if there is none.")],
    tag: Annotated[str | None, typer.Option("--tag", metavar="NAME", help="Name to give the set there.")] = None,
    licence: Licence = "",
    notes: Notes = "",
    publisher: Publisher = "",
    quality: Quality = None,
    measured: Measured = None,
    sign: Sign = None,
    as_json: AsJson = False,
    endpoint_url: Endpoint = None,
    to_endpoint_url: ToEndpoint = None,
) -> None:
    """Copy a label set to a store that others read, verified, and give it a name there. May be interrupted."""
    from stages.labels.tags import check_name, put_tag

    if tag is not None:
        check_name(tag)
    elif sign is not None:
        raise SpecError("--sign signs a tag: give its name with --tag")
    labels = open_set(store, name, endpoint_url)
    figures = _figures(labels, quality, measured, endpoint_url)
    entry = _entry(labels, tag, licence, notes, publisher, figures, sign)
    place = new_store(to, to_endpoint_url or endpoint_url)
    said = _copied(labels, place)
    if tag is not None:
        said["tag"] = f"{tag}@v{put_tag(place, tag, entry)}"
    _tell(said, as_json)


@labels_app.command()
def pull(
    store: StoreArgument,
    name: SetArgument,
    to: Annotated[str, typer.Option("--to", metavar="STORE", help="Store of your own; made if there is none.")],
    as_json: AsJson = False,
    endpoint_url: Endpoint = None,
    to_endpoint_url: ToEndpoint = None,
) -> None:
    """Copy somebody's label set to a store of your own, verified. May be interrupted."""
    _tell(_copied(open_set(store, name, endpoint_url), new_store(to, to_endpoint_url)), as_json)


@labels_app.command()
def tag(
    store: StoreArgument,
    name: SetArgument,
    tag: Annotated[str | None, typer.Argument(metavar="[NAME]", help="Name to give; left out: SET's history.")] = None,
    licence: Licence = "",
    notes: Notes = "",
    publisher: Publisher = "",
    quality: Quality = None,
    measured: Measured = None,
    sign: Sign = None,
    as_json: AsJson = False,
    endpoint_url: Endpoint = None,
) -> None:
    """Give a label set a name, or show what a name has meant."""
    from stages.labels.catalog import printable
    from stages.labels.tags import history, put_tag

    if tag is not None:
        labels = open_set(store, name, endpoint_url)
        figures = _figures(labels, quality, measured, endpoint_url)
        entry = _entry(labels, tag, licence, notes, publisher, figures, sign)
        number = put_tag(labels.store.place, tag, entry)
        said = {"store": labels.store.place.uri, "fingerprint": labels.fingerprint, "tag": f"{tag}@v{number}"}
        _tell(said, as_json)
        return
    place = find_store(store, endpoint_url)
    find_name(place, name)
    word = name.partition("@")[0]
    entries = history(place, word)
    if as_json:
        print(json.dumps({number: entry.dump() for number, entry in entries.items()}, indent=2))
        return
    for number, entry in entries.items():
        words = "; ".join(printable(item) for item in (entry.publisher, entry.licence, entry.notes) if item)
        print(f"{word}@v{number}  {entry.fingerprint}  {words}".rstrip())


def _entry(
    labels: LabelSet,
    tag: str | None,
    licence: str,
    notes: str,
    publisher: str,
    figures: dict[str, float],
    key: Path | None,
) -> Tag:
    from schemas.labels import Tag

    entry = Tag(
        fingerprint=labels.fingerprint,
        digest=labels.digest,
        quality=figures,
        licence=licence,
        notes=notes,
        publisher=publisher,
    )
    if tag is None or key is None:
        return entry
    from stages.labels.signing import sign

    return sign(tag, entry, key)


def _figures(
    labels: LabelSet, quality: list[str] | None, measured: str | None, endpoint_url: str | None
) -> dict[str, float]:
    """The teacher's figures: as measured, then as given. Raises SpecError for one that is none."""
    figures: dict[str, float] = {}
    if measured is not None:
        from schemas.spec import Storage
        from stages.evaluation.reader import teacher_figures
        from stages.places import Place

        workspace = Place(measured, Storage(endpoint_url=endpoint_url))
        figures |= teacher_figures(workspace, labels.digest, labels.manifest.teacher)
    for item in quality or ():
        name, _, value = item.rpartition("=")
        try:
            figures[name] = float(value)
        except ValueError:
            name = ""
        if not name:
            raise SpecError(f"--quality {item}: give it as NAME=FIGURE, such as 'accuracy on target=0.958'")
    return figures


def _copied(labels: LabelSet, place: Place) -> dict[str, str]:
    from stages.labels.publish import copy_set

    with progress("units") as told:
        manifest = copy_set(labels, place, told)
    return {"store": place.uri, "fingerprint": manifest.fingerprint, "root digest": manifest.digest}


def _tell(said: dict[str, str], as_json: bool) -> None:
    print(json.dumps(said, indent=2) if as_json else "\n".join(f"{name:<12} {value}" for name, value in said.items()))
