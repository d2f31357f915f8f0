"""CSV with a header, UTF-8: every cell is text, an empty one is no value.

The driver goes through the file once to find where records begin (a line break inside quotes is none), and hands
byte ranges to the workers. Places are lines of the file.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator
from dataclasses import dataclass
from typing import IO

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

LONGEST_CELL = 2**31 - 1
"""Characters; the csv module's own limit of 131,072 is too short for texts."""
BOM = "\ufeff"


@dataclass(frozen=True)
class _Record:
    cells: list[str]
    """Empty for a blank line."""
    end: int
    """Offset of the byte after it."""
    line: int
    """Line on which it begins, from 1."""
    last_line: int
    """Line on which it ends."""


def _records(file: IO[bytes], where: str, line: int = 1) -> Iterator[_Record]:
    """The records from where `file` stands, which is on `line`. Bytes that are not UTF-8 become surrogates."""
    end = file.tell()

    def lines() -> Iterator[str]:
        nonlocal end
        for text in file:
            end += len(text)
            yield text.decode("utf-8", errors="surrogateescape")

    csv.field_size_limit(LONGEST_CELL)
    reader, before = csv.reader(lines()), line - 1
    try:
        for cells in reader:
            last = line - 1 + reader.line_num
            yield _Record(cells, end, before + 1, last)
            before = last
    except csv.Error as error:
        raise DataError(f"{where} line {before + 1} is not CSV: {error}") from None


def _is_text(cell: str) -> bool:
    """Whether the cell was UTF-8."""
    try:
        cell.encode()
    except UnicodeEncodeError:
        return False
    return True


@dataclass(frozen=True)
class CsvSlice(RowSlice):
    """A byte range that begins and ends with a record."""

    folder: Place
    name: str
    header: tuple[str, ...]
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
        for record in _records(io.BytesIO(data), self.name, self.line):
            if record.cells:
                yield f"{self.name} line {record.line}", self._row(record.cells)

    def _row(self, cells: list[str]) -> Row:
        if len(cells) != len(self.header):
            return BadRow(f"it has {len(cells)} cells, the header has {len(self.header)}")
        by_name = dict(zip(self.header, cells, strict=True))
        row = {role: by_name[name] or None for role, name in self.wanted.columns.items()}
        if any(cell is not None and not _is_text(cell) for cell in row.values()):
            return BadRow("it is not UTF-8")
        return read_cells(self.folder, row, self.wanted.files)


class CsvTable(TableReader):
    """One file."""

    def __init__(self, folder: Place, name: str, stat: Stat) -> None:
        self._folder, self._name, self._stat = folder, name, stat
        where = f"{folder.uri}/{name}"
        with folder.open(name) as file:
            header = next(_records(file, where), None)
        if header is None or not header.cells or not all(map(_is_text, header.cells)):
            raise DataError(f"{where} does not begin with a header in UTF-8")
        names = (header.cells[0].removeprefix(BOM), *header.cells[1:])
        if len(set(names)) != len(names):
            raise DataError(f"{where} names a column twice in its header: {', '.join(names)}")
        self.column_names = names
        self._begin, self._line = header.end, header.last_line + 1

    def _all(self) -> Iterator[_Record]:
        """Every record below the header."""
        with self._folder.open(self._name) as file:
            file.seek(self._begin)
            yield from (item for item in _records(file, f"{self._folder.uri}/{self._name}", self._line) if item.cells)

    def slices(self, rows: int, wanted: Wanted) -> Iterator[RowSlice]:
        """Go through the file, and cut after every `rows` records."""
        begin, line, end, next_line, count = self._begin, self._line, self._begin, self._line, 0
        for record in self._all():
            end, next_line, count = record.end, record.last_line + 1, count + 1
            if count == rows:
                yield self._slice(begin, end, line, wanted)
                begin, line, count = end, next_line, 0
        if count:
            yield self._slice(begin, end, line, wanted)

    def _slice(self, begin: int, end: int, line: int, wanted: Wanted) -> CsvSlice:
        return CsvSlice(self._folder, self._name, self.column_names, begin, end, line, wanted)

    def files(self, wanted: Wanted) -> Iterator[SourceFile]:
        """The file itself, and the files that its cells name."""
        yield SourceFile("", self._folder, self._name, self._stat)
        named = [self.column_names.index(wanted.columns[role]) for role in sorted(wanted.files & wanted.columns.keys())]
        if named:
            cells = (item.cells[at] for item in self._all() for at in named if at < len(item.cells))
            yield from named_files(self._folder, filter(_is_text, cells))


def open_table(uri: str, source: Source) -> CsvTable:
    """Read the header. Raises DataError if the file is missing or has none."""
    return CsvTable(*locate_file(uri, source.storage))
