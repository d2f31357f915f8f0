"""Options that several commands have."""

from __future__ import annotations

from typing import Annotated

import typer

AsJson = Annotated[bool, typer.Option("--json", help="Print JSON.")]
Endpoint = Annotated[
    str | None,
    typer.Option(
        "--endpoint-url", metavar="URL", help="Server of an s3:// place; left out: AWS_ENDPOINT_URL, or AWS itself."
    ),
]
