"""Digests of source code, so that a changed plug-in makes new artifacts and an unchanged one does not.

The digest of a module is that of its syntax tree without docstrings (comments and layout do not count), with the
modules that it imports followed where they are the user's own or the plug-in's private helpers; installed packages
count by name and version. Nothing is imported or run, so that a plan loads no torch.
"""

from __future__ import annotations

import ast
import importlib.machinery
import importlib.util
import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from functools import lru_cache
from importlib.metadata import Distribution, distributions
from pathlib import Path

from schemas.canonical import digest
from schemas.errors import PACKAGES_OURS, ModelError

_LOOKED: ContextVar[dict[str, str] | None] = ContextVar("looked", default=None)


@contextmanager
def one_look() -> Iterator[None]:
    """In here each source is looked at once: a plan of thirty students asks for the same one hundreds of times."""
    token = _LOOKED.set({})
    try:
        yield
    finally:
        _LOOKED.reset(token)


def code_digest(target: str) -> str:
    """Digest of the source behind `package.module:attribute`. Raises ModelError if there is no such module."""
    looked = _LOOKED.get()
    if looked is not None and target in looked:
        return looked[target]
    seen: dict[str, object] = {}
    _collect(target.partition(":")[0], target, seen)
    found = digest(dict(seen))
    if looked is not None:
        looked[target] = found
    return found


def _collect(module_name: str, target: str, seen: dict[str, object]) -> None:
    if module_name in seen:
        return
    path = _source(module_name)
    if path is None:
        raise ModelError(
            f"'{target}': there is no Python source of a module '{module_name}'. "
            "Give it as package.module:factory, with its folder beside the spec or on PYTHONPATH"
        )
    tree_digest, imports = _parse(path, path.stat().st_mtime_ns, path.stat().st_size)
    seen[module_name] = tree_digest
    for name, level in imports:
        imported = _absolute(name, level, module_name, path)
        root = imported.split(".")[0]
        if root in sys.stdlib_module_names:
            continue
        if root in PACKAGES_OURS:
            # Of the house, a plug-in's private helpers (`stages.tasks._images`) and the plug-ins beside it that it is
            # made of are part of it; the rest counts by the stages' versions.
            private = any(part.startswith("_") for part in imported.split("."))  # spares a look-up for every other name
            beside = imported.startswith(f"{module_name.rpartition('.')[0]}.")
            if (private or beside) and (helper := _longest_module(imported)):
                name = helper.rpartition(".")[2]
                if name.startswith("_") or (beside and name != "base" and helper.count(".") == module_name.count(".")):
                    _collect(helper, target, seen)
            continue
        found = _installed_version(root)
        if found is not None:
            seen[f"package {root}"] = found
        elif (inner := _longest_module(imported)) is not None:
            _collect(inner, target, seen)


def _absolute(name: str, level: int, module_name: str, path: Path) -> str:
    if not level:
        return name
    parts = module_name.split(".")
    base = parts if path.name == "__init__.py" else parts[:-1]
    base = base[: len(base) - (level - 1)] if level > 1 else base
    return ".".join([*base, name] if name else base)


def _longest_module(name: str) -> str | None:
    """The longest prefix of a dotted name that is a module (the rest are names in it)."""
    parts = name.split(".")
    for end in range(len(parts), 0, -1):
        candidate = ".".join(parts[:end])
        if _source(candidate) is not None:
            return candidate
    return None


def _source(module_name: str) -> Path | None:
    """Source file of a module; neither it nor its parents are run."""
    root, *rest = module_name.split(".")
    spec = importlib.util.find_spec(root)  # any finder, such as an editable install's; runs nothing at the top
    name = root
    for part in rest:
        if spec is None or spec.submodule_search_locations is None:
            return None
        name = f"{name}.{part}"
        spec = importlib.machinery.PathFinder.find_spec(name, list(spec.submodule_search_locations))
    return Path(spec.origin) if spec is not None and spec.origin and spec.origin.endswith(".py") else None


@lru_cache(maxsize=256)
def _parse(path: Path, mtime_ns: int, size: int) -> tuple[str, tuple[tuple[str, int], ...]]:
    try:
        tree = ast.parse(path.read_text(encoding="utf-8"))
    except SyntaxError as error:
        raise ModelError(f"{path}, line {error.lineno}: not valid Python: {error.msg}") from None
    imports: list[tuple[str, int]] = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            imports += [(alias.name, 0) for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            imports += [
                (f"{base}.{alias.name}".strip(".") if alias.name != "*" else base, node.level) for alias in node.names
            ]
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            first = node.body[0] if node.body else None
            if (
                isinstance(first, ast.Expr)
                and isinstance(first.value, ast.Constant)
                and isinstance(first.value.value, str)
            ):
                node.body = node.body[1:] or [ast.Pass()]
    return digest(ast.dump(tree, include_attributes=False)), tuple(dict.fromkeys(imports))


@lru_cache(maxsize=1)
def _distributions() -> dict[str, Distribution]:
    """The distribution that brings each top-level name: what `packages_distributions` finds, ten times as fast.

    That one makes a path object of every installed file.
    """
    found: dict[str, Distribution] = {}
    for distribution in distributions():
        names = (distribution.read_text("top_level.txt") or "").split()
        if not names:
            names = _TOP.findall(distribution.read_text("RECORD") or "")
        for name in dict.fromkeys(names):
            found.setdefault(name, distribution)
    return found


_TOP = re.compile(r"^([^/,\n.]+)(?:/|\.py,)", re.MULTILINE)
"""A top-level package or module in a RECORD."""


@lru_cache(maxsize=512)
def _installed_version(root: str) -> str | None:
    distribution = _distributions().get(root)
    return None if distribution is None else f"{distribution.name}=={distribution.version}"
