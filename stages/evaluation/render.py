"""A report as Markdown and for the terminal: two ways of showing the same blocks. Pure functions.

Text from elsewhere (notes, failures, the host) is shown, never interpreted.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from schemas.evaluation import Report
from stages.evaluation.blocks import blocks
from stages.evaluation.cells import Block

if TYPE_CHECKING:
    from rich.console import Console, ConsoleOptions, RenderableType, RenderResult

GAP = 2
"""Characters that a column takes beside its text."""


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
    """The report as what rich can print, in brief: tables and texts, block by block."""
    from rich.text import Text

    shown: list[RenderableType] = []
    for block in blocks(report, brief=True):
        shown.append(Text(block.title, style="bold"))
        if block.rows:
            shown.append(_Fitting(block))
        texts = (*block.sentences, *block.foreign)
        shown += [Text(text) for text in (*texts, "")] if texts else []
    return shown


@dataclass(frozen=True)
class _Fitting:
    """A block's table for the width that there is: columns without room go to further tables of the same rows.

    A name may be folded, a figure never is.
    """

    block: Block

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        from rich.box import SIMPLE_HEAD
        from rich.table import Table
        from rich.text import Text

        lines = [self.block.columns, *self.block.rows]
        widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
        for part in fit(widths, options.max_width, self.block.beside):
            table = Table(box=SIMPLE_HEAD, padding=(0, 1, 0, 0), pad_edge=False, show_edge=False)
            for index in part:
                whole = index > 0 and widths[index] <= options.max_width // 2 - GAP
                heading = Text(self.block.columns[index])
                table.add_column(heading, justify="right" if index else "left", overflow="fold", no_wrap=whole)
            for row in self.block.rows:
                table.add_row(*(Text(row[index]) for index in part))
            yield from (Text(""), table)
        yield Text("")


def fit(widths: Sequence[int], room: int, beside: int = 0) -> list[list[int]]:
    """Columns of each table that has room: the first one in all, the last `beside` in the first table.

    A first column wider than half the room is folded to that.
    """
    room += GAP  # the last column has none
    first = min(widths[0], room // 2 - GAP)
    columns = list(range(1, len(widths)))
    kept = columns[len(columns) - beside :]
    parts: list[list[int]] = []
    left = columns[: len(columns) - beside]
    while left or kept or not parts:
        free = room - first - GAP - sum(widths[index] + GAP for index in kept)
        taken: list[int] = []
        while left and (widths[left[0]] + GAP <= free or not (taken or kept)):
            free -= widths[left[0]] + GAP
            taken.append(left.pop(0))
        parts.append([0, *taken, *kept])
        kept = []
    return parts


def escape_markdown(text: str) -> str:
    """Foreign text that Markdown shows as it is: no markup, no links, no HTML."""
    escaped = re.sub(r"([\\`*\[\]<>|&~!])", r"\\\1", text)
    # Underscores within a word are no markup, and names read better without the escape.
    escaped = re.sub(r"(?<![A-Za-z0-9])_|_(?![A-Za-z0-9])", r"\\_", escaped)
    return re.sub(r"^(\d+)?([#+\-.)=])", r"\1\\\2", escaped)


def _line(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"
