"""Parquet: one file or a directory of files, in the order of their names.

A worker opens the files of its slice and decodes the row groups that it touches in batches; a row group much
larger than a shard is decoded once for each shard that lies in it, so row groups near `shard_rows` are cheapest.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import pyarrow as pa
import pyarrow.parquet as pq

from schemas.errors import DataError
from schemas.spec import Source
from stages.domains.sources.base import (
    Row,
    RowSlice,
    SourceFile,
    TableReader,
    Wanted,
    locate,
    named_files,
    read_cells,
)
from stages.places import Place, Stat

BATCH_ROWS = 256
"""Rows decoded at once."""


@dataclass(frozen=True)
class _Part:
    """Rows `start` to `stop` of one file."""

    name: str
    start: int
    stop: int


@dataclass(frozen=True)
class ParquetSlice(RowSlice):
    """A range of rows over one or more files."""

    folder: Place
    parts: tuple[_Part, ...]
    wanted: Wanted

    def read(self) -> Iterator[tuple[str, Row]]:
        for part in self.parts:
            with self.folder.open(part.name) as handle, pq.ParquetFile(handle) as file:
                for number, cells in _rows(file, part, self.wanted):
                    yield f"{part.name} row {number + 1}", read_cells(self.folder, cells, self.wanted.files)


def _rows(file: pq.ParquetFile, part: _Part, wanted: Wanted) -> Iterator[tuple[int, dict[str, object]]]:
    """(row number in the file, cells by role) of a part."""
    groups: list[int] = []
    first = begin = 0
    for index in range(file.metadata.num_row_groups):
        rows = file.metadata.row_group(index).num_rows
        if begin < part.stop and begin + rows > part.start:
            first = first if groups else begin
            groups.append(index)
        begin += rows
    number = first
    names = list(dict.fromkeys(wanted.columns.values()))
    for batch in file.iter_batches(batch_size=BATCH_ROWS, row_groups=groups, columns=names, use_threads=False):
        inside = range(max(part.start, number), min(part.stop, number + batch.num_rows))
        if inside:
            chosen = batch.slice(inside.start - number, len(inside)).to_pylist()
            for offset, row in zip(inside, chosen, strict=True):
                yield offset, {role: row[name] for role, name in wanted.columns.items()}
        number += batch.num_rows


class ParquetTable(TableReader):
    """Files of one schema."""

    def __init__(self, folder: Place, files: dict[str, Stat], single: bool) -> None:
        self._folder, self._files, self._single = folder, files, single
        self._counts: dict[str, int] = {}
        first: str | None = None
        for name in files:
            try:
                with folder.open(name) as handle:
                    schema, metadata = pq.read_schema(handle), pq.read_metadata(handle)
            except pa.ArrowInvalid as error:
                raise DataError(f"{folder.uri}/{name} is not a Parquet file: {error}") from None
            if first is None:
                first, self._schema = name, schema
            elif schema.names != self._schema.names:
                raise DataError(
                    f"{folder.uri}: the columns of {name} ({', '.join(schema.names)}) are not those of {first} "
                    f"({', '.join(self._schema.names)}): a source's files have the same columns"
                )
            self._counts[name] = metadata.num_rows
        self.column_names = tuple(self._schema.names)
        self.rows = sum(self._counts.values())

    def slices(self, rows: int, wanted: Wanted) -> Iterator[RowSlice]:
        """Cut the rows of all files, as one table, every `rows` rows."""
        parts: list[_Part] = []
        free = rows
        for name, count in self._counts.items():
            start = 0
            while start < count:
                stop = min(count, start + free)
                parts.append(_Part(name, start, stop))
                free -= stop - start
                start = stop
                if not free:
                    yield ParquetSlice(self._folder, tuple(parts), wanted)
                    parts, free = [], rows
        if parts:
            yield ParquetSlice(self._folder, tuple(parts), wanted)

    def files(self, wanted: Wanted) -> Iterator[SourceFile]:
        """The Parquet files, and the files that text cells name."""
        for name, stat in self._files.items():
            yield SourceFile("" if self._single else name, self._folder, name, stat)
        for role in sorted(wanted.files & wanted.columns.keys()):
            column = wanted.columns[role]
            kind = self._schema.field(column).type
            if pa.types.is_string(kind) or pa.types.is_large_string(kind):
                for name in self._files:
                    with self._folder.open(name) as handle:
                        cells = pq.read_table(handle, columns=[column], use_threads=False).column(0).unique()
                    yield from named_files(self._folder, cells.to_pylist())


def open_table(uri: str, source: Source) -> ParquetTable:
    """Open the footers. Raises DataError if there is no Parquet file, or files disagree on their columns."""
    parent, name = locate(uri, source.storage)
    stat = parent.stat(name)
    if stat is None:
        raise DataError(f"the source {uri} does not exist: check `from` of its domain")
    if not stat.folder:
        return ParquetTable(parent, {name: stat}, single=True)
    folder = parent / name
    files = {found: state for found, state in folder.stats().items() if found.endswith((".parquet", ".pq"))}
    if not files:
        raise DataError(f"the folder {uri} holds no .parquet files")
    return ParquetTable(folder, files, single=False)
