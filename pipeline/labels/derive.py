"""Label sets from label sets and from people's own files: `encode` and `import`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from pipeline.labels.app import SetArgument, StoreArgument, labels_app, new_store, open_set
from pipeline.labels.progress import progress
from pipeline.options import AsJson, Endpoint
from schemas.errors import SpecError

if TYPE_CHECKING:
    from schemas.encodings import Encoding
    from schemas.labels import SetManifest
    from stages.places import Place

EncodingOption = Annotated[
    str,
    typer.Option("--encoding", metavar="ENCODING", help="'top-k k=32 values=uint8', 'low-rank rank=64', 'hard', …"),
]


@labels_app.command()
def encode(
    store: StoreArgument,
    name: SetArgument,
    encoding: EncodingOption,
    to: Annotated[
        str | None, typer.Option("--to", metavar="STORE", help="Store of the new set; left out: that of SET.")
    ] = None,
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
