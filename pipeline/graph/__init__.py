"""Spec to graph: which steps there are, what each needs, and how its inputs follow from others' outputs.

A step's inputs are a function of the outputs of the steps that it needs, so its fingerprint is known as soon as
they exist. One file per part of the work, in its order: data, teachers (and labels), students, judging.
"""

from __future__ import annotations

from collections.abc import Mapping

from pipeline.graph.data import add_domain
from pipeline.graph.judging import Judge, judge_all
from pipeline.graph.project import Project
from pipeline.graph.screening import screening_notes
from pipeline.graph.soups import add_soup
from pipeline.graph.steps import Graph, Outputs, Step
from pipeline.graph.students import add_halving, add_student
from pipeline.graph.teachers import add_labels, add_teacher, order_notes
from pipeline.lock import Given
from pipeline.parts import normal_parts
from schemas.artifacts import WeightsRef
from schemas.spec import Spec

__all__ = ["Graph", "Judge", "Outputs", "Step", "build_graph", "judge_all"]


def build_graph(
    spec: Spec,
    source_digests: Mapping[str, str],
    weights: Mapping[str, WeightsRef],
    given: Mapping[str, Given] | None = None,
    judge: Judge = judge_all,
) -> Graph:
    """The graph of a checked spec (`pipeline.checks`), in which every name refers to something.

    `source_digests` by domain and `weights` by place come from `checks.places.read_givens`, `given` label sets by name
    from `pipeline.lock`. All data is made before anything is trained: its faults are found before the expensive
    work. `judge` adds the steps that judge what was made.
    """
    project = Project(spec, normal_parts(spec), source_digests, weights, given or {})
    graph = Graph()
    for name in spec.domains:
        add_domain(graph, project, name)
    data = tuple(graph.steps)
    for kind, name in project.in_order():
        if kind == "teachers":
            add_teacher(graph, project, name, after=data)
        elif kind == "labels":
            add_labels(graph, project, name)
        elif spec.students[name].soup is not None:
            add_soup(graph, project, name)
        else:
            add_halving(graph, project, name, after=data)
            add_student(graph, project, name, after=data)
    graph.cohorts = project.cohorts
    graph.remarks = lambda done: [*order_notes(project, done), *screening_notes(project, done)]
    graph.notes += _notes(project)
    judge(graph, project)
    return graph


def _notes(project: Project) -> list[str]:
    """How the spec was understood, where that is not plain."""
    notes: list[str] = []
    for target, domain in project.spec.domains.items():
        if domain.label_budget is not None and (hidden := domain.label_budget.without):
            tuned = ", and a teacher that rounds tune on true labels may forget them" if project.spec.rounds else ""
            notes.append(
                f"{target}: no true label shows {', '.join(hidden)}: selection quality, and all that it decides, says "
                f"nothing of them{tuned}"
            )
    for name in dict.fromkeys(one.labels for one in project.spec.students.values() if project.weighed(one)):
        sets = " and ".join(project.spec.labels[str(name)].fuse)
        notes.append(f"{name}: tables show the even mean of {sets}; each student weighs them on its own budget")
    for name, student in project.spec.students.items():
        wanted = [arm for arm in project.baselines(name) if arm.startswith("source")]
        if student.labels is None or student.soup is not None or not wanted:
            continue
        teacher, *others = project.said_by(student.labels)
        if teacher is None:
            notes.append(f"{name}: its labels come from a store, so {' and '.join(wanted)} are left out")
            continue
        root = project.root(teacher)
        domains = project.spec.teachers[root].domains
        if not domains:
            notes.append(
                f"{name}: teacher '{root}' is given, so its source is not known: {' and '.join(wanted)} are left out"
            )
        elif project.spec.teachers[root].class_map:
            notes.append(f"{name}: teacher '{root}' maps its classes onto others: {' and '.join(wanted)} are left out")
        elif len(domains) > 1 or any(_sources(project, other) != domains for other in others):
            whose = "teachers'" if others else "teacher's"
            notes.append(f"{name}: of its {whose} sources, its baselines are trained on the first, '{domains[0]}'")
    return notes


def _sources(project: Project, teacher: str | None) -> tuple[str, ...]:
    """Domains that a teacher goes back to; none where that is not known."""
    return project.spec.teachers[project.root(teacher)].domains if teacher is not None else ()
