"""Steps that make students of others' weights."""

from __future__ import annotations

from pipeline.graph.project import Project
from pipeline.graph.steps import Graph, Outputs
from schemas.students import Ingredient, Pot, SoupInputs, StudentOutputs


def add_soup(graph: Graph, project: Project, name: str) -> None:
    """`students.NAME` of a soup, in the place of a training."""
    from stages.tasks import TASKS

    student = project.spec.students[name]
    soup, target = student.soup, project.target(student)
    assert soup is not None, "a soup"
    samples, split = project.data(target)
    seeds = student.seeds if project.has_budget(target) else (0,)
    metric = next(iter(project.spec.evaluation.metrics or TASKS.get(project.spec.task.name).metrics))

    def inputs(done: Outputs) -> SoupInputs:
        became = {(one.name, one.seed): one.model for part in soup.of for one in distilled(done, part)}
        return SoupInputs(
            name=name,
            task=project.task,
            model=student.model,
            how=soup.how,
            metric=metric,
            samples=done[samples].samples,
            split=done[split].split,
            pots=tuple(
                Pot(
                    seed=seed,
                    ingredients=tuple(
                        Ingredient(name=part, model=model)
                        for part in soup.of
                        if (model := became.get((part, seed))) is not None
                    ),
                    budget=done[project.budget(target, seed)].budget,
                )
                for seed in student.seeds
            ),
        )

    needs = [*(f"students.{part}" for part in soup.of), *project.data(target, *seeds)]
    graph.add(f"students.{name}", needs, inputs, stage="soups")


def distilled(done: Outputs, student: str) -> list[StudentOutputs]:
    """What became of a student itself, by seed."""
    return [one for one in done[f"students.{student}"].students if one.arm == "distilled"]
