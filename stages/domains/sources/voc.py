"""Pascal VOC: a folder with one XML of boxes for each picture, in it or anywhere below.

The picture is the XML's `filename`, beside it or in VOC's own layout (`Annotations/` beside `JPEGImages/`). Pixels
count from 1, and a box's last ones belong to it, so `xmin` 1 and `xmax` the width is the whole picture. A document type
declaration, which is where entities come from, is refused. Places are paths of XMLs below the folder.
"""

from __future__ import annotations

from pathlib import PurePosixPath
from xml.etree import ElementTree as ET
from xml.parsers import expat

from schemas.errors import DataError
from schemas.spec import Source
from stages.domains.sources._boxes import Box, Picture, PictureTable
from stages.domains.sources.base import SourceFile
from stages.places import Place
from stages.tasks.base import BadRow

CORNERS = ("xmin", "ymin", "xmax", "ymax")


def open_table(uri: str, source: Source) -> PictureTable:
    """Read every XML. Raises DataError if the folder is missing or holds none."""
    folder = Place(uri.rstrip("/"), source.storage)
    listed = folder.stats()
    names = sorted(name for name in listed if name.lower().endswith(".xml"))
    if not names:
        raise DataError(f"the source {uri} holds no XML of boxes: check `from` of its domain")
    pictures = [_picture(name, folder.read(name), frozenset(listed)) for name in names]
    return PictureTable(folder, pictures, [SourceFile(name, folder, name, listed[name]) for name in names])


def _picture(name: str, data: bytes, files: frozenset[str]) -> Picture:
    try:
        file, size, boxes = parse(data)
    except BadRow as problem:
        return Picture(name, "", problem=str(problem))
    return Picture(name, _file(PurePosixPath(name), file, files), boxes, size)


def parse(data: bytes) -> tuple[str, tuple[float, float], tuple[Box, ...]]:
    """(name of the picture, its width and height, its boxes) of one XML. Raises BadRow."""
    root = _parsed(data)
    try:
        size = float(_text(root, "size/width")), float(_text(root, "size/height"))
        return _text(root, "filename"), size, tuple(map(_box, root.iter("object")))
    except ValueError as error:
        raise BadRow(str(error) if isinstance(error, BadRow) else f"the XML holds no number: {error}") from None


def _box(item: ET.Element) -> Box:
    left, top, right, bottom = (float(_text(item, f"bndbox/{corner}")) for corner in CORNERS)
    return _text(item, "name"), left - 1, top - 1, right, bottom


def _text(element: ET.Element, path: str) -> str:
    text = (element.findtext(path) or "").strip()
    if not text:
        raise BadRow(f"the XML has no {path}")
    return text


def _file(xml: PurePosixPath, name: str, files: frozenset[str]) -> str:
    """Where the picture lies: beside its XML, or in the folder of pictures beside that of XMLs."""
    places = [xml.parent / name, xml.parent.parent / "JPEGImages" / name]
    return next((str(place) for place in places if str(place) in files), str(places[0]))


def _parsed(data: bytes) -> ET.Element:
    """The document. Raises BadRow for one that is broken or declares a type."""

    def refuse(*_: object) -> None:
        raise BadRow("the XML declares a document type, and such are not read")

    parser = expat.ParserCreate()
    parser.StartDoctypeDeclHandler = refuse
    try:
        parser.Parse(data, True)
        return ET.fromstring(data)
    except (expat.ExpatError, ET.ParseError) as error:
        raise BadRow(f"the XML is broken: {error}") from None
