"""A folder of pictures, and one of their masks: PNGs of class numbers (paletted, or grey) under the pictures' names.

The mask of `a/b.jpg` is `a/b.png` below the masks' folder; a picture without one is a bad row, masks without a picture
are passed over. Rows are ordered by name; both files are read by the workers. Places are paths of pictures.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import PurePosixPath

from schemas.errors import DataError
from schemas.spec import Source, SplitName
from stages.domains.sources.base import LABEL, Row, RowSlice, SourceFile, TableReader, Wanted, locate, read_cells
from stages.domains.sources.image_folder import IMAGE, SUFFIXES
from stages.places import Place, Stat
from stages.tasks.base import BadRow

MASK = ".png"


@dataclass(frozen=True)
class MaskedSlice(RowSlice):
    """Some pictures, each with the name of its mask."""

    images: Place
    masks: Place
    names: tuple[tuple[str, str], ...]
    wanted: Wanted

    def read(self) -> Iterator[tuple[str, Row]]:
        """Read the bytes of both."""
        for image, mask in self.names:
            yield image, self._row(image, mask)

    def _row(self, image: str, mask: str) -> Row:
        picture = read_cells(self.images, {IMAGE: image}, frozenset({IMAGE}))
        if isinstance(picture, BadRow):
            return picture
        label = read_cells(self.masks, {LABEL: mask}, frozenset({LABEL}))
        if isinstance(label, BadRow):
            return BadRow(f"its mask is missing: there is no '{mask}' among the masks")
        cells = {**picture, **label}
        return {role: cells[name] for role, name in self.wanted.columns.items()}


class MaskedImages(TableReader):
    """Two folders, each listed once."""

    column_names = (IMAGE, LABEL)

    def __init__(self, images: Place, masks: Place, found: dict[str, Stat], known: dict[str, Stat]) -> None:
        self._images, self._masks, self._found, self._known = images, masks, found, known
        self._names = tuple((name, str(PurePosixPath(name).with_suffix(MASK))) for name in sorted(found))
        self.rows = len(found)

    def slices(self, rows: int, wanted: Wanted) -> Iterator[RowSlice]:
        """Cut the list of pictures."""
        for start in range(0, len(self._names), rows):
            yield MaskedSlice(self._images, self._masks, self._names[start : start + rows], wanted)

    def files(self, wanted: Wanted) -> Iterator[SourceFile]:
        """The pictures and their masks."""
        for image, mask in self._names:
            yield SourceFile(f"images/{image}", self._images, image, self._found[image])
            if mask in self._known:
                yield SourceFile(f"masks/{mask}", self._masks, mask, self._known[mask])


def open_table(uri: str, source: Source) -> MaskedImages:
    """List both folders. Raises DataError if one is missing or holds no pictures, or two pictures share a mask."""
    beside = dict(zip(_places(source.images), _places(source.masks), strict=True))[uri]
    images, found = _listed(uri, source, SUFFIXES)
    masks, known = _listed(beside, source, frozenset({MASK}))
    stems: dict[PurePosixPath, str] = {}
    for name in sorted(found):
        if (other := stems.setdefault(PurePosixPath(name).with_suffix(""), name)) != name:
            raise DataError(f"the pictures '{other}' and '{name}' of {uri} would share a mask: rename one of them")
    return MaskedImages(images, masks, found, known)


def _places(folders: str | Mapping[SplitName, str] | None) -> list[str]:
    """The one folder, or those of the splits, by name."""
    return [folders[split] for split in sorted(folders)] if isinstance(folders, Mapping) else [str(folders)]


def _listed(uri: str, source: Source, suffixes: frozenset[str]) -> tuple[Place, dict[str, Stat]]:
    parent, name = locate(uri, source.storage)
    stat = parent.stat(name)
    if stat is None or not stat.folder:
        raise DataError(f"the source {uri} is no folder: check `from` of its domain")
    folder = Place(uri, source.storage)
    found = {path: state for path, state in folder.stats().items() if PurePosixPath(path).suffix.lower() in suffixes}
    if not found:
        raise DataError(f"the folder {uri} holds no images ({', '.join(sorted(suffixes))})")
    return folder, found
