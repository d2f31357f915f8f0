"""COCO's JSON of boxes: `images`, `annotations` (`bbox`: left, top, width, height in pixels) and `categories`.

Pictures lie where `file_name` says, below the folder of the JSON. Crowds (`iscrowd`) are no boxes. Places are ids of
images.
"""

from __future__ import annotations

import json
from collections import Counter
from typing import Any

from schemas.errors import DataError
from schemas.spec import Source
from stages.domains.sources._boxes import Box, Picture, PictureTable
from stages.domains.sources.base import SourceFile, locate_file


def open_table(uri: str, source: Source) -> PictureTable:
    """Read the whole JSON. Raises DataError if it is missing, is no such JSON, or speaks of what is not there."""
    folder, name, stat = locate_file(uri, source.storage)
    try:
        whole = json.loads(folder.read(name))
        classes = {item["id"]: str(item["name"]) for item in whole["categories"]}
        images = {item["id"]: item for item in whole["images"]}
        boxes: dict[Any, list[Box]] = {number: [] for number in images}
        lost: Counter[str] = Counter()
        for item in whole["annotations"]:
            if item.get("iscrowd"):
                continue
            if item["image_id"] not in images or item["category_id"] not in classes:
                lost["image" if item["image_id"] not in images else "category"] += 1
                continue
            left, top, width, height = map(float, item["bbox"])
            boxes[item["image_id"]].append((classes[item["category_id"]], left, top, left + width, top + height))
        pictures = [
            Picture(
                f"{name} image {number}",
                str(item["file_name"]),
                tuple(boxes[number]),
                (float(item["width"]), float(item["height"])),
            )
            for number, item in images.items()
        ]
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise DataError(f"{uri} is no COCO JSON of images, annotations and categories: {error!r}") from None
    if lost:
        counted = ", ".join(f"{count:,} of an unknown {what}" for what, count in sorted(lost.items()))
        raise DataError(f"{uri} has annotations that belong nowhere ({counted}): mend them")
    if len(images) < len(whole["images"]):
        raise DataError(f"{uri} gives {len(whole['images']) - len(images):,} images an id that another one has")
    return PictureTable(folder, pictures, [SourceFile("", folder, name, stat)])
