"""A named example data set: small, so it is held in memory; fetched on first use (`stages.domains.fetch`)."""

from __future__ import annotations

from collections.abc import Iterator

from schemas.spec import Source
from stages.domains.examples import EXAMPLES
from stages.domains.sources.arrays import ArraySlice
from stages.domains.sources.base import RowSlice, SourceFile, TableReader, Wanted


class ExampleTable(TableReader):
    """The rows of one example."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._columns = EXAMPLES.get(name).rows()
        self.column_names = tuple(self._columns)
        self._count = len(next(iter(self._columns.values())))
        self.rows = self._count

    def slices(self, rows: int, wanted: Wanted) -> Iterator[RowSlice]:
        """Cut the arrays."""
        for start in range(0, self._count, rows):
            part = {role: self._columns[name][start : start + rows] for role, name in wanted.columns.items()}
            yield ArraySlice(self._name, start, part)

    def files(self, wanted: Wanted) -> Iterator[SourceFile]:
        """None: an example is known by its pinned hash."""
        return iter(())


def open_table(uri: str, source: Source) -> ExampleTable:
    """Fetch the example if need be. Raises DataError if that fails, SpecError if no example has this name."""
    return ExampleTable(uri)
