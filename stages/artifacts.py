"""Artifacts of a workspace: attempt, commit, find, open.

`artifacts/STAGE/FINGERPRINT/ATTEMPT/...` holds the files, `artifacts/STAGE/FINGERPRINT/artifact.json` says which
attempt won. It is written last and once; a killed attempt leaves a folder that nobody names.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, TypeVar

from schemas.artifacts import Artifact, ObjectInfo, Provenance, Ref
from schemas.base import Contract, Document
from schemas.canonical import digest, identity
from schemas.errors import ContractError, DataError, StoreError
from stages.places import Place, checksum, new_attempt

MANIFEST = "artifact.json"
HERE = "."
"""Stands in recorded outputs for the artifact's own folder, so that a workspace can be moved."""
DocumentT = TypeVar("DocumentT", bound=Document)


def package_version() -> str:
    """Version of crossdistill, for provenance."""
    try:
        return version("crossdistill")
    except PackageNotFoundError:
        return "0+unknown"


def fingerprint_of(stage: str, stage_version: int, inputs: Contract, code: dict[str, str]) -> str:
    """What was asked: stage, its version, the inputs without circumstances, and the plug-ins' sources."""
    return digest({"stage": stage, "stage_version": stage_version, "inputs": identity(inputs), "code": code})


def objects_digest(objects: tuple[ObjectInfo, ...]) -> str:
    """Content digest of a set of files: names, sizes and checksums, sorted by name."""
    return digest([[item.name, item.size, item.checksum] for item in sorted(objects, key=lambda item: item.name)])


@dataclass
class Attempt:
    """Work in progress on one artifact: files go under a random name until `commit`."""

    folder: Place
    """Folder of the artifact."""
    stage: str
    stage_version: int
    fingerprint: str
    inputs: Contract
    code: dict[str, str]

    def __post_init__(self) -> None:
        self.name = new_attempt()
        self._objects: dict[str, ObjectInfo] = {}

    def put(self, name: str, data: bytes) -> ObjectInfo:
        """Write one file of the artifact."""
        self.folder.put(f"{self.name}/{name}", data)
        info = ObjectInfo(name=name, size=len(data), checksum=checksum(data))
        self._objects[name] = info
        return info

    @contextmanager
    def writing(self, name: str) -> Iterator[Path]:
        """A local path to write one file to; register it with `add` afterwards."""
        with self.folder.writing(f"{self.name}/{name}") as path:
            yield path

    def add(self, info: ObjectInfo) -> None:
        """Register a file that was written through `writing`, here or in a worker."""
        self._objects[info.name] = info

    def take(self, info: ObjectInfo, folder: str) -> None:
        """Take in a file that stands whole in a folder beside the attempts."""
        self.folder.copy(f"{folder}/{info.name}", f"{self.name}/{info.name}")
        self.add(info)

    @property
    def objects(self) -> tuple[ObjectInfo, ...]:
        """Files so far, by name."""
        return tuple(self._objects[name] for name in sorted(self._objects))

    def commit(self, outputs: Document, content: str | None = None) -> Artifact:
        """Make the artifact exist: this attempt's, or the one that another writer committed first.

        `content` is the digest of what came out; left out: that of all files. `outputs` must already hold it.
        """
        artifact = Artifact(
            stage=self.stage,
            stage_version=self.stage_version,
            fingerprint=self.fingerprint,
            digest=content or objects_digest(self.objects),
            attempt=self.name,
            objects=self.objects,
            outputs=_moved(outputs.dump(), self.folder.uri, HERE),
            provenance=Provenance(package=package_version(), inputs=identity(self.inputs), code=self.code),
        )
        self.folder.put_new(MANIFEST, artifact.to_json())
        winner = find_artifact(self.folder)
        assert winner is not None, "artifact.json was written or was there"
        if winner.attempt != self.name:
            self.folder.remove(self.name)
            if (winner.stage, winner.fingerprint) != (self.stage, self.fingerprint):
                raise DataError(f"{self.folder.uri} holds another artifact ({winner.stage} {winner.fingerprint})")
        return winner


