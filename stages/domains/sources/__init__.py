"""Sources: one file per format behind one small interface, read in slices."""

from __future__ import annotations

import importlib
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from schemas.canonical import digest
from schemas.errors import DIGEST_PATTERN, DataError, UserError, did_you_mean
from schemas.spec import SPLITS, Source
from stages.domains.sources.base import LABEL, SAMPLE_ID, RowSlice, SourceFile, TableReader, Wanted
from stages.places import Place

PICTURES = frozenset({"image"})
CACHE = "sources"
"""Folder of the workspace with the digests of sources by the state of their files."""


@dataclass(frozen=True)
class SourceReader:
    """A source with its columns found: ready to be read."""

    tables: Mapping[str, TableReader]
    """Table by split; under '' where one place is to be split."""
    wanted: Mapping[str, Wanted]
    """Columns to read, by split."""

    @property
    def column_names(self) -> tuple[str, ...]:
        """Columns of the source, those of all its places together."""
        return tuple(dict.fromkeys(name for table in self.tables.values() for name in table.column_names))

    @property
    def rows(self) -> int | None:
        """Rows in all, or None where a format does not tell without reading."""
        counts = [table.rows for table in self.tables.values()]
        return None if None in counts else sum(count for count in counts if count is not None)

    @property
    def given_splits(self) -> bool:
        """Whether the source came in one place per split."""
        return "" not in self.tables

    def slices(self, rows: int) -> Iterator[tuple[int | None, RowSlice]]:
        """(split code, slice) in the order of the domain; no slice spans two places."""
        for split in ("", *SPLITS):
            if split in self.tables:
                code = SPLITS.index(split) if split else None
                for piece in self.tables[split].slices(rows, self.wanted[split]):
                    yield code, piece


def open_source(
    source: Source,
    columns: Mapping[str, str],
    roles: Sequence[str],
    files: frozenset[str] = PICTURES,
    optional: frozenset[str] = frozenset(),
    labels: Sequence[str] = (LABEL,),
) -> SourceReader:
    """Open a source and find its columns. Reads headers and footers only (an example may be fetched).

    `roles` are the task's inputs, `files` those whose text cells name files, `optional` those that may be missing,
    `labels` the columns that truth is made of.
    Raises DataError with one sentence per fault: a file that is missing or no such file, a column that is missing.
    """
    tables = {split: _table(uri, source) for split, uri in source.places.items()}
    problems = [
        problem
        for split, table in tables.items()
        for problem in _column_problems(source.places[split], table.column_names, columns, roles, optional, labels)
    ]
    if problems:
        raise DataError(*problems)
    read = (*roles, *labels)
    return SourceReader(tables, {split: _wanted(table, columns, read, files) for split, table in tables.items()})


def check_source(
    source: Source,
    columns: Mapping[str, str],
    roles: Sequence[str],
    optional: frozenset[str] = frozenset(),
    labels: Sequence[str] = (LABEL,),
) -> list[str]:
    """What can be found wrong without reading the rows, one sentence each; for a plan."""
    if source.example is not None:
        from stages.domains.examples import EXAMPLES

        known = EXAMPLES.names()
        if source.example in known:
            return []
        return [f"no example is called '{source.example}'{did_you_mean(source.example, known)}"]
    try:
        open_source(source, columns, roles, optional=optional, labels=labels)
    except UserError as error:
        return list(error.problems)
    return []


def source_digest(
    source: Source,
    workspace: Place | None = None,
    columns: Mapping[str, str] | None = None,
    files: frozenset[str] = PICTURES,
) -> str:
    """blake2b-128 of the bytes of a source's files and of their names within it (not of where it lies).

    An example counts by its pinned hash. Files that cells of `files` roles name count too, found by the domain's
    `columns`. Reads every byte once; with a `workspace`, which keeps the digest, later calls cost one listing while
    sizes and times of change hold. What is damaged in that cache is replaced.
    Raises DataError if the source is missing.
    """
    if source.example is not None:
        from stages.domains.examples import EXAMPLES

        return digest({"example": source.example, "sha256": EXAMPLES.get(source.example).sha256})
    listing: dict[str, list[SourceFile]] = {}
    for split, uri in source.places.items():
        table = _table(uri, source)
        listing[split] = list(table.files(_wanted(table, columns or {}, (*sorted(files), LABEL), files)))
    state = {
        split: [[item.place.uri, item.name, item.label, item.stat.size, item.stat.version] for item in items]
        for split, items in listing.items()
    }
    key = digest([source.kind, state])
    cache = None if workspace is None else workspace / CACHE
    known = None if cache is None else cache.read_or_none(key)
    if known is not None and re.fullmatch(DIGEST_PATTERN.encode(), known):
        return known.decode("ascii")
    content = {split: [[item.label, _checksum(item)] for item in items] for split, items in listing.items()}
    found = digest([source.kind, content])
    if cache is not None:
        cache.remove(key)  # what stands there is damaged
        cache.put_new(key, found.encode("ascii"))
    return found


def _table(uri: str, source: Source) -> TableReader:
    module = importlib.import_module(f"stages.domains.sources.{source.kind}")
    table: TableReader = module.open_table(uri, source)
    return table


def _wanted(table: TableReader, columns: Mapping[str, str], roles: Sequence[str], files: frozenset[str]) -> Wanted:
    """The roles that the table has, under its own names."""
    named = {role: columns.get(role, role) for role in (*roles, SAMPLE_ID)}
    return Wanted({role: name for role, name in named.items() if name in table.column_names}, files)


def _column_problems(
    uri: str,
    names: tuple[str, ...],
    columns: Mapping[str, str],
    roles: Sequence[str],
    optional: frozenset[str],
    labels: Sequence[str],
) -> Iterator[str]:
    every = [*roles, *labels, SAMPLE_ID]
    for role in columns:
        if role not in every:
            yield f"`columns` has the role '{role}', which this task does not have{did_you_mean(role, every)}"
    for role in every:
        name = columns.get(role, role)
        if name not in names and ((role in roles and role not in optional) or role in columns):
            mend = "" if role in columns else f"; name it with `columns: {{{role}: …}}`"
            near = did_you_mean(name, names)
            known = near if "?" in near else f"; it has {', '.join(names)}"
            yield f"the source {uri} has no column '{name}'{known}{mend}"


def _checksum(item: SourceFile) -> str:
    from stages.places import checksum_stream

    with item.place.open(item.name) as file:
        return checksum_stream(file)[1]
