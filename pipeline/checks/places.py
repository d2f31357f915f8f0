"""What a spec brings and where it writes: folders, secrets, weights, places. Loads no torch."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

from pipeline.specs import LoadedSpec
from schemas.artifacts import WeightsRef
from schemas.errors import PACKAGES_OURS, UserError
from schemas.spec import Spec
from stages.places import Place

SECRET = re.compile(r"^[a-z0-9+.-]+://[^/@]+@")
"""A URI with credentials before its host."""


def shadow_faults(loaded: LoadedSpec) -> Iterator[str]:
    """The spec's folder is on the workers' import path: nothing in it may bear a name of ours."""
    from crossdistill import HOUSE

    if loaded.folder == HOUSE:
        return
    for name in PACKAGES_OURS:
        for path in (loaded.folder / name, loaded.folder / f"{name}.py"):
            if path.exists() and (path.suffix or any(path.glob("*.py"))):
                yield f"{path} shadows crossdistill's own package '{name}' in every worker: rename it, or move the spec"


def secret_faults(value: Any, where: str) -> Iterator[str]:
    """Places that carry a user's name and password, anywhere in the spec."""
    if isinstance(value, dict):
        for key, item in value.items():
            yield from secret_faults(item, f"{where}.{key}".lstrip("."))
    elif isinstance(value, list):
        for index, item in enumerate(value):
            yield from secret_faults(item, f"{where}[{index}]")
    elif isinstance(value, str) and SECRET.match(value):
        yield f"{where} carries a secret: credentials come from the environment or the usual config files"


def weights_faults(spec: Spec) -> Iterator[str]:
    for where, uri in dict.fromkeys(_weights(spec)):
        folder, _, file = uri.rpartition("/")
        try:
            found = Place(folder, spec.storage).stat(file)
            if found is None or found.folder:
                yield f"{where}: {'there is no file' if found is None else 'it is a folder, not a file:'} {uri}"
        except UserError as error:
            yield f"{where}: {error}"


def _weights(spec: Spec) -> Iterator[tuple[str, str]]:
    for name, teacher in spec.teachers.items():
        if teacher.weights is not None:
            yield f"teachers.{name}.weights", teacher.weights
    for name, student in spec.students.items():
        if student.weights is not None:
            yield f"{spec.where(name)}.weights", student.weights


def read_givens(loaded: LoadedSpec, workspace: Place) -> tuple[dict[str, str], dict[str, WeightsRef]]:
    """(source digest by domain, weights by place): what the user brings, known by its bytes.

    Large sources are read once: their digests are kept in the workspace by size and time of change.
    """
    from stages.domains.sources import source_digest
    from stages.tasks import TASKS
    from stages.training.weights import weights_digest

    spec = loaded.spec
    files = TASKS.get(spec.task.name).files
    digests = {
        name: source_digest(domain.from_, workspace, domain.columns, files) for name, domain in spec.domains.items()
    }
    places = dict.fromkeys(uri for _, uri in _weights(spec))
    return digests, {uri: WeightsRef(uri=uri, digest=weights_digest(uri, spec.storage)) for uri in places}


def check_places(loaded: LoadedSpec, workspace: Place) -> None:
    """Probe workspace and store once for safe commits; the verdict is kept in the workspace.

    Raises PlaceError for a place that cannot be written or lets two writers win.
    """
    for place in places_of(loaded, workspace):
        if not place.exists("probes/safe"):
            place.probe()
            place.put_new("probes/safe", b"16 writers, one winner\n")


def places_of(loaded: LoadedSpec, workspace: Place) -> list[Place]:
    store = loaded.spec.store
    return [workspace] if store is None else [workspace, Place(store, loaded.spec.storage)]
