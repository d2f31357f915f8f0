"""Pictures with boxes as Pascal VOC, COCO JSON and CSV: the same truth from each; what is wrong is said by place."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from schemas.base import Part
from schemas.domains import DomainInputs, DomainOutputs
from schemas.errors import DataError
from schemas.spec import Source
from stages.context import Context
from stages.domains.reader import read_truth
from stages.domains.sources import open_source, source_digest
from stages.domains.stage import DOMAINS
from stages.tasks._boxes import decode_boxes
from stages.tasks.base import BadRow

TASK = Part.model_validate(
    {"name": "detection", "classes": ["cat", "dog"], "image_size": 32, "channels": 3, "items": 4}
)
WIDTH, HEIGHT = 40, 20
Boxes = list[tuple[str, int, int, int, int]]
PICTURES: dict[str, Boxes] = {
    "a.png": [("dog", 4, 2, 20, 10), ("cat", 0, 0, 40, 20)],
    "b.png": [],
    "c.png": [("cat", 10, 5, 30, 15)],
}
KINDS = ("voc", "coco", "boxes")
VOC = "<annotation><filename>{}</filename><size><width>{}</width><height>{}</height></size>{}</annotation>"
OBJECT = "<object><name>{}</name><bndbox><xmin>{}</xmin><ymin>{}</ymin><xmax>{}</xmax><ymax>{}</ymax></bndbox></object>"


def write(kind: str, folder: Path, pictures: dict[str, Boxes]) -> Source:
    """The pictures and their boxes as a source of that kind."""
    folder.mkdir(parents=True)
    for number, name in enumerate(pictures):
        pixels = np.random.default_rng(number).integers(0, 255, (HEIGHT, WIDTH, 3), np.uint8)
        Image.fromarray(pixels).save(folder / name)
    if kind == "voc":
        (folder / "Annotations").mkdir()
        (folder / "JPEGImages").mkdir()
        for name, boxes in pictures.items():
            (folder / name).rename(folder / "JPEGImages" / name)
            objects = "".join(OBJECT.format(c, x + 1, y + 1, right, bottom) for c, x, y, right, bottom in boxes)
            xml = VOC.format(name, WIDTH, HEIGHT, objects)
            (folder / "Annotations" / name.replace(".png", ".xml")).write_text(xml)
        return Source(voc=str(folder))
    if kind == "coco":
        (folder / "boxes.json").write_text(json.dumps(coco(pictures)))
        return Source(coco=str(folder / "boxes.json"))
    lines = ["image_path,xmin,ymin,xmax,ymax,label"]
    for name, boxes in pictures.items():
        lines += [f"{name},{x},{y},{right},{bottom},{c}" for c, x, y, right, bottom in boxes] or [f"{name},,,,,"]
    (folder / "boxes.csv").write_text("\n".join(lines) + "\n")
    return Source(boxes=str(folder / "boxes.csv"))


def coco(pictures: dict[str, Boxes]) -> dict[str, Any]:
    annotations = [
        {"image_id": number, "category_id": ("cat", "dog", "bird").index(c) + 7, "bbox": [x, y, right - x, bottom - y]}
        for number, boxes in enumerate(pictures.values())
        for c, x, y, right, bottom in boxes
    ]
    return {
        "images": [
            {"id": number, "file_name": name, "width": WIDTH, "height": HEIGHT} for number, name in enumerate(pictures)
        ],
        "categories": [{"id": 7, "name": "cat"}, {"id": 8, "name": "dog"}, {"id": 9, "name": "bird"}],
        "annotations": [*annotations, {"image_id": 0, "category_id": 7, "bbox": [0, 0, 40, 20], "iscrowd": 1}],
    }


def ingest(context: Context, source: Source, **settings: Any) -> DomainOutputs:
    return DOMAINS.run(context, DomainInputs(source=source, task=TASK, **settings))


def rows_of(source: Source) -> dict[str, Any]:
    reader = open_source(source, {}, ("image",))
    return {place: row for _, piece in reader.slices(2) for place, row in piece.read()}


@pytest.mark.parametrize("kind", KINDS)
def test_every_format_gives_the_same_boxes(kind: str, local_context: Context, tmp_path: Path) -> None:
    outputs = ingest(local_context, write(kind, tmp_path / "here", PICTURES), shard_rows=2)
    assert (outputs.rows, outputs.shards) == (3, 2)
    assert outputs.truth is not None
    truth, classes = read_truth(local_context.place(outputs.samples), outputs.truth)
    assert classes == ("background", "cat", "dog")
    for coded, boxes in zip(truth, PICTURES.values(), strict=True):
        wanted = [[classes.index(c), x / 40, y / 20, right / 40, bottom / 20] for c, x, y, right, bottom in boxes]
        assert np.allclose(decode_boxes(coded), np.array(wanted).reshape(-1, 5))


@pytest.mark.parametrize("kind", KINDS)
def test_pictures_and_boxes_count_in_the_digest(kind: str, tmp_path: Path) -> None:
    first = source_digest(write(kind, tmp_path / "first", PICTURES))
    assert source_digest(write(kind, tmp_path / "again", PICTURES)) == first
    moved = {**PICTURES, "c.png": [("cat", 10, 5, 30, 16)]}
    assert source_digest(write(kind, tmp_path / "moved", moved)) != first
    source = write(kind, tmp_path / "repainted", PICTURES)
    picture = next((tmp_path / "repainted").rglob("c.png"))
    Image.new("RGB", (WIDTH, HEIGHT)).save(picture)
    assert source_digest(source) != first


@pytest.mark.parametrize("kind", KINDS)
def test_bad_boxes_are_refused_or_set_aside_by_count(kind: str, local_context: Context, tmp_path: Path) -> None:
    faulty = {
        **PICTURES,
        "d.png": [("cat", 50, 0, 60, 10), ("cat", 5, 5, 9, 9)],
        "e.png": [("cat", 5, 5, 5, 9)],
        "f.png": [("bird", 5, 5, 9, 9)],
        "g.png": [("cat", -3, 5, 9, 9), ("dog", 1, 1, 9, 9), ("dog", 1, 1, 9, 9)],
    }
    source = write(kind, tmp_path / "here", faulty)
    with pytest.raises(DataError, match="3 of 7 rows of the source are bad") as refused:
        ingest(local_context, source)
    for said in ("of 2 boxes 1 lie outside the picture", "of 1 boxes 1 have no area", "unknown classes"):
        assert said in str(refused.value)
    outputs = ingest(local_context, source, on_bad_row="quarantine")
    assert (outputs.rows, outputs.quarantined) == (4, 3)
    assert outputs.truth is not None
    truth, _ = read_truth(local_context.place(outputs.samples), outputs.truth)
    assert np.allclose(decode_boxes(truth[-1]), [[1, 0, 0.25, 0.225, 0.45], [2, 0.025, 0.05, 0.225, 0.45]])


@pytest.mark.parametrize("kind", KINDS)
def test_a_missing_picture_is_a_bad_row(kind: str, tmp_path: Path) -> None:
    source = write(kind, tmp_path / "here", PICTURES)
    next((tmp_path / "here").rglob("b.png")).unlink()
    bad = [str(row) for row in rows_of(source).values() if isinstance(row, BadRow)]
    assert len(bad) == 1
    assert "b.png' is missing" in bad[0]


BOMB = '<!DOCTYPE annotation [<!ENTITY a "aaaa"><!ENTITY b "&a;&a;">]>'


@pytest.mark.parametrize(
    ("xml", "said"),
    [
        (BOMB + VOC.format("&b;", 4, 4, ""), "declares a document type"),
        ("<annotation>", "the XML is broken"),
        (VOC.format("", 4, 4, ""), "has no filename"),
        (VOC.format("a.png", "wide", 4, ""), "could not convert string to float: 'wide'"),
        (VOC.format("a.png", 4, 4, "<object><name>cat</name></object>"), "has no bndbox/xmin"),
    ],
)
def test_an_xml_that_cannot_be_read_is_a_bad_row_and_no_entity_is_expanded(xml: str, said: str, tmp_path: Path) -> None:
    source = write("voc", tmp_path / "here", PICTURES)
    (tmp_path / "here/Annotations/b.xml").write_text(xml)
    found = rows_of(source)
    assert said in str(found["Annotations/b.xml"])
    assert sum(isinstance(row, BadRow) for row in found.values()) == 1


def without(key: str) -> dict[str, Any]:
    return {name: value for name, value in coco(PICTURES).items() if name != key}


@pytest.mark.parametrize(
    ("value", "said"),
    [
        ("[]", "is no COCO JSON"),
        ("{", "is no COCO JSON"),
        (json.dumps(without("categories")), "is no COCO JSON of images, annotations and categories: KeyError"),
        (json.dumps({**coco(PICTURES), "categories": []}), "3 of an unknown category"),
        (json.dumps({**coco(PICTURES), "images": []}), "3 of an unknown image"),
        (json.dumps({**coco(PICTURES), "images": coco(PICTURES)["images"] * 2}), "3 images an id that another one has"),
    ],
)
def test_a_json_that_is_not_cocos_is_refused(value: str, said: str, tmp_path: Path) -> None:
    (tmp_path / "boxes.json").write_text(value)
    with pytest.raises(DataError, match=said):
        open_source(Source(coco=str(tmp_path / "boxes.json")), {}, ("image",))


@pytest.mark.parametrize(
    ("lines", "said"),
    [
        (["image_path,xmin,ymin,xmax,label", "a.png,1,1,2,cat"], "has no column ymax"),
        (["image_path,xmin,ymin,xmax,ymax,label", ",1,1,2,2,cat"], "line 2 of .* names no picture"),
    ],
)
def test_a_csv_without_boxes_is_refused(lines: Sequence[str], said: str, tmp_path: Path) -> None:
    (tmp_path / "boxes.csv").write_text("\n".join(lines))
    with pytest.raises(DataError, match=said):
        open_source(Source(boxes=str(tmp_path / "boxes.csv")), {}, ("image",))


def test_a_line_without_numbers_is_a_bad_picture(tmp_path: Path) -> None:
    source = write("boxes", tmp_path / "here", PICTURES)
    with (tmp_path / "here/boxes.csv").open("a") as file:
        file.write("c.png,1,x,3,4,cat\n")
    bad = {place: str(row) for place, row in rows_of(source).items() if isinstance(row, BadRow)}
    assert list(bad.values()) == ["its box in boxes.csv line 6 is no four numbers"]


def test_a_folder_without_xmls_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="holds no XML of boxes"):
        open_source(Source(voc=str(tmp_path)), {}, ("image",))
