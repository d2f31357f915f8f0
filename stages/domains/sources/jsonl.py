"""JSON Lines: one object a line, UTF-8; a key that a line leaves out is no value.

The driver counts lines and hands byte ranges to the workers, which parse them. Columns are the keys of the first
1,000 lines together. Places are lines of the file.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice
from typing import Any

from schemas.errors import DataError
from schemas.spec import Source
from stages.domains.sources.base import (
    Row,
    RowSlice,
    SourceFile,
    TableReader,
    Wanted,
    locate_file,
    named_files,
    read_cells,
)
from stages.places import Place, Stat
from stages.tasks.base import BadRow

HEAD_LINES = 1000


def _object(line: bytes) -> dict[str, Any] | BadRow:
    try:
        value = json.loads(line)
    except ValueError as error:
        return BadRow(f"it is not JSON: {error}")
    return value if isinstance(value, dict) else BadRow(f"it is a JSON {type(value).__name__}, not an object")


@dataclass(frozen=True)
class JsonlSlice(RowSlice):
    """A byte range of whole lines."""

    folder: Place
    name: str
    begin: int
    end: int
    line: int
    """Line of the file on which the range begins, from 1."""
    wanted: Wanted

    def read(self) -> Iterator[tuple[str, Row]]:
        """Parse the range."""
        with self.folder.open(self.name) as file:
            file.seek(self.begin)
            data = file.read(self.end - self.begin)
        for number, line in enumerate(data.split(b"\n"), self.line):
            if line.strip():
                yield f"{self.name} line {number}", self._row(_object(line))

    def _row(self, value: dict[str, Any] | BadRow) -> Row:
        if isinstance(value, BadRow):
            return value
        row = {role: value.get(name) for role, name in self.wanted.columns.items()}
        return read_cells(self.folder, row, self.wanted.files)


class JsonlTable(TableReader):
    """One file."""

    def __init__(self, folder: Place, name: str, stat: Stat) -> None:
        self._folder, self._name, self._stat = folder, name, stat
        with folder.open(name) as file:
            head = [_object(line) for line in islice(file, HEAD_LINES) if line.strip()]
        self.column_names = tuple(dict.fromkeys(key for item in head if isinstance(item, dict) for key in item))
        if not self.column_names:
            raise DataError(f"{folder.uri}/{name} does not begin with lines of JSON objects")

    def slices(self, rows: int, wanted: Wanted) -> Iterator[RowSlice]:
        """Go through the file, and cut after every `rows` lines that are not blank."""
        begin = end = count = 0
        line = 1
        with self._folder.open(self._name) as file:
            for number, text in enumerate(file, 1):
                end, count = end + len(text), count + bool(text.strip())
                if count == rows:
                    yield JsonlSlice(self._folder, self._name, begin, end, line, wanted)
                    begin, line, count = end, number + 1, 0
        if count:
            yield JsonlSlice(self._folder, self._name, begin, end, line, wanted)

    def files(self, wanted: Wanted) -> Iterator[SourceFile]:
        """The file itself, and the files that its cells name."""
        yield SourceFile("", self._folder, self._name, self._stat)
        columns = [wanted.columns[role] for role in sorted(wanted.files & wanted.columns.keys())]
        if columns:
            with self._folder.open(self._name) as file:
                rows = (value for line in file if isinstance(value := _object(line), dict))
                yield from named_files(self._folder, (row.get(column) for row in rows for column in columns))


def open_table(uri: str, source: Source) -> JsonlTable:
    """Read the first lines. Raises DataError if the file is missing or does not begin with objects."""
    return JsonlTable(*locate_file(uri, source.storage))
