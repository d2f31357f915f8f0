"""A spec file, read: `extends` followed, a form laid over it, then `--set`; every fault told at once."""

from __future__ import annotations

import os
import shlex
from collections.abc import Hashable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from pipeline.grids import parse_spec, put
from schemas.errors import SpecError, did_you_mean
from schemas.spec import SOURCE_KINDS, Spec

SUFFIXES = (".yaml", ".yml", ".json")


@dataclass(frozen=True)
class LoadedSpec:
    """A spec with the place that it came from."""

    spec: Spec
    path: Path
    overrides: tuple[str, ...] = ()
    """As given with `--set`."""
    form: str | None = None
    """As given with `--form`."""

    @property
    def folder(self) -> Path:
        """Folder of the spec: relative places and the user's own modules are looked for here."""
        return self.path.parent

    @property
    def default_workspace(self) -> str:
        """The directory beside the spec that a run uses if none is named."""
        return str(self.path.with_suffix(".workspace"))

    def command(self, verb: str, workspace: str, *more: str) -> str:
        """The command line that does `verb` with this spec as it was given, to be shown to people."""
        here = Path.cwd()
        shown = self.path.relative_to(here) if self.path.is_relative_to(here) else self.path
        words = ["crossdistill", verb, str(shown)]
        if workspace != self.default_workspace:
            words += ["--workspace", workspace]
        if self.form is not None:
            words += ["--form", self.form]
        for override in self.overrides:
            words += ["--set", override]
        return shlex.join([*words, *more])


def load_spec(path: str | Path, overrides: Iterable[str] = (), form: str | None = None) -> LoadedSpec:
    """Read a spec; `overrides` are `path.to.value=YAML`, as `--set` takes them.

    `form`: a name under the file's `forms`; what stands there is laid over the rest, as a spec's over the one that it
    extends. Left out: the spec as it stands.

    Raises SpecError or ContractError with one sentence per fault.
    """
    path = Path(path).expanduser().absolute()
    value = _formed(_read(path, ()), form, path.name)
    overrides = tuple(overrides)
    for override in overrides:
        _apply(value, override)
    _absolute(value, path.parent)
    return LoadedSpec(parse_spec(value, path.name), path, overrides, form)


class _Loader(yaml.CSafeLoader if hasattr(yaml, "CSafeLoader") else yaml.SafeLoader):  # type: ignore[misc]
    """YAML without silent losses: a key that stands twice is an error."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Hashable, Any]:
        seen: set[Hashable] = set()
        for key_node, _ in node.value:
            if key_node.tag == "tag:yaml.org,2002:merge":
                continue
            key = self.construct_object(key_node, deep=True)
            if key in seen:
                raise yaml.MarkedYAMLError(problem=f"the key '{key}' stands twice", problem_mark=key_node.start_mark)
            seen.add(key)
        mapping: dict[Hashable, Any] = super().construct_mapping(node, deep=deep)
        return mapping


def _read(path: Path, trail: tuple[Path, ...]) -> dict[str, Any]:
    if path in trail:
        raise SpecError(f"{path} extends itself, by way of {', '.join(item.name for item in trail)}")
    if path.is_dir():
        raise SpecError(f"{path} is a directory: name the spec in it")
    if not path.is_file():
        siblings = (
            [item.name for item in path.parent.glob("*") if item.suffix in SUFFIXES] if path.parent.is_dir() else []
        )
        raise SpecError(f"there is no spec at {path}{did_you_mean(path.name, siblings) if siblings else ''}")
    try:
        value = yaml.load(path.read_text("utf-8"), Loader=_Loader)  # noqa: S506 (a safe loader)
    except yaml.MarkedYAMLError as error:
        line = f", line {error.problem_mark.line + 1}" if error.problem_mark else ""
        raise SpecError(f"{path.name}{line}: not valid YAML: {error.problem}") from None
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise SpecError(f"{path.name}: not valid YAML: {error}") from None
    if not isinstance(value, dict):
        held = "nothing" if value is None else f"a {type(value).__name__}"
        raise SpecError(f"{path.name} is no spec: it holds {held}, not a mapping that begins with `version: 1`")
    parent = value.pop("extends", None)
    if parent is None:
        return value
    if not isinstance(parent, str):
        raise SpecError(f"{path.name}: `extends` is the path of one other spec")
    base_path = (path.parent / parent).resolve()
    base = _read(base_path, (*trail, path))
    _absolute(base, base_path.parent)
    return _merged(base, value)


def _formed(value: dict[str, Any], form: str | None, where: str) -> dict[str, Any]:
    forms = value.pop("forms", {})
    if not isinstance(forms, dict) or not all(isinstance(item, dict) for item in forms.values()):
        raise SpecError(
            f"{where}: `forms` holds, by name, what differs: {{full: {{students: {{mobile: {{seeds: 5}}}}}}}}"
        )
    if form is None:
        return value
    if form not in forms:
        known = did_you_mean(form, [str(name) for name in forms]) if forms else " (it has none: leave --form out)"
        raise SpecError(f"{where} has no form '{form}'{known}")
    return _merged(value, forms[form])


def _merged(base: Mapping[str, Any], over: Mapping[str, Any]) -> dict[str, Any]:
    result = dict(base)
    for key, item in over.items():
        old = result.get(key)
        result[key] = _merged(old, item) if isinstance(old, Mapping) and isinstance(item, Mapping) else item
    return result


def _apply(value: dict[str, Any], override: str) -> None:
    name, equals, text = override.partition("=")
    if not equals or not name:
        raise SpecError(f"--set {override}: give it as path.to.value=VALUE, such as students.mobile.seeds=3")
    try:
        item = yaml.load(text, Loader=_Loader)  # noqa: S506 (a safe loader)
    except yaml.YAMLError:
        raise SpecError(f"--set {override}: the value is not valid YAML") from None
    try:
        put(value, name, item)
    except SpecError as error:
        raise SpecError(f"--set {override}: {error}") from None


def _absolute(value: dict[str, Any], folder: Path) -> None:
    """Make relative places absolute, in place: they are relative to the file that names them."""

    def place(holder: Any, key: Hashable) -> None:
        item = holder.get(key) if isinstance(holder, dict) else None
        if isinstance(item, str):
            if item and "://" not in item:
                holder[key] = os.path.normpath(folder / Path(item).expanduser())
        elif isinstance(item, dict):
            for split in item:
                place(item, split)

    def each(key: str) -> list[Any]:
        parts = value.get(key)
        return list(parts.values()) if isinstance(parts, dict) else []

    for domain in each("domains"):
        source = domain.get("from") if isinstance(domain, dict) else None
        for kind in (*SOURCE_KINDS, "labels"):
            if kind != "example":
                place(source, kind)
    for part in (*each("teachers"), *each("students")):
        place(part, "weights")
        grid = part.get("grid") if isinstance(part, dict) else None
        if isinstance(grid, dict) and isinstance(grid.get("weights"), list):
            held = dict(enumerate(grid["weights"]))
            for number in held:
                place(held, number)
            grid["weights"] = list(held.values())
    for part in each("labels"):
        place(part, "from")
    place(value, "store")
    forms = value.get("forms")
    for form in forms.values() if isinstance(forms, dict) else ():
        if isinstance(form, dict):
            _absolute(form, folder)
