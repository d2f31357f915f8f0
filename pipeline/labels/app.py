"""The group of commands that the files beside this one add theirs to."""

from __future__ import annotations

import typer

labels_app = typer.Typer(
    help="Look at, check, share and change the form of label sets.", no_args_is_help=True, rich_markup_mode=None
)
