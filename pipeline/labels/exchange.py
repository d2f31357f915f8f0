"""Labels for other programs: `export`."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from pipeline.labels.app import SetArgument, StoreArgument, labels_app, open_set
from pipeline.labels.progress import progress
from pipeline.options import Endpoint


class Form(StrEnum):
    """What is written."""

    PARQUET = "parquet"
    JSONL = "jsonl"
    HUGGINGFACE = "huggingface"
    WEBDATASET = "webdataset"


class As(StrEnum):
    """How labels are written."""

    STORED = "stored"
    LOGITS = "logits"
    PROBABILITIES = "probabilities"


@labels_app.command()
def export(
    store: StoreArgument,
    name: SetArgument,
    to: Annotated[Path, typer.Option("--to", metavar="PATH", help="A new file (parquet) or folder (the others).")],
    form: Annotated[Form, typer.Option("--format", help="What to write.")] = Form.PARQUET,
    as_: Annotated[As, typer.Option("--as", help="As stored, or a number for every class.")] = As.LOGITS,
    temperature: Annotated[
        float | None, typer.Option(min=1e-3, help="Temperature of probabilities, or of sparse labels' logits.")
    ] = None,
    view: Annotated[int, typer.Option(min=0, help="Which view of the samples.")] = 0,
    endpoint_url: Endpoint = None,
) -> None:
    """Write a label set as plain files for other programs, with ids, class names and card."""
    from stages.labels.export import export_set

    labels = open_set(store, name, endpoint_url)
    with progress("units") as told:
        where = export_set(labels, to, form.value, as_.value, temperature, view, told)
    print(f"{labels.rows:,} samples of {labels.fingerprint} in {where}")
