"""A report as Markdown and for the terminal: two ways of showing the same blocks. Pure functions.

Text from elsewhere (notes, failures, the host) is shown, never interpreted.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import TYPE_CHECKING

from schemas.evaluation import Report
from stages.evaluation.blocks import blocks

if TYPE_CHECKING:
    from rich.console import RenderableType


def render_markdown(report: Report) -> str:
    """The report as Markdown, ending with a newline."""
    lines = [f"# {report.name}", ""]
    for block in blocks(report):
        lines += [f"## {block.title}", ""]
        if block.rows:
            lines.append(_line(block.columns))
            lines.append(_line(["---", *(["---:"] * (len(block.columns) - 1))]))
            lines += [_line(row) for row in block.rows]
            lines.append("")
        for sentence in (*block.sentences, *(escape_markdown(text) for text in block.foreign)):
            lines += [sentence, ""]
    return "\n".join(lines).rstrip("\n") + "\n"


def render_terminal(report: Report) -> list[RenderableType]:
    """The report as what rich can print: a table and a text per block."""
    from rich.box import SIMPLE_HEAD
    from rich.table import Table
    from rich.text import Text

    shown: list[RenderableType] = []
    for block in blocks(report):
        shown.append(Text(block.title, style="bold"))
        if block.rows:
            table = Table(box=SIMPLE_HEAD, padding=(0, 1, 0, 0), pad_edge=False)
            for index, column in enumerate(block.columns):
                table.add_column(Text(column), justify="right" if index else "left", overflow="fold", no_wrap=not index)
            for row in block.rows:
                table.add_row(*(Text(cell) for cell in row))
            shown.append(table)
        shown += [Text(text) for text in (*block.sentences, *block.foreign)]
        shown.append(Text(""))
    return shown


def escape_markdown(text: str) -> str:
    """Foreign text that Markdown shows as it is: no markup, no links, no HTML."""
    escaped = re.sub(r"([\\`*\[\]<>|&~!])", r"\\\1", text)
    # Underscores within a word are no markup, and names read better without the escape.
    escaped = re.sub(r"(?<![A-Za-z0-9])_|_(?![A-Za-z0-9])", r"\\_", escaped)
    return re.sub(r"^(\d+)?([#+\-.)=])", r"\1\\\2", escaped)


def _line(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"
