"""How far a command is, on one line of a terminal's stderr; silent elsewhere."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from stages.progress import Told


@contextmanager
def progress(unit: str) -> Iterator[Told]:
    """A function to be told how many are done, and of how many."""
    terminal = sys.stderr.isatty()

    def told(done: int, total: int) -> None:
        if terminal:
            print(f"\r{done:,} of {total:,} {unit}", end="", file=sys.stderr, flush=True)

    try:
        yield told
    finally:
        if terminal:
            print("\r\x1b[K", end="", file=sys.stderr, flush=True)
