"""Checking a store and tidying it: `verify`, `gc` and `rm`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from pipeline.labels.app import SetArgument, StoreArgument, find_store, labels_app, open_set
from pipeline.labels.progress import progress
from pipeline.options import AsJson, Endpoint
from schemas.errors import SpecError, StoreError

if TYPE_CHECKING:
    from stages.labels.reader import LabelSet


@labels_app.command()
def verify(
    store: StoreArgument,
    name: SetArgument,
    deep: Annotated[bool, typer.Option("--deep", help="Read every byte, and measure the fidelity again.")] = False,
    root: Annotated[str | None, typer.Option(metavar="DIGEST", help="Root digest that the set must have.")] = None,
    key: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Public Ed25519 key that must have signed the tag SET.")
    ] = None,
    as_json: AsJson = False,
    endpoint_url: Endpoint = None,
) -> None:
    """Say whether a label set is whole: its documents, and every object by name and size."""
    from stages.labels.verify import verify as check

    labels = open_set(store, name, endpoint_url)
    if key is not None:
        _check_signed(labels, name, key)
    if root is not None and root != labels.digest:
        raise StoreError(f"label set {labels.fingerprint} has root digest {labels.digest}, not {root}")
    with progress("units") as told:
        problems = check(labels, deep, told)
    if problems:
        raise StoreError(*problems)
    signed = "; signed by that key" if key is not None else ""
    how = "every byte" if deep else "names and sizes; --deep reads every byte"
    if as_json:
        said = {"fingerprint": labels.fingerprint, "digest": labels.digest, "units": len(labels.units), "deep": deep}
        print(json.dumps(said, indent=2))
    else:
        print(f"{labels.fingerprint} is whole ({how}); root digest {labels.digest}{signed}")


def _check_signed(labels: LabelSet, name: str, key: Path) -> None:
    from stages.labels.signing import check_signature
    from stages.labels.tags import is_fingerprint, read_tag

    if is_fingerprint(name):
        raise SpecError(f"a tag is what is signed: give --key with a tag, not with '{name}'")
    check_signature(name.partition("@")[0], read_tag(labels.store.place, name)[1], key)


@labels_app.command()
def gc(
    store: StoreArgument,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Say what would go, and remove nothing.")] = False,
    unfinished: Annotated[
        bool, typer.Option("--unfinished", help="Also attempts without a receipt: nobody may be labelling.")
    ] = False,
    unreachable: Annotated[
        bool, typer.Option("--unreachable", help="Also units that no set needs: nobody may be labelling.")
    ] = False,
    as_json: AsJson = False,
    endpoint_url: Endpoint = None,
) -> None:
    """Remove attempts that lost; others' work in progress is left alone."""
    from stages.labels.garbage import collect
    from stages.labels.store import Store

    found = collect(Store.open(find_store(store, endpoint_url)), dry_run, unfinished, unreachable)
    if as_json:
        print(json.dumps({**vars(found), "removed": not dry_run}, indent=2))
        return
    for line in found.kept:
        print(f"kept: {line}")
    for folder in (*found.attempts, *found.units):
        print(folder)
    what = "would be removed" if dry_run else "removed"
    print(f"{len(found.attempts)} attempts and {len(found.units)} units, {found.bytes:,} bytes {what}")


@labels_app.command()
def rm(store: StoreArgument, name: SetArgument, endpoint_url: Endpoint = None) -> None:
    """Take a label set away. What it alone needs goes with `gc --unreachable`."""
    from stages.labels.garbage import remove_set

    labels = open_set(store, name, endpoint_url)
    remove_set(labels.store, labels.fingerprint)
    print(f"{labels.fingerprint} is removed; free its space: crossdistill labels gc {store} --unreachable")
