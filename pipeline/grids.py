"""Grids of a spec: a student with `grid` becomes one student for each combination of its values. Pure.

A point is a student like any other from here on. Its name says its values, so that it stays the same when the grid
grows: `mobile-temperature-2-learning_rate-0.004`.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterator, Mapping
from typing import Any

from pydantic import ValidationError

from pipeline.soups import with_soups
from schemas.canonical import digest
from schemas.errors import SpecError, explain
from schemas.spec import Point, Spec, Student

NOT_VARIED = ("grid", "halving", "cohort", "seeds", "point")
"""Fields of a student that its points have in common."""
LONGEST = 80
"""Characters of a name."""


def parse_spec(value: dict[str, Any], where: str) -> Spec:
    """A spec from plain values, with every grid as its points.

    Raises ContractError or SpecError with one sentence per fault.
    """
    students = value.get("students")
    grids = {name: student for name, student in _mappings(students) if _is_grid(student.get("grid"))}
    problems = [fault for name, student in grids.items() for fault in _path_faults(name, student["grid"])]
    problems += [
        f"students.{name}: `point` is set where a grid becomes its points: leave it out"
        for name, student in _mappings(students)
        if "point" in student
    ]
    problems += [
        f"students.{name}: `soup` is set where one of `soups` becomes a student: write it there"
        for name, student in _mappings(students)
        if "soup" in student
    ]
    if problems:
        raise SpecError(*problems)
    # A grid is checked as the student that is its first point: what is wrong is told once, in the words of the file.
    first = {name: _varied(name, student, next(_combinations(student["grid"]))) for name, student in grids.items()}
    if isinstance(students, Mapping):
        value = {**value, "students": {**students, **first}}
    spec = Spec.parse(value, where)
    if not grids:
        return with_soups(spec)
    expanded: dict[str, Student] = {}
    for name, student in spec.students.items():
        made = {name: student} if name not in grids else dict(_points(name, grids[name], problems))
        problems += [f"students.{twice} stands twice: once it is a point of a grid" for twice in made.keys() & expanded]
        expanded |= made
    if problems:
        raise SpecError(*dict.fromkeys(problems))
    return with_soups(spec.model_copy(update={"students": expanded}))


def put(value: dict[str, Any], path: str, item: Any) -> None:
    """Set what stands at a dotted path, in place; a name with dots in it counts as one part where it is known.

    Mappings on the way are copied: an anchor's may stand in other places too. Raises SpecError for one that is none.
    """
    here: Any = value
    parts = path.split(".")
    while len(parts) > 1 and ".".join(parts) not in here:
        take = next(
            (n for n in range(len(parts) - 1, 0, -1) if isinstance(here, dict) and ".".join(parts[:n]) in here), 1
        )
        key, parts = ".".join(parts[:take]), parts[take:]
        if isinstance(here.get(key), str):  # a part given by its name alone
            here[key] = {"name": here[key]}
        inner = here.get(key, {})
        if not isinstance(inner, dict):
            raise SpecError(f"{path}: '{key}' holds {inner!r}, which has no parts")
        here[key] = dict(inner)
        here = here[key]
    here[".".join(parts)] = item


def point_name(grid: str, at: Mapping[str, Any]) -> str:
    """The name of the point of a grid with these values by path, or of all points that have these in common."""
    words = _words(list(at))
    name = "-".join([grid, *(f"{words[path]}-{_text(item)}" for path, item in at.items())])
    return name if len(name) <= LONGEST else f"{name[: LONGEST - 9]}-{digest(name)[:8]}"


def _mappings(students: Any) -> Iterator[tuple[str, Mapping[str, Any]]]:
    if isinstance(students, Mapping):
        yield from ((str(name), item) for name, item in students.items() if isinstance(item, Mapping))


def _is_grid(grid: Any) -> bool:
    """Whether a grid has the form of one; the contract tells what is wrong with another."""
    return (
        isinstance(grid, Mapping)
        and bool(grid)
        and all(isinstance(path, str) and isinstance(values, list) and values for path, values in grid.items())
    )


def _path_faults(name: str, grid: Mapping[str, Any]) -> Iterator[str]:
    for path in grid:
        if path.split(".")[0] in NOT_VARIED:
            yield f"students.{name}.grid: '{path}' is the same for all points of a grid: give it beside `grid`"
        for other in grid:
            if other.startswith(f"{path}."):
                yield f"students.{name}.grid: '{other}' is a part of '{path}', which is varied too: vary one of them"


def _combinations(grid: Mapping[str, list[Any]]) -> Iterator[dict[str, Any]]:
    """The points, the last path's values varying fastest."""
    for values in itertools.product(*grid.values()):
        yield dict(zip(grid, values, strict=True))


def _varied(name: str, student: Mapping[str, Any], at: Mapping[str, Any]) -> dict[str, Any]:
    """A student as written, with the values of one point in their places."""
    changed = {"method": Student.model_fields["method"].default.name, **student}
    for path, item in at.items():
        try:
            put(changed, path, item)
        except SpecError as error:
            raise SpecError(f"students.{name}.grid: {error}") from None
    return changed


def _points(name: str, student: Mapping[str, Any], problems: list[str]) -> Iterator[tuple[str, Student]]:
    """The students of a grid by name; what is wrong with a point goes to `problems`."""
    known: set[str] = set()
    for at in _combinations(student["grid"]):
        value = {**_varied(name, student, at), "grid": {}, "point": Point(grid=name, at=at)}
        own = point_name(name, at)
        if own in known:
            problems.append(f"students.{name}.grid: two points of it are {own}: give each value once")
        known.add(own)
        try:
            yield own, Student.model_validate(value)
        except ValidationError as error:
            problems += [f"students.{name}.grid, at {own}: {line}" for line in explain(error, Student)]


def _words(paths: list[str]) -> dict[str, str]:
    """What a name calls each path: its last part, or its last but one before `name`; in full where two would agree."""
    short = {path: [part for part in path.split(".") if part != "name"][-1:] or [path] for path in paths}
    words = {path: found[0] for path, found in short.items()}
    return {path: word if list(words.values()).count(word) == 1 else path for path, word in words.items()}


def _text(value: Any) -> str:
    """A value within a name: numbers and words as they are written, anything larger by its `name` and digest."""
    if isinstance(value, bool) or value is None:
        return str(value).lower()
    if isinstance(value, int | float):
        value = (f"{value:g}" if float(f"{value:g}") == value else repr(value)).replace("+", "")
    if isinstance(value, str):
        return re.sub(r"[^A-Za-z0-9._-]+", "-", value)
    head = f"{_text(value['name'])}-" if isinstance(value, Mapping) and isinstance(value.get("name"), str) else ""
    return head + digest(value)[:6]
