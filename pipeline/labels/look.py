"""Looking at a store: `ls`, `show` and `diff`."""

from __future__ import annotations

import json
import sys
from typing import Annotated

import typer

from pipeline.labels.app import SetArgument, StoreArgument, find_name, find_store, labels_app, open_set
from pipeline.options import AsJson, Endpoint


@labels_app.command()
def ls(store: StoreArgument, as_json: AsJson = False, endpoint_url: Endpoint = None) -> None:
    """List the label sets of a store."""
    from pipeline.show import print_table
    from stages.labels.catalog import encoding_text, list_sets
    from stages.labels.tags import all_tags

    place = find_store(store, endpoint_url)
    sets, damaged = list_sets(place)
    names: dict[str, list[str]] = {}
    for name, (number, entry) in all_tags(place).items():
        names.setdefault(entry.fingerprint, []).append(f"{name}@v{number}")
    if as_json:
        print(json.dumps([{**item.dump(), "tags": names.get(item.fingerprint, [])} for item in sets], indent=2))
    else:
        print_table(
            ("fingerprint", "tags", "labels", "units", "classes", "encoding"),
            [
                (
                    item.fingerprint,
                    ", ".join(names.get(item.fingerprint, [])),
                    f"{item.statistics.labels:,}",
                    str(item.units),
                    str(len(item.label_schema.classes)),
                    encoding_text(item.label_schema.encoding),
                )
                for item in sets
            ],
        )
    for problem in damaged.values():
        print(f"damaged: {problem}", file=sys.stderr if as_json else sys.stdout)


@labels_app.command()
def show(store: StoreArgument, name: SetArgument, as_json: AsJson = False, endpoint_url: Endpoint = None) -> None:
    """Show the card of a label set: who said it, about what, how exactly."""
    from schemas.errors import StoreError
    from stages.labels.catalog import card
    from stages.labels.store import Store
    from stages.labels.tags import all_tags

    place = find_store(store, endpoint_url)
    manifest = Store.open(place).manifest(find_name(place, name))
    if manifest is None:
        raise StoreError(f"the set that '{name}' means is gone from {place.uri}")
    tags = {
        f"{tag}@v{number}": entry
        for tag, (number, entry) in all_tags(place).items()
        if entry.fingerprint == manifest.fingerprint
    }
    if as_json:
        said = {**manifest.dump(), "tags": {tag: entry.dump() for tag, entry in tags.items()}}
        print(json.dumps([said], indent=2))
        return
    lines = card(manifest, tags)
    width = max(map(len, lines))
    print("\n".join(f"{heading:<{width}}  {line}" for heading, line in lines.items()))


@labels_app.command()
def diff(
    store: StoreArgument,
    name: SetArgument,
    other: SetArgument,
    other_store: Annotated[
        str | None, typer.Option("--in", metavar="STORE", help="Store of the second set, if it is another.")
    ] = None,
    temperature: Annotated[float, typer.Option(help="Temperature to compare at.", min=1e-3)] = 1.0,
    as_json: AsJson = False,
    endpoint_url: Endpoint = None,
) -> None:
    """Compare two label sets over the samples that both speak of."""
    from pipeline.show import print_table
    from stages.labels.catalog import printable
    from stages.labels.diff import diff_sets

    first, second = open_set(store, name, endpoint_url), open_set(other_store or store, other, endpoint_url)
    found = diff_sets(first, second, temperature)
    if as_json:
        print(json.dumps(found.dump(), indent=2))
        return
    print(
        f"{found.common:,} samples in both ({found.only_first:,} only in the first, {found.only_second:,} only in the "
        f"second, {found.other_content:,} with other content)\n"
        f"{found.agreement:.4f} agree; KL at T = {temperature:g}: {found.kl:.4g} nats there, {found.kl_back:.4g} back\n"
    )
    rows = [(item.name, f"{item.samples:,}", f"{item.agreement:.4f}", f"{item.kl:.4g}") for item in found.classes]
    print_table(("class", "samples", "agree", "KL"), [tuple(map(printable, row)) for row in rows])
    print("\nmost different: " + ", ".join(f"{printable(name)} ({value:.3g})" for name, value in found.worst))