def find_artifact(folder: Place) -> Artifact | None:
    """The committed artifact in a folder, or None. One small read. Raises like `read_document`."""
    return read_document(folder, MANIFEST, Artifact, _stage_of(folder))


def read_document(place: Place, name: str, contract: type[DocumentT], stage: str) -> DocumentT | None:
    """What a stage wrote as `name`, or None. One small read.

    Raises StoreError naming the file and the mend if it is damaged, ContractError if this release cannot read it.
    """
    data = place.read_or_none(name)
    if data is None:
        return None
    where = f"{place.uri}/{name}"
    try:
        value = json.loads(data)
    except ValueError as error:
        raise _damaged(f"{where} is not JSON: {error}", stage) from None
    return _fitted(contract, value, where, stage)


def _fitted(contract: type[DocumentT], value: Any, where: str, stage: str) -> DocumentT:
    try:
        return contract.parse(value, where)
    except ContractError as error:
        found = value.get("version") if isinstance(value, dict) else None
        if isinstance(found, int) and 0 < found != contract.VERSION:
            raise  # another release wrote it: it is whole, and its message has a mend
        raise _damaged(error.problems[0], stage) from None


def _damaged(problem: str, stage: str) -> StoreError:
    return StoreError(f"{problem}. It is damaged: remove it, or make it again with --force {stage}")


def _stage_of(folder: Place) -> str:
    """The stage whose artifact a folder holds: `.../STAGE/FINGERPRINT`."""
    return folder.uri.split("/")[-2]


def open_ref(place: Place, ref: Ref, *stages: str) -> tuple[Artifact, Place]:
    """The artifact of one of `stages` that a reference names, and the folder of its files.

    Raises DataError if it is gone, is of another stage, or is not the one that was referred to.
    """
    artifact = find_artifact(place)
    if artifact is None:
        raise DataError(f"there is no artifact at {place.uri}: it was removed, or is not finished. Run again")
    if artifact.stage not in stages:
        wanted = " or ".join(f"'{stage}'" for stage in stages)
        raise DataError(f"{place.uri} is an artifact of stage '{artifact.stage}', not of {wanted}")
    if artifact.fingerprint != ref.fingerprint:
        raise DataError(f"{place.uri} has fingerprint {artifact.fingerprint}, {ref.fingerprint} was referred to")
    return artifact, place / artifact.attempt


def read_object(files: Place, artifact: Artifact, name: str) -> bytes:
    """One file of an artifact, checked against its size and checksum. Raises StoreError naming it."""
    info = next((item for item in artifact.objects if item.name == name), None)
    if info is None:
        raise StoreError(f"the artifact {files.uri} lists no file '{name}'")
    try:
        data = files.read(name)
    except FileNotFoundError:
        raise StoreError(f"{files.uri}/{name} is missing: make it again with --force {artifact.stage}") from None
    if len(data) != info.size or checksum(data) != info.checksum:
        raise StoreError(f"{files.uri}/{name} is damaged: make it again with --force {artifact.stage}")
    return data


def outputs_of(artifact: Artifact, folder: Place, contract: type[DocumentT]) -> DocumentT:
    """The outputs that a committed artifact recorded, in their contract. Raises like `read_document`."""
    value: dict[str, Any] = _moved(artifact.outputs, HERE, folder.uri)
    return _fitted(contract, value, f"{folder.uri}/{MANIFEST}, its outputs", _stage_of(folder))


def _moved(value: Any, old: str, new: str) -> Any:
    """`value` with every `uri` that is `old` made `new`."""
    if isinstance(value, dict):
        return {key: new if key == "uri" and item == old else _moved(item, old, new) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_moved(item, old, new) for item in value]
    return value
