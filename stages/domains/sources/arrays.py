"""Numpy arrays: a `.npz` file with one array a column, all with the same number of rows.

A compressed array has no way into its middle, so the driver streams all columns side by side and the slices hold
their rows; at no time more than the slices in flight are in memory. Object arrays (pickles) are refused.
"""

from __future__ import annotations

import zipfile
from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from typing import IO

import numpy as np

from schemas.errors import DataError
from schemas.spec import Source
from stages.domains.sources.base import Row, RowSlice, SourceFile, TableReader, Wanted, locate_file
from stages.places import Place, Stat


@dataclass(frozen=True, eq=False)
class ArraySlice(RowSlice):
    """The rows themselves."""

    name: str
    first: int
    """Row of the file that the slice begins with, from 0."""
    columns: Mapping[str, np.ndarray]
    """Values by role, row for row."""

    def read(self) -> Iterator[tuple[str, Row]]:
        """Single values become plain ones, others stay arrays."""
        for row in range(len(next(iter(self.columns.values())))):
            cells = {
                role: values[row].item() if values.ndim == 1 else values[row] for role, values in self.columns.items()
            }
            yield f"{self.name} row {self.first + row + 1}", cells


@dataclass(frozen=True)
class _Header:
    """What stands before an array's values."""

    shape: tuple[int, ...]
    dtype: np.dtype[np.generic]

    @property
    def row_bytes(self) -> int:
        return int(np.prod(self.shape[1:], dtype=np.int64)) * self.dtype.itemsize


def _header(file: IO[bytes], where: str) -> _Header:
    try:
        major, _ = np.lib.format.read_magic(file)
        read = np.lib.format.read_array_header_1_0 if major == 1 else np.lib.format.read_array_header_2_0
        shape, fortran, dtype = read(file)
    except ValueError as error:
        raise DataError(f"{where} is not a numpy array: {error}") from None
    if dtype.hasobject:
        raise DataError(f"{where} holds Python objects, which are not read: store numbers, text or bytes")
    if not shape:
        raise DataError(f"{where} is a single value: a column has one value a row")
    if fortran and len(shape) > 1:
        raise DataError(f"{where} is in Fortran order: store numpy.ascontiguousarray of it")
    return _Header(shape, dtype)


class ArraysTable(TableReader):
    """One `.npz` file."""

    def __init__(self, folder: Place, name: str, stat: Stat) -> None:
        self._folder, self._name, self._stat = folder, name, stat
        self._where = f"{folder.uri}/{name}"
        try:
            with folder.open(name) as handle, zipfile.ZipFile(handle) as archive:
                members = [item for item in archive.namelist() if item.endswith(".npy")]
                headers = {member.removesuffix(".npy"): self._member(archive, member) for member in members}
        except zipfile.BadZipFile as error:
            raise DataError(f"{self._where} is not a .npz file: {error}") from None
        if not headers:
            raise DataError(f"{self._where} holds no arrays")
        self.column_names = tuple(headers)
        self._rows = {column: header.shape[0] for column, header in headers.items()}
        self.rows = max(self._rows.values())

    def _member(self, archive: zipfile.ZipFile, member: str) -> _Header:
        with archive.open(member) as file:
            return _header(file, f"{self._where}, array {member.removesuffix('.npy')}")

    def slices(self, rows: int, wanted: Wanted) -> Iterator[RowSlice]:
        """Stream all columns. Raises DataError if they differ in their number of rows, or the file is cut."""
        counts = {column: self._rows[column] for column in wanted.columns.values()}
        if len(set(counts.values())) != 1:
            shown = ", ".join(f"{column} {count}" for column, count in counts.items())
            raise DataError(f"{self._where}: the arrays differ in their number of rows ({shown})")
        total = next(iter(counts.values()))
        with ExitStack() as stack:
            archive = stack.enter_context(zipfile.ZipFile(stack.enter_context(self._folder.open(self._name))))
            columns = {}
            for role, column in wanted.columns.items():
                member = stack.enter_context(archive.open(f"{column}.npy"))
                columns[role] = (member, _header(member, f"{self._where}, array {column}"))
            for start in range(0, total, rows):
                count = min(rows, total - start)
                part = {role: self._read(member, header, count) for role, (member, header) in columns.items()}
                yield ArraySlice(self._name, start, part)

    def _read(self, member: IO[bytes], header: _Header, count: int) -> np.ndarray:
        try:
            data = member.read(count * header.row_bytes)
        except (zipfile.BadZipFile, EOFError) as error:
            raise DataError(f"{self._where} is damaged: {error}") from None
        if len(data) != count * header.row_bytes:
            raise DataError(f"{self._where} ends before its last row")
        return np.frombuffer(data, header.dtype).reshape(count, *header.shape[1:])

    def files(self, wanted: Wanted) -> Iterator[SourceFile]:
        """The file itself."""
        yield SourceFile("", self._folder, self._name, self._stat)


def open_table(uri: str, source: Source) -> ArraysTable:
    """Read the headers. Raises DataError if the file is missing, no `.npz`, or holds objects."""
    return ArraysTable(*locate_file(uri, source.storage))
