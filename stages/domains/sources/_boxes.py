"""What formats of pictures with boxes have in common: a list of pictures, each with its boxes in pixels, as rows.

The lists are read in the driver, pictures by the workers. A row has `image`, the file's bytes, and `label`, JSON of the
picture's `width` and `height` in pixels and its `boxes`, each [class, left, top, right, bottom]. A picture that nobody
gives boxes for is one without boxes.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from io import BytesIO

from PIL import Image

from stages.domains.sources.base import LABEL, Row, RowSlice, SourceFile, TableReader, Wanted, named_files, read_cells
from stages.places import Place
from stages.tasks.base import BadRow

IMAGE = "image"
Box = tuple[str, float, float, float, float]
"""Class, left, top, right, bottom; in pixels from the left upper corner of the picture."""


@dataclass(frozen=True)
class Picture:
    """One picture: where it is named, its file below the source's folder, its boxes."""

    place: str
    file: str
    boxes: tuple[Box, ...] = ()
    size: tuple[float, float] | None = None
    """Width and height; none: as the file says."""
    problem: str | None = None
    """Why there is no row."""


@dataclass(frozen=True)
class PictureSlice(RowSlice):
    """Some pictures."""

    folder: Place
    pictures: tuple[Picture, ...]
    wanted: Wanted

    def read(self) -> Iterator[tuple[str, Row]]:
        """Read each picture's bytes."""
        for picture in self.pictures:
            yield picture.place, self._row(picture)

    def _row(self, picture: Picture) -> Row:
        if picture.problem is not None:
            return BadRow(picture.problem)
        read = read_cells(self.folder, {IMAGE: picture.file}, frozenset({IMAGE}))
        if isinstance(read, BadRow):
            return read
        try:
            width, height = picture.size or Image.open(BytesIO(read[IMAGE])).size
        except Exception as error:  # noqa: BLE001 - PIL raises anything on a broken file
            return BadRow(f"not an image that can be read ({type(error).__name__})")
        label = json.dumps({"width": width, "height": height, "boxes": picture.boxes})
        cells = {IMAGE: read[IMAGE], LABEL: label}
        return {role: cells[name] for role, name in self.wanted.columns.items()}


class PictureTable(TableReader):
    """Pictures with boxes, in the order of the source."""

    column_names = (IMAGE, LABEL)

    def __init__(self, folder: Place, pictures: Sequence[Picture], lists: Sequence[SourceFile]) -> None:
        """`lists`: the files that name the pictures and boxes."""
        self._folder, self._pictures, self._lists = folder, pictures, lists
        self.rows = len(pictures)

    def slices(self, rows: int, wanted: Wanted) -> Iterator[RowSlice]:
        """Cut the list of pictures."""
        for start in range(0, len(self._pictures), rows):
            yield PictureSlice(self._folder, tuple(self._pictures[start : start + rows]), wanted)

    def files(self, wanted: Wanted) -> Iterator[SourceFile]:
        """The lists, and the pictures that they name."""
        yield from self._lists
        yield from named_files(self._folder, (picture.file for picture in self._pictures))
