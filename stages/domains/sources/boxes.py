"""CSV of boxes, a line each: `image_path` (relative to the CSV), `xmin`, `ymin`, `xmax`, `ymax`, `label`.

Pixels count from 0 at the picture's left upper corner. A line without numbers and label names a picture without boxes.
Pictures stand in the order in which they are first named; places are their lines.
"""

from __future__ import annotations

from schemas.errors import DataError
from schemas.spec import Source
from stages.domains.sources._boxes import Box, Picture, PictureTable
from stages.domains.sources.base import Wanted, locate_file
from stages.domains.sources.csv import CsvTable
from stages.tasks.base import BadRow

FILE, CLASS = "image_path", "label"
CORNERS = ("xmin", "ymin", "xmax", "ymax")
AT_ONCE = 2048
"""Lines that are parsed at once."""


def open_table(uri: str, source: Source) -> PictureTable:
    """Read all lines. Raises DataError if the file or a column is missing, or lines name no picture."""
    folder, name, stat = locate_file(uri, source.storage)
    table = CsvTable(folder, name, stat)
    columns = (FILE, *CORNERS, CLASS)
    if missing := [column for column in columns if column not in table.column_names]:
        raise DataError(f"{uri} has no column {', '.join(missing)}: boxes stand under {','.join(columns)}")
    wanted = Wanted({column: column for column in columns})
    places: dict[str, str] = {}
    boxes: dict[str, list[Box]] = {}
    problems: dict[str, str] = {}
    for piece in table.slices(AT_ONCE, wanted):
        for place, row in piece.read():
            if isinstance(row, BadRow) or not row[FILE]:
                raise DataError(f"{place} of {uri} names no picture: {row if isinstance(row, BadRow) else FILE}")
            file = row[FILE]
            places.setdefault(file, place)
            own = boxes.setdefault(file, [])
            if not any(row[column] for column in (*CORNERS, CLASS)):
                continue
            try:
                left, top, right, bottom = (float(row[corner]) for corner in CORNERS)
                own.append((row[CLASS] or "", left, top, right, bottom))
            except (TypeError, ValueError):
                problems[file] = f"its box in {place} is no four numbers"
    pictures = [Picture(places[file], file, tuple(boxes[file]), problem=problems.get(file)) for file in boxes]
    return PictureTable(folder, pictures, list(table.files(Wanted({}))))
