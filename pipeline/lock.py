"""`SPEC.lock`: somebody else's label sets stay what they were when a spec first used them.

Tags may move and stores may be rewritten; the lock says which set each name meant. What differs is refused until
`crossdistill run SPEC --update-lock`. The file belongs beside the spec, under version control.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

import yaml

from pipeline.specs import LoadedSpec
from schemas.artifacts import LabelSetRef
from schemas.errors import SpecError, UserError
from schemas.labels import LabelSchema, SetManifest, Views
from schemas.lock import Lock, LockedLabels
from schemas.spec import Labels
from stages.labels.store import Store
from stages.labels.tags import read_tag
from stages.places import Place, new_attempt

HEAD = "# Which label sets this spec uses. Written by `crossdistill run`; keep it beside the spec.\n"


@dataclass(frozen=True)
class Given:
    """A label set that stands in a store already."""

    ref: LabelSetRef
    views: Views
    """The readings of each sample that it holds."""
    schema: LabelSchema
    """What its labels are."""


@dataclass(frozen=True)
class Locked:
    """The label sets that a spec takes from stores, and the lock that fits them."""

    given: dict[str, Given]
    """By their name in the spec."""
    lock: Lock
    path: Path
    changed: bool
    """Whether the file does not say so yet."""

    def write(self) -> None:
        """Write the lock whole, if it changed."""
        if not self.changed:
            return
        part = self.path.with_name(f".tmp-{new_attempt()}")
        part.write_text(HEAD + yaml.safe_dump(self.lock.dump(), sort_keys=True), "utf-8")
        os.replace(part, self.path)  # noqa: PTH105 (as one step)


def lock_path(loaded: LoadedSpec) -> Path:
    """`SPEC.lock` beside the spec."""
    return loaded.path.with_suffix(".lock")


def resolve(loaded: LoadedSpec, update: bool = False) -> Locked:
    """What each of the spec's names means now. One or two small reads a name; writes nothing.

    Raises SpecError naming each set that is missing or is not the locked one (unless `update`).
    """
    path = lock_path(loaded)
    wanted = {name: labels for name, labels in loaded.spec.labels.items() if labels.from_ is not None}
    known = _read(path) if wanted else Lock()
    found: dict[str, tuple[LockedLabels, SetManifest]] = {}
    problems: list[str] = []
    for name, labels in wanted.items():
        try:
            found[name] = _look(labels, Place(str(labels.from_), loaded.spec.storage))
            now, _ = found[name]
        except UserError as error:
            problems += [f"labels.{name}: {problem}" for problem in error.problems]
            continue
        before = known.labels.get(name)
        same_name = before is not None and (before.store, before.name) == (now.store, now.name)
        if before is not None and same_name and before != now and not update:
            again = loaded.command("run", loaded.default_workspace, "--update-lock")
            problems.append(
                f"labels.{name}: '{before.name}' of {before.store} is another set than {path.name} has locked "
                f"(fingerprint {now.fingerprint[:12]}, root digest {now.digest[:12]}; locked: "
                f"{before.fingerprint[:12]}, {before.digest[:12]}). Take the new one with `{again}`, or name the "
                f"old one by its version (`{before.name}@v1`)"
            )
    if problems:
        raise SpecError(*problems)
    given = {
        name: Given(
            LabelSetRef(uri=str(wanted[name].from_), fingerprint=item.fingerprint, digest=item.digest),
            manifest.views,
            manifest.label_schema,
        )
        for name, (item, manifest) in found.items()
    }
    # Names that only another form of the spec uses stay locked.
    lock = Lock(labels=known.labels | {name: item for name, (item, _) in found.items()})
    return Locked(given, lock, path, bool(wanted) and lock != known)


def _look(labels: Labels, place: Place) -> tuple[LockedLabels, SetManifest]:
    """The set that a name means in its store now."""
    store = Store.open(place)
    name = labels.tag or str(labels.fingerprint)
    fingerprint = read_tag(place, labels.tag)[1].fingerprint if labels.tag else str(labels.fingerprint)
    manifest = store.manifest(fingerprint)
    if manifest is None:
        raise SpecError(
            f"{place.uri} has no finished label set {fingerprint}: see `crossdistill labels ls {place.uri}`"
        )
    if labels.tag and read_tag(place, labels.tag)[1].digest != manifest.digest:
        raise SpecError(f"{place.uri}: the set that '{name}' means was rewritten after it was tagged: do not use it")
    now = LockedLabels(store=str(labels.from_), name=name, fingerprint=fingerprint, digest=manifest.digest)
    return now, manifest


def _read(path: Path) -> Lock:
    if not path.is_file():
        return Lock()
    try:
        value = yaml.safe_load(path.read_text("utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError):
        raise SpecError(f"{path} is damaged: restore it, or remove it to lock what the names mean now") from None
    return Lock.parse(value, path.name)
