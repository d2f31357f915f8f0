"""Looking at a store: `ls` and `show`."""

from __future__ import annotations

import json
import sys

from pipeline.labels.app import SetArgument, StoreArgument, find_name, find_store, labels_app
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
