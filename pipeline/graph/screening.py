"""Steps that judge teachers before they label, and what is said of those that are too weak."""

from __future__ import annotations

from collections.abc import Iterator
from statistics import mean

from pipeline.graph.project import Project
from pipeline.graph.steps import Graph, Outputs
from schemas.screening import ScreeningInputs, ScreeningOutputs
from stages.tasks import get_task


def add_screening(graph: Graph, project: Project, teacher: str, domain: str) -> str | None:
    """`screening.TEACHER.DOMAIN`, once; None where no truth may be seen that it could be judged by."""
    budget = project.spec.domains[domain].label_budget
    if budget is not None and not budget.validation:
        return None
    name = _step(teacher, domain)
    if name in graph.steps:
        return name
    draws = [project.budget(domain, seed) for seed in project.draws(domain)]

    def inputs(done: Outputs) -> ScreeningInputs:
        made = done[f"teachers.{teacher}"]
        return ScreeningInputs(
            task=project.task,
            teacher=made.model,
            samples=done[f"domains.{domain}"].samples,
            classes=done[f"domains.{domain}"].classes or made.classes,
            budgets=tuple(done[draw].budget for draw in draws),
            metric=_metric(project),
        )

    return graph.add(name, (f"teachers.{teacher}", f"domains.{domain}", *draws), inputs)


def screening_notes(project: Project, done: Outputs) -> Iterator[str]:
    """One sentence on each teacher that is no better than a constant answer, or than a student without it."""
    task, metric = get_task(project.task), _metric(project)
    sign = -1.0 if metric in task.errors else 1.0
    pairs = ((item.teacher, project.domain(name)) for name, item in project.spec.labels.items() if item.teacher)
    for teacher, domain in dict.fromkeys(pairs):
        found = done.get(_step(str(teacher), domain))
        if not isinstance(found, ScreeningOutputs) or not found.draws:
            continue
        own = mean(draw.teacher for draw in found.draws)
        always = [draw.constant for draw in found.draws if draw.constant is not None]
        others = {"always the most frequent class": mean(always)} if always else {}
        others |= {f"student '{name}' without a teacher": figure for name, figure in _alone(project, done, domain)}
        better = {who: figure for who, figure in others.items() if sign * figure >= sign * own}
        if better:
            who, figure = max(better.items(), key=lambda item: sign * item[1])
            rows = " and ".join(dict.fromkeys(str(draw.rows) for draw in found.draws))
            shown = f"{rows} validation rows" + (f" (of {len(found.draws)} draws)" if len(found.draws) > 1 else "")
            told, theirs = (_shown(value, metric in task.unbounded) for value in (own, figure))
            yield (
                f"teacher '{teacher}' is weak on '{domain}': {metric} {told} on {shown}, where {who} has {theirs}. "
                f"Its labels may do harm: carry it over (`adapt: {{domain: {domain}}}`), or train a better one"
            )


def _alone(project: Project, done: Outputs, domain: str) -> Iterator[tuple[str, float]]:
    """Selection quality of students of a domain that had no teacher, as far as it is known."""
    metric = _metric(project)
    for name, student in project.spec.students.items():
        judged = done.get(f"evaluation.{name}")
        if judged is None or project.target(student) != domain:
            continue
        arms = [arm for arm in judged.table.arms if arm.arm == "no-teacher"]
        figures = [seed.selection[metric] for arm in arms for seed in arm.seeds if metric in seed.selection]
        if figures:
            yield name, mean(figures)


def _step(teacher: str, domain: str) -> str:
    return f"screening.{teacher}.{domain}"


def _metric(project: Project) -> str:
    """The metric that leads."""
    return (*project.spec.evaluation.metrics, get_task(project.task).metrics[0])[0]


def _shown(value: float, unbounded: bool) -> str:
    return f"{value:.3g}" if unbounded else f"{100 * value:.1f}"
