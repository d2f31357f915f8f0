"""The steps that rounds add to a graph: each round measured, and in the end the students of the best rounds judged."""

from __future__ import annotations

from statistics import mean

from pipeline.graph.judging import evaluation_of
from pipeline.graph.project import Project
from pipeline.graph.steps import Graph, Outputs
from pipeline.graph.students import classes_for
from pipeline.rounds._chains import Chain, step_of
from pipeline.rounds.base import at
from schemas.evaluation import Candidate, EvaluationInputs
from schemas.rounds import RoundInputs, RoundLine, Rounds, RoundSet, RoundsSection, RoundStudent
from schemas.spec import Spec
from schemas.students import Arm


def add_rounds(graph: Graph, project: Project, chains: list[Chain], rounds: Rounds) -> None:
    """`rounds.sSEED.N` of every chain."""
    for chain in chains:
        for number in range(1, len(chain.asked) + 1):
            _add_round(graph, project, chain, number, rounds)


def _add_round(graph: Graph, project: Project, chain: Chain, number: int, rounds: Rounds) -> None:
    from stages.evaluation.stage import chosen_metrics
    from stages.tasks import get_task

    asked = chain.asked[number - 1]
    names = [chain.named(at(name, number)) for name in asked.students]
    sets = list(dict.fromkeys(str(project.spec.students[name].labels) for name in names))
    target = project.target(project.spec.students[names[0]])
    samples, split, budget = project.data(target, chain.seed if project.has_budget(target) else 0)
    parent = [step_of(chain, number - 1)] if number > 1 else []
    metrics = chosen_metrics(get_task(project.task), project.spec.evaluation.metrics)

    def inputs(done: Outputs) -> RoundInputs:
        students = []
        for name in names:
            became = next(one for one in done[f"students.{name}"].students if one.arm == "distilled")
            labels = done[f"labels.{project.spec.students[name].labels}"].labels
            students.append(RoundStudent(name=name, model=became.model, failure=became.failure, labels=labels))
        return RoundInputs(
            policy=rounds.policy,
            task=project.task,
            number=number,
            seed=chain.seed,
            parent=done[parent[0]].round if parent else None,
            decision=asked.decision,
            state=dict(asked.state),
            students=tuple(students),
            sets=tuple(RoundSet(name=name, labels=done[f"labels.{name}"].labels) for name in sets),
            classes=classes_for(project, done, names[0]),
            samples=done[samples].samples,
            split=done[split].split,
            budget=done[budget].budget,
            metrics=metrics,
        )

    needs = [*(f"students.{name}" for name in names), *(f"labels.{name}" for name in sets), samples, split, budget]
    graph.add(step_of(chain, number), [*needs, *parent], inputs)


def add_results(graph: Graph, project: Project, chains: list[Chain], asked: Spec) -> None:
    """`evaluation.NAME.rN` of each round, and `evaluation.NAME` of the best rounds, for every student of the spec."""
    for name, student in asked.students.items():
        mine = [chain for chain in chains if chain.seed in student.seeds]
        for number in range(1, max(len(chain.past) for chain in mine) + 1):
            there = {chain.seed: number for chain in mine if len(chain.past) >= number}
            _add_judged(graph, project, name, at(name, number), there, mine, ())
        best = {chain.seed: chain.best for chain in mine}
        _add_judged(graph, project, name, name, best, mine, project.baselines(mine[0].named(at(name, 1))))


def _add_judged(
    graph: Graph,
    project: Project,
    name: str,
    subject: str,
    rounds: dict[int, int],
    chains: list[Chain],
    baselines: tuple[Arm, ...],
) -> None:
    """A student, of each chain as it was in some round, with the baselines that stand beside the first one."""
    chosen = {chain.seed: chain for chain in chains if chain.seed in rounds}
    names = {seed: chain.named(at(name, rounds[seed])) for seed, chain in chosen.items()}
    firsts = {seed: chain.named(at(name, 1)) for seed, chain in chosen.items()}
    target = project.target(project.spec.students[next(iter(names.values()))])
    labels = {seed: f"labels.{project.spec.students[own].labels}" for seed, own in names.items()}
    budgets = {seed: project.budget(target, seed if project.has_budget(target) else 0) for seed in names}
    trained = [f"students.{own}" for own in (*names.values(), *(firsts.values() if baselines else ()))]
    trained += [step for own in firsts.values() if baselines and (step := f"students.{own}.source") in graph.steps]

    def inputs(done: Outputs) -> EvaluationInputs:
        results = {(out.name, out.arm, out.seed): out for step in dict.fromkeys(trained) for out in done[step].students}
        candidates = []
        if baselines:
            seed = min(names)
            said = done[labels[seed]].labels
            candidates.append(Candidate(arm="teacher", seed=seed, labels=said, budget=done[budgets[seed]].budget))
        for arm in ("distilled", *baselines):
            for seed in names:
                found = results.get((names[seed] if arm == "distilled" else firsts[seed], arm, seed))
                if found is not None:
                    budget = done[budgets[seed]].budget
                    candidates.append(
                        Candidate(arm=found.arm, seed=seed, model=found.model, failure=found.failure, budget=budget)
                    )
        settings = project.spec.evaluation.model_copy(update={"baselines": baselines})
        asked = evaluation_of(project, done, subject, target, tuple(candidates), None)
        return asked.model_copy(update={"settings": settings})

    needs = [*trained, *labels.values(), *project.data(target), *budgets.values()]
    graph.add(f"evaluation.{subject}", needs, inputs)


def section(done: Outputs, chains: list[Chain], asked: Spec, rounds: Rounds) -> RoundsSection:
    """The rounds as the report shows them."""
    base, lines = chains[0].base, []
    for number in range(1, max(len(chain.records) for chain in chains) + 1):
        there = [chain.records[number - 1] for chain in chains if len(chain.records) >= number]
        final = {}
        for name in asked.students:
            judged = done.get(f"evaluation.{at(name, number)}")
            arms = [] if judged is None else [arm for arm in judged.table.arms if arm.arm == "distilled"]
            figures = [seed.final[base.metric] for arm in arms for seed in arm.seeds if base.metric in seed.final]
            if figures:
                final[name] = mean(figures)
        lines.append(RoundLine(number=number, chains=tuple(there), final=final))
    labelled = any(record.labelled for chain in chains for record in chain.records)
    return RoundsSection(
        policy=rounds.policy,
        guide=base.metric if labelled else "agreement and confidence",
        lines=tuple(lines),
        best={str(chain.seed): chain.best for chain in chains},
        ended={str(chain.seed): chain.ended or "" for chain in chains},
    )
