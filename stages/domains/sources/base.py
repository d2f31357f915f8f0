"""What a source is: named columns of rows, read in slices that a worker can read alone.

A `RowSlice` crosses to the worker that packs it: it holds the way to its rows (a byte range, a row range, file
names), or the rows themselves where a format has no way into its middle (arrays). Nothing holds a whole source
in memory. A row comes with its place (file and line or row, without folders or hosts) for messages.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from schemas.errors import DataError, PlaceError
from schemas.spec import Storage
from stages.places import Place, Stat
from stages.tasks.base import BadRow

LABEL, SAMPLE_ID = "label", "sample_id"
"""Roles that every task knows beside its own."""

Row = Mapping[str, Any] | BadRow
"""Cells by role, or why there is no row."""


@dataclass(frozen=True)
class Wanted:
    """Which columns to read, under which role."""

    columns: Mapping[str, str]
    """Column of the source by role."""
    files: frozenset[str] = frozenset()
    """Roles whose text cells name a file beside the source."""


@dataclass(frozen=True)
class SourceFile:
    """A file whose bytes count as part of a source."""

    label: str
    """Its name within the source; empty for the source's only file, which may be renamed."""
    place: Place
    name: str
    stat: Stat


class RowSlice(ABC):
    """Some consecutive rows of a source; picklable."""

    @abstractmethod
    def read(self) -> Iterator[tuple[str, Row]]:
        """(place, row) of each row, in order. Raises DataError if the source went away."""


class TableReader(ABC):
    """One place of a source, opened: its columns are known, no rows are read yet."""

    column_names: tuple[str, ...]
    rows: int | None = None
    """Rows, where the format tells without reading all."""

    @abstractmethod
    def slices(self, rows: int, wanted: Wanted) -> Iterator[RowSlice]:
        """The table in slices of `rows` rows (the last may be shorter)."""

    @abstractmethod
    def files(self, wanted: Wanted) -> Iterator[SourceFile]:
        """Every file whose bytes count, files that cells name included, in a fixed order."""


def locate(uri: str, storage: Storage) -> tuple[Place, str]:
    """The folder and the name of a file's URI."""
    folder, _, name = uri.rstrip("/").rpartition("/")
    return Place(folder or ("/" if uri.startswith("/") else "."), storage), name


def locate_file(uri: str, storage: Storage) -> tuple[Place, str, Stat]:
    """A source that is one file. Raises DataError if it is absent or a folder."""
    folder, name = locate(uri, storage)
    stat = folder.stat(name)
    if stat is None:
        raise DataError(f"the source {uri} does not exist: check `from` of its domain")
    if stat.folder:
        raise DataError(f"the source {uri} is a folder, and a file was expected: name the file")
    return folder, name, stat


def read_cells(folder: Place, cells: Mapping[str, Any], files: frozenset[str]) -> Row:
    """The cells of one row, with the bytes of each file that a cell names in place of its name."""
    read = dict(cells)
    for role in files & cells.keys():
        name = cells[role]
        if isinstance(name, str) and name:
            try:
                read[role] = folder.read(name)
            except (FileNotFoundError, IsADirectoryError):
                return BadRow(f"the file '{name}' is missing")
            except PlaceError as error:
                return BadRow(str(error))
    return read


def named_files(folder: Place, names: Iterable[Any]) -> Iterator[SourceFile]:
    """The files that cells name, each once; those that are missing are bad rows later on."""
    for name in dict.fromkeys(name for name in names if isinstance(name, str) and name):
        try:
            stat = folder.stat(name)
        except PlaceError:
            continue
        if stat is not None and not stat.folder:
            yield SourceFile(name, folder, name, stat)
