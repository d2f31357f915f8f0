"""A folder of images: a class per subfolder, or any layout beside a CSV of file and class.

Rows are ordered by file name and only then by folder, so that their order does not follow the classes. Images
are read by the workers. Places are paths below the folder.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import PurePosixPath

from schemas.errors import DataError
from schemas.spec import Source
from stages.domains.sources.base import (
    LABEL,
    Row,
    RowSlice,
    SourceFile,
    TableReader,
    Wanted,
    locate,
    locate_file,
    read_cells,
)
from stages.domains.sources.csv import CsvTable
from stages.places import Place, Stat
from stages.tasks.base import BadRow

IMAGE = "image"
SUFFIXES = frozenset({".png", ".jpg", ".jpeg", ".webp", ".bmp", ".gif", ".tif", ".tiff", ".pgm", ".ppm", ".pbm"})
HEADER = ("file", "class")


@dataclass(frozen=True)
class _Item:
    """One image: its path below the folder, and its class or why it has none."""

    path: str
    label: str | None
    problem: str | None = None


@dataclass(frozen=True)
class FolderSlice(RowSlice):
    """Some images, by name."""

    folder: Place
    items: tuple[_Item, ...]
    wanted: Wanted

    def read(self) -> Iterator[tuple[str, Row]]:
        """Read each image's bytes."""
        for item in self.items:
            yield item.path, self._row(item)

    def _row(self, item: _Item) -> Row:
        if item.problem is not None:
            return BadRow(item.problem)
        cells = {IMAGE: item.path, LABEL: item.label}
        row = {role: cells[name] for role, name in self.wanted.columns.items()}
        return read_cells(
            self.folder, row, frozenset(role for role, name in self.wanted.columns.items() if name == IMAGE)
        )


class ImageFolder(TableReader):
    """One folder, listed once."""

    def __init__(self, folder: Place, images: dict[str, Stat], classes: CsvTable | None) -> None:
        self._folder, self._images, self._classes = folder, images, classes
        items = _by_subfolder(images) if classes is None else _by_file(images, classes)
        self._items = sorted(items, key=lambda item: (PurePosixPath(item.path).name, item.path))
        labelled = classes is not None or any(item.label is not None for item in items)
        self.column_names = (IMAGE, LABEL) if labelled else (IMAGE,)
        self.rows = len(items)

    def slices(self, rows: int, wanted: Wanted) -> Iterator[RowSlice]:
        """Cut the list of images."""
        for start in range(0, len(self._items), rows):
            yield FolderSlice(self._folder, tuple(self._items[start : start + rows]), wanted)

    def files(self, wanted: Wanted) -> Iterator[SourceFile]:
        """The images, and the CSV of classes."""
        for path in sorted(self._images):
            yield SourceFile(path, self._folder, path, self._images[path])
        if self._classes is not None:
            yield from self._classes.files(Wanted({}))


def _by_subfolder(images: dict[str, Stat]) -> list[_Item]:
    """The class is the first folder of the path; an image beside the subfolders has no known class."""
    paths = {path: PurePosixPath(path).parts for path in images}
    return [_Item(path, parts[0] if len(parts) > 1 else None) for path, parts in paths.items()]


def _by_file(images: dict[str, Stat], table: CsvTable) -> list[_Item]:
    """The class is what the CSV says; an image that it does not name, or a name without a file, is a bad row."""
    named: dict[str, _Item] = {}
    for row_slice in table.slices(2048, Wanted({name: name for name in HEADER})):
        for place, row in row_slice.read():
            if isinstance(row, BadRow):
                named[place] = _Item(place, None, str(row))
                continue
            path, label = row["file"], row["class"]
            if path is None:
                named[place] = _Item(place, None, "it names no file")
            elif path in named:
                named[place] = _Item(place, None, f"the file '{path}' is named before")
            elif path not in images:
                named[path] = _Item(path, None, f"the file is missing ({place} names it)")
            else:
                named[path] = _Item(path, label)
    unnamed = [_Item(path, None, "the CSV of classes does not name it") for path in images if path not in named]
    return [*named.values(), *unnamed]


def open_table(uri: str, source: Source) -> ImageFolder:
    """List the folder. Raises DataError if it is missing or holds no images, or the CSV has other columns."""
    parent, name = locate(uri, source.storage)
    stat = parent.stat(name)
    if stat is None or not stat.folder:
        raise DataError(f"the source {uri} is no folder: check `from` of its domain")
    folder = Place(uri, source.storage)
    images = {path: state for path, state in folder.stats().items() if PurePosixPath(path).suffix.lower() in SUFFIXES}
    if not images:
        raise DataError(f"the folder {uri} holds no images ({', '.join(sorted(SUFFIXES))})")
    if source.labels is None:
        return ImageFolder(folder, images, None)
    classes = CsvTable(*locate_file(source.labels, source.storage))
    missing = [column for column in HEADER if column not in classes.column_names]
    if missing:
        raise DataError(
            f"{source.labels} has the columns {', '.join(classes.column_names)}; "
            f"a CSV of classes has {' and '.join(HEADER)} ({', '.join(missing)} is missing)"
        )
    return ImageFolder(folder, images, classes)
