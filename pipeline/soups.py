"""Soups of a spec: each becomes a student, which is like the first that it is made of. Pure."""

from __future__ import annotations

from collections.abc import Iterator

from schemas.errors import SpecError, did_you_mean
from schemas.spec import Soup, Spec, Student


def with_soups(spec: Spec) -> Spec:
    """A spec, its grids unfolded, with every soup among its students. Raises SpecError for soups that cannot be."""
    problems: list[str] = []
    made: dict[str, Student] = {}
    for name, soup in spec.soups.items():
        parts = [point for one in soup.of for point in _points(spec, one)]
        faults = list(_faults(spec, name, soup, parts))
        problems += faults
        if not faults:
            first = spec.students[parts[0]]
            seeds = tuple(seed for seed in first.seeds if all(seed in spec.students[one].seeds for one in parts))
            own = {"soup": Soup(of=tuple(parts), how=soup.how), "point": None, "halving": None, "seeds": seeds}
            made[name] = first.model_copy(update=own)
    if problems:
        raise SpecError(*problems)
    return spec.model_copy(update={"students": {**spec.students, **made}}) if made else spec


def _points(spec: Spec, name: str) -> list[str]:
    """The students that a name of a soup stands for."""
    points = [one for one, student in spec.students.items() if student.point and student.point.grid == name]
    return points or [name]


def _faults(spec: Spec, name: str, soup: Soup, parts: list[str]) -> Iterator[str]:
    """What keeps some students from being averaged."""
    where = f"soups.{name}"
    if name in spec.students:
        yield f"{where}: a student is called so too: give one of them another name"
    for one in parts:
        if one in spec.soups:
            yield f"{where}.of: '{one}' is a soup: name the students that it is made of"
        elif one not in spec.students:
            yield f"{where}.of: no student is called '{one}'{did_you_mean(one, list(spec.students))}"
    if len(set(parts)) < len(parts):
        yield f"{where}.of: a student stands in it twice: name each once"
    if any(one not in spec.students for one in parts):
        return
    first, *others = (spec.students[one] for one in parts)
    for one, other in zip(parts[1:], others, strict=True):
        for field, mend in ALIKE.items():
            if getattr(first, field) != getattr(other, field):
                yield f"{where}.of: '{parts[0]}' and '{one}' differ in `{field}`: {mend}"
    if first.labels is None and first.domain is None:
        return
    domain = spec.domain_of(first.labels) if first.labels is not None else first.domain
    budget = spec.domains[domain].label_budget if domain in spec.domains else None
    if soup.how == "greedy" and budget is not None and not budget.validation:
        yield (
            f"{where}: a greedy soup is chosen by validation labels, and '{domain}' has none: give it some "
            "(`label_budget.validation`), or `how: uniform`"
        )
    if not set(first.seeds).intersection(*(set(other.seeds) for other in others)):
        yield f"{where}.of: they have no seed in common: a soup is of students of one seed"


ALIKE = {
    "model": "weights are averaged between equal models only",
    "preprocessing": "they must read their input alike to be one model",
    "labels": "a soup is of students that learn from one label set",
    "domain": "a soup is of students of one domain",
}
"""Fields that the students of a soup have in common, and why."""
