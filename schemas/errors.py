"""The tree of errors, and validation faults told to people.

    CrossdistillError            callers catch this
    ├── UserError                bad input of any kind: the user can mend it; exit code 2
    │   ├── ContractError        a document or setting that does not fit its contract
    │   ├── SpecError            a spec whose parts do not fit together
    │   ├── DataError            a row, a file or a domain
    │   ├── ModelError           a model, its weights, a factory or another plug-in
    │   ├── StoreError           a label store: broken, foreign or unfit
    │   │   └── LabelsMissing    samples without a label
    │   ├── PlaceError           a directory or bucket that cannot be used
    │   │   └── Busy             a workspace in use by another run
    │   ├── MissingUpstream      a stage was asked for alone, and what it needs is not made
    │   └── TrainingFailed       a training that cannot go on (not finite, out of memory)
    ├── Interrupted              Ctrl-C; exit code 130
    └── InternalError            our failure; exit code 1

Every error survives a process boundary: its arguments are its messages, plain strings.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterator
from types import UnionType
from typing import Annotated, Any, Union, get_args, get_origin

from pydantic import BaseModel, ValidationError

PACKAGES_OURS = ("schemas", "stages", "pipeline", "crossdistill")
"""Top-level names that nothing of a user may bear."""


class CrossdistillError(Exception):
    """Root of the tree. `problems` holds one clear sentence per fault."""

    exit_code = 1

    def __init__(self, *problems: str) -> None:
        super().__init__(*problems)

    @property
    def problems(self) -> tuple[str, ...]:
        """One sentence per fault: what is wrong, where, and what mends it."""
        return tuple(str(arg) for arg in self.args)

    def __str__(self) -> str:
        return "\n".join(self.problems)


class UserError(CrossdistillError):
    """Bad input of any kind: the message says what, where, and the mend."""

    exit_code = 2


class ContractError(UserError):
    """A document or setting that does not fit its contract."""


class SpecError(UserError):
    """A spec whose parts do not fit together."""


class DataError(UserError):
    """A row, a file or a domain that cannot be used."""


class ModelError(UserError):
    """A model, its weights, a factory or another plug-in that cannot be used."""


class StoreError(UserError):
    """A label store that is broken, foreign or unfit."""


class LabelsMissing(StoreError):
    """Samples without a label."""


class PlaceError(UserError):
    """A directory or bucket that cannot be used."""


class Busy(PlaceError):
    """A workspace in use by another run."""


class MissingUpstream(UserError):
    """A stage was asked for alone, and what it needs is not made."""


class TrainingFailed(UserError):
    """A training that cannot go on."""


class Interrupted(CrossdistillError):
    """Stopped by Ctrl-C; what is finished is kept."""

    exit_code = 130


class InternalError(CrossdistillError):
    """Our failure: short, with the place of the full log."""


NAME_PATTERN = r"^[A-Za-z0-9][A-Za-z0-9._-]{0,79}$"
DIGEST_PATTERN = r"^[0-9a-f]{32}$"
PATTERNS = {
    NAME_PATTERN: "a name: up to 80 letters, digits, dots, underscores and hyphens, a letter or digit first",
    DIGEST_PATTERN: "a digest: 32 hexadecimal digits",
}
"""Patterns in words."""


def did_you_mean(word: str, known: list[str] | tuple[str, ...]) -> str:
    """`; did you mean 'x'?`, or the known words where none is near, or nothing."""
    near = difflib.get_close_matches(word, known, n=1, cutoff=0.6)
    if near:
        return f"; did you mean '{near[0]}'?"
    return f"; known: {', '.join(known)}" if known else ""


def explain(error: ValidationError, model: type[BaseModel]) -> Iterator[str]:
    """One sentence per fault of a failed validation, in the words of the file."""
    for fault in error.errors():
        where = ".".join(str(part) for part in fault["loc"])
        if fault["type"] == "extra_forbidden":
            word = str(fault["loc"][-1])
            known = sorted(_known_fields(model, fault["loc"][:-1]) - {word})
            yield f"unknown field '{where}'{did_you_mean(word, known)}"
        elif fault["type"] == "missing":
            yield f"'{where}' is missing"
        elif fault["type"] == "literal_error":
            known = re.findall(r"'([^']*)'", fault["ctx"]["expected"])
            near = did_you_mean(str(fault["input"]), known)
            yield f"{where}: it is one of {', '.join(known)}, not {fault['input']!r}{near if '?' in near else ''}"
        elif fault["type"] == "union_tag_invalid":
            known = re.findall(r"'([^']*)'", fault["ctx"]["expected_tags"])
            tag, near = fault["ctx"]["tag"], did_you_mean(fault["ctx"]["tag"], known)
            yield f"{where}: it is one of {', '.join(known)}, not '{tag}'{near if '?' in near else ''}"
        elif fault["type"] == "string_pattern_mismatch":
            yield f"{where}: {fault['input']!r} is not {PATTERNS.get(fault['ctx']['pattern'], 'of the right form')}"
        else:
            message = fault["msg"].removeprefix("Value error, ")
            shown = "" if isinstance(fault["input"], dict | BaseModel) or not where else f" (found {fault['input']!r})"
            yield f"{where}: {message}{shown}" if where else message


def _known_fields(model: type[BaseModel], path: tuple[int | str, ...]) -> set[str]:
    """Names of the fields that stand at `path` in `model`."""
    here: list[Any] = [model]
    for part in path:
        here = [inner for kind in here for inner in _step(kind, part)]
    names: set[str] = set()
    for kind in _models(here):
        names |= {field.alias or name for name, field in kind.model_fields.items()}
    return names


def _models(kinds: list[Any]) -> Iterator[type[BaseModel]]:
    for kind in kinds:
        if isinstance(kind, type) and issubclass(kind, BaseModel):
            yield kind
        elif get_origin(kind) in (Annotated, Union, UnionType):
            yield from _models(list(get_args(kind)))


def _step(kind: Any, part: int | str) -> Iterator[Any]:
    origin = get_origin(kind)
    if origin in (Annotated, Union, UnionType):
        for inner in get_args(kind):
            if inner is not type(None) and (isinstance(inner, type) or get_origin(inner)):
                yield from _step(inner, part)
    elif origin in (list, tuple):
        yield get_args(kind)[0]
    elif origin is dict:
        yield get_args(kind)[1]
    elif isinstance(kind, type) and issubclass(kind, BaseModel):
        matched = False
        for name, field in kind.model_fields.items():
            if part in (name, field.alias):
                matched = True
                yield field.annotation
        if not matched:  # a tag of a union, or the name of one of its members
            yield kind
