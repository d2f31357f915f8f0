"""Looking at a store: `ls` and `show`."""

from __future__ import annotations

from typing import Annotated

import typer

from pipeline.labels.app import labels_app
from pipeline.options import AsJson, Endpoint


@labels_app.command("ls")
def labels_ls(
    store: Annotated[str, typer.Argument(help="A store, or a workspace that holds one.")],
    as_json: AsJson = False,
    endpoint_url: Endpoint = None,
) -> None:
    """List the label sets of a store."""
    from pipeline.show import print_sets
    from schemas.spec import Storage

    print_sets(store, None, as_json, Storage(endpoint_url=endpoint_url))


@labels_app.command("show")
def labels_show(
    store: Annotated[str, typer.Argument(help="A store, or a workspace that holds one.")],
    name: Annotated[str, typer.Argument(help="Fingerprint or root digest of the set, or its first 8 digits or more.")],
    as_json: AsJson = False,
    endpoint_url: Endpoint = None,
) -> None:
    """Show the card of a label set: who said it, about what, how exactly."""
    from pipeline.show import print_sets
    from schemas.spec import Storage

    print_sets(store, name, as_json, Storage(endpoint_url=endpoint_url))
