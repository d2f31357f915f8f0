"""Whose truth a student is told by its teacher: a teacher that learned from one draw of a label budget tells of it.

A student of another seed has a draw of its own. It would know the truth of both, and its baselines of one.
"""

from __future__ import annotations

from collections.abc import Iterator

from pipeline.graph.project import Project


def draw_faults(project: Project) -> Iterator[str]:
    """Students of several seeds that are copies, or whose labels or first weights rest on another draw than theirs."""
    spec = project.spec
    for name, student in spec.students.items():
        target = project.target(student)
        budget = spec.domains[target].label_budget
        if (
            student.start
            and not student.pretrain
            and len(student.seeds) > 1
            and (budget is None or budget.seed is not None)
        ):
            yield (
                f"{spec.where(name)}.seeds: they start from the same weights and have the same true labels, so they "
                "are copies of each other: give it one seed, or `pretrain: true` in the place of `start`"
            )
        if budget is None or budget.seed is not None or not budget.train + budget.validation:
            continue
        for teacher in sorted(project.teachers_of(name)):
            draws = learned_draws(project, teacher, target)
            if other := sorted({draw for draw in draws for seed in student.seeds if draw != seed}):
                yield (
                    f"{spec.where(name)}: teacher '{teacher}' learned from draw {', '.join(map(str, other))} of the "
                    f"label budget of '{target}', and seeds of the student have draws of their own, so they would be "
                    f"told more truth than their baselines: set `domains.{target}.label_budget.seed: {other[0]}`, "
                    "which gives all seeds one draw, or give each seed a teacher"
                )


def learned_draws(project: Project, teacher: str, domain: str) -> set[int]:
    """Seeds of the draws of a domain's label budget that a teacher, or one that it is made from, learned from."""
    spec = project.spec
    found = spec.teachers[teacher]
    own = {found.seed} if domain in found.domains else set()
    if found.student is not None:
        student = spec.students[found.student]
        read = [project.target(student), project.mixed(found.student, "distilled")]
        read += [project.source(student)] if student.pretrain else []
        own |= {found.seed} if domain in read else set()
    return own.union(*(learned_draws(project, parent, domain) for parent in project.parents(teacher)))
