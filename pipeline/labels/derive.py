"""Label sets from label sets and from people's own files: `encode`, `fuse` and `import`."""

from __future__ import annotations

import json
import sys
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from pipeline.labels.app import SETS, SetArgument, StoreArgument, labels_app, new_store, open_set
from pipeline.labels.progress import progress
from pipeline.options import AsJson, Endpoint
from schemas.errors import SpecError

if TYPE_CHECKING:
    from schemas.encodings import Encoding
    from schemas.labels import Fusion, SetManifest
    from stages.labels.reader import LabelSet
    from stages.places import Place

EncodingOption = Annotated[
    str,
    typer.Option("--encoding", metavar="ENCODING", help="'top-k k=32 values=uint8', 'low-rank rank=64', 'hard', …"),
]
To = Annotated[str | None, typer.Option("--to", metavar="STORE", help="Store of the new set; left out: that of SET.")]


class Space(StrEnum):
    """What is averaged."""

    PROBABILITY = "probability"
    LOGIT = "logit"


class Ids(StrEnum):
    """Which samples a fused set speaks of."""

    INTERSECTION = "intersection"
    UNION = "union"


@labels_app.command()
def encode(
    store: StoreArgument,
    name: SetArgument,
    encoding: EncodingOption,
    to: To = None,
    as_json: AsJson = False,
    endpoint_url: Endpoint = None,
) -> None:
    """Make a smaller set of one that holds every class, without its teacher."""
    from stages.labels.derive import encode_set

    wanted = parse_encoding(encoding)
    labels = open_set(store, name, endpoint_url)
    place = labels.store.place if to is None else new_store(to, endpoint_url)
    with progress("units") as told:
        manifest = encode_set(labels, wanted, place, told)
    _tell(place, manifest, as_json)


@labels_app.command()
def fuse(
    store: StoreArgument,
    name: SetArgument,
    others: Annotated[list[str], typer.Argument(metavar="SET…", help=SETS)],
    weights: Annotated[
        str | None,
        typer.Option(
            metavar="WEIGHTS",
            help="'0.7,0.3', or `confidence`: in each label by its largest probability; left out: alike.",
        ),
    ] = None,
    space: Annotated[Space, typer.Option(help="Average probabilities, or their logarithms.")] = Space.PROBABILITY,
    ids: Annotated[Ids, typer.Option(help="Samples that all sets speak of, or any.")] = Ids.INTERSECTION,
    encoding: EncodingOption = "dense",
    to: To = None,
    as_json: AsJson = False,
    endpoint_url: Endpoint = None,
) -> None:
    """Make one set of several teachers' sets, weighted."""
    from stages.labels.fuse import fuse_sets

    wanted = parse_encoding(encoding)
    parents = [open_set(store, item, endpoint_url) for item in (name, *others)]
    fusion = _fusion(parents, weights, space, ids)
    place = parents[0].store.place if to is None else new_store(to, endpoint_url)
    with progress("units") as told:
        manifest = fuse_sets(parents, fusion, wanted, place, lambda said: print(f"Note: {said}", file=sys.stderr), told)
    _tell(place, manifest, as_json)


def _fusion(parents: list[LabelSet], weights: str | None, space: Space, ids: Ids) -> Fusion:
    """What the options mean. Raises SpecError."""
    from pydantic import ValidationError

    from schemas.artifacts import LabelSetRef
    from schemas.errors import explain
    from schemas.labels import Fusion

    refs = [LabelSetRef(uri=item.store.place.uri, fingerprint=item.fingerprint, digest=item.digest) for item in parents]
    shares: object = weights
    if weights is None:
        shares = [1.0] * len(parents)
    elif weights != "confidence":
        try:
            shares = [float(item) for item in weights.split(",")]
        except ValueError:
            raise SpecError(f"--weights '{weights}': give one number a set ('0.7,0.3'), or `confidence`") from None
    try:
        return Fusion.model_validate({"sets": refs, "weights": shares, "space": space.value, "ids": ids.value})
    except ValidationError as error:
        raise SpecError(*explain(error, Fusion)) from None


@labels_app.command("import")
def import_(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="Outputs of your own: .npy, .parquet or .safetensors.")],
    to: Annotated[str, typer.Option("--to", metavar="STORE", help="Store of the set; made if there is none.")],
    classes: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Class names in the order of the columns, one a line.")
    ] = None,
    ids: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Sample ids in the order of the rows, one a line.")
    ] = None,
    are: Annotated[str, typer.Option(metavar="WHAT", help="`logits` or `probabilities`.")] = "logits",
    encoding: EncodingOption = "dense",
    as_json: AsJson = False,
    endpoint_url: Endpoint = None,
) -> None:
    """Make a full label set of outputs that a team has already."""
    from stages.labels.importing import import_set

    if are not in ("logits", "probabilities"):
        raise SpecError(f"--are {are}: it is one of logits, probabilities")
    wanted, place = parse_encoding(encoding), new_store(to, endpoint_url)
    with progress("units") as told:
        names, known = (None if path is None else _lines(path) for path in (classes, ids))
        manifest = import_set(file, place, wanted, names, known, are, told)  # type: ignore[arg-type]
    _tell(place, manifest, as_json)


def _lines(path: Path) -> list[str]:
    try:
        return path.read_text("utf-8").removesuffix("\n").split("\n")
    except (OSError, UnicodeDecodeError) as error:
        raise SpecError(
            f"{path} cannot be read: {getattr(error, 'strerror', None) or 'it is not UTF-8 text'}"
        ) from None


def _tell(place: Place, manifest: SetManifest, as_json: bool) -> None:
    from stages.labels.catalog import card

    said = {"store": place.uri, **card(manifest)}
    shown = ("store", "fingerprint", "root digest", "labels", "encoding", "size", "top-1 agreement", "KL at T = 2")
    lines = {heading: said[heading] for heading in shown if heading in said}
    print(json.dumps(said, indent=2) if as_json else "\n".join(f"{key:<16} {line}" for key, line in lines.items()))


def parse_encoding(text: str) -> Encoding:
    """An encoding as a person writes it: `KIND setting=value …`, values as in YAML. Raises SpecError."""
    import yaml
    from pydantic import ValidationError

    from schemas.errors import explain
    from schemas.spec import Labels

    kind, *settings = text.split() or [""]
    value: dict[str, object] = {"kind": kind}
    for item in settings:
        name, equals, word = item.partition("=")
        if not equals:
            raise SpecError(f"--encoding '{text}': '{item}' is no setting; write it as NAME=VALUE, such as k=32")
        value[name] = yaml.safe_load(word)
    try:
        return Labels.model_validate({"domain": "any", "teacher": "any", "encoding": value}).encoding
    except ValidationError as error:
        raise SpecError(*(f"--encoding '{text}': {problem}" for problem in explain(error, Labels))) from None
