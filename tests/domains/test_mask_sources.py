"""Pictures and masks from folders, arrays and tables: the same truth from each; what is wrong is said by file."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from pydantic import ValidationError

from schemas.base import Part
from schemas.domains import DomainInputs, DomainOutputs
from schemas.errors import DataError
from schemas.spec import Source
from stages.context import Context
from stages.domains.examples._scenes import scenes
from stages.domains.reader import read_truth
from stages.domains.sources import open_source, source_digest
from stages.domains.stage import DOMAINS
from stages.tasks._masks import decode_mask
from stages.tasks.base import BadRow
from tests.domains.test_box_examples import digits

TASK = Part.model_validate(
    {"name": "segmentation", "classes": ["sky", "sea", "land"], "image_size": 16, "channels": 3, "stride": 1}
)
NAMES = ("a.jpg", "b.png", "far/c.png")
HEIGHT, WIDTH = 12, 20
KINDS = ("images", "csv", "arrays")


def masks(values: int = 3) -> list[np.ndarray]:
    return [np.random.default_rng(n).integers(0, values, (HEIGHT, WIDTH), np.uint8) for n in range(len(NAMES))]


def write(kind: str, folder: Path, found: list[np.ndarray] | None = None) -> Source:
    """The pictures and their masks as a source of that kind."""
    found = masks() if found is None else found
    pictures = [np.random.default_rng(9 + n).integers(0, 255, (HEIGHT, WIDTH, 3), np.uint8) for n in range(len(NAMES))]
    folder.mkdir(parents=True)
    if kind == "arrays":
        np.savez(folder / "all.npz", image=np.stack(pictures), label=np.stack(found))
        return Source(arrays=str(folder / "all.npz"))
    lines = ["image,label"]
    for name, picture, mask in zip(NAMES, pictures, found, strict=True):
        image, label = folder / "images" / name, (folder / "masks" / name).with_suffix(".png")
        for path in (image, label):
            path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(picture).save(image)
        Image.fromarray(mask).save(label)
        lines.append(f"{image.relative_to(folder)},{label.relative_to(folder)}")
    if kind == "csv":
        (folder / "all.csv").write_text("\n".join(lines) + "\n")
        return Source(csv=str(folder / "all.csv"))
    return Source(images=str(folder / "images"), masks=str(folder / "masks"))


def ingest(context: Context, source: Source, **settings: Any) -> DomainOutputs:
    return DOMAINS.run(context, DomainInputs(source=source, task=TASK, **settings))


@pytest.mark.parametrize("kind", KINDS)
def test_every_way_gives_the_same_masks(kind: str, local_context: Context, tmp_path: Path) -> None:
    outputs = ingest(local_context, write(kind, tmp_path / "here"), shard_rows=2)
    assert (outputs.rows, outputs.shards) == (3, 2)
    assert outputs.truth is not None
    truth, classes = read_truth(local_context.place(outputs.samples), outputs.truth)
    assert classes == ("sky", "sea", "land")
    assert all(np.array_equal(decode_mask(coded), mask) for coded, mask in zip(truth, masks(), strict=True))


@pytest.mark.parametrize("kind", KINDS)
def test_pictures_and_masks_count_in_the_digest(kind: str, tmp_path: Path) -> None:
    first = source_digest(write(kind, tmp_path / "first"), files=frozenset({"image", "label"}))
    assert source_digest(write(kind, tmp_path / "again"), files=frozenset({"image", "label"})) == first
    changed = masks()
    changed[2][0, 0] = (changed[2][0, 0] + 1) % 3
    assert source_digest(write(kind, tmp_path / "changed", changed), files=frozenset({"image", "label"})) != first


def test_a_split_may_come_in_folders_of_its_own(tmp_path: Path) -> None:
    one, other = (write("images", tmp_path / name) for name in ("one", "other"))
    source = Source.model_validate(
        {
            "images": {"train": one.images, "test": other.images},
            "masks": {"train": one.masks, "test": other.masks},
        }
    )
    Path(str(other.masks), "b.png").unlink()
    reader = open_source(source, {}, ("image",))
    found = [(split, [type(row) for _, row in piece.read()]) for split, piece in reader.slices(3)]
    assert found == [(0, [dict] * 3), (2, [dict, BadRow, dict])]


def test_what_is_wrong_is_said_by_file(local_context: Context, tmp_path: Path) -> None:
    wrong = masks()
    wrong[0][3, 3] = 7
    wrong[1] = wrong[1][:, :-1]
    source = write("images", tmp_path / "here", wrong)
    (tmp_path / "here/masks/far/c.png").unlink()
    with pytest.raises(DataError, match="all 3 rows of the source are bad") as refused:
        ingest(local_context, source)
    for said in (
        "a.jpg: the mask has the class number 7 in 1 pixels, the task's 3 classes go from 0 to 2, and 255 is what does",
        "b.png: the mask has 12x19 pixels (height x width), its picture 12x20",
        "far/c.png: its mask is missing: there is no 'far/c.png' among the masks",
    ):
        assert said in str(refused.value)


def test_masks_of_arrays_are_of_their_pictures_size_too(local_context: Context, tmp_path: Path) -> None:
    source = write("arrays", tmp_path / "here", [mask.T for mask in masks()])
    with pytest.raises(DataError, match="the mask has 20x12 pixels"):
        ingest(local_context, source)


@pytest.mark.parametrize(
    ("value", "said"),
    [
        ({"images": "here"}, "`images` and `masks` go together"),
        ({"csv": "here", "masks": "there"}, "`images` and `masks` go together"),
        ({"images": {"train": "here"}, "masks": "there"}, "for the same splits"),
        ({"images": {"train": "here"}, "masks": {"test": "there"}}, "for the same splits"),
    ],
)
def test_folders_that_do_not_pair_are_refused(value: dict[str, Any], said: str) -> None:
    with pytest.raises(ValidationError, match=said):
        Source.model_validate(value)


def test_folders_without_pictures_or_with_two_of_a_name_are_refused(tmp_path: Path) -> None:
    source = write("images", tmp_path / "here")
    (tmp_path / "here/images/a.png").write_bytes((tmp_path / "here/images/b.png").read_bytes())
    with pytest.raises(DataError, match="'a.jpg' and 'a.png' of .* would share a mask"):
        open_source(source, {}, ("image",))
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match="holds no images"):
        open_source(Source(images=str(source.images), masks=str(tmp_path / "empty")), {}, ("image",))
    with pytest.raises(DataError, match="is no folder"):
        open_source(Source(images=str(source.images), masks=str(tmp_path / "nowhere")), {}, ("image",))


def test_scenes_are_masks_of_the_task(local_context: Context, tmp_path: Path) -> None:
    """What `columns: {label: mask}` of an example with scenes packs, one class a digit."""
    found = scenes(*digits())
    np.savez(tmp_path / "scenes.npz", image=found["image"], mask=found["mask"])
    names = ["background", *map(str, range(10))]
    task = Part.model_validate({"name": "segmentation", "classes": names, "channels": 1})
    outputs = DOMAINS.run(
        local_context,
        DomainInputs(source=Source(arrays=str(tmp_path / "scenes.npz")), task=task, columns={"label": "mask"}),
    )
    assert outputs.truth is not None
    truth, classes = read_truth(local_context.place(outputs.samples), outputs.truth)
    assert classes == tuple(names)
    assert all(np.array_equal(decode_mask(coded), mask) for coded, mask in zip(truth, found["mask"], strict=True))
