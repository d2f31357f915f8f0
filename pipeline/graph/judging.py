"""Steps that judge: quality of teachers and students, costs, and the report."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from typing import Any

from pipeline.graph.notes import training_notes
from pipeline.graph.project import Project
from pipeline.graph.steps import Graph, Outputs
from pipeline.graph.students import classes_for
from pipeline.grids import point_name
from schemas.base import Part
from schemas.evaluation import (
    IMPOSSIBLE,
    Candidate,
    CostCandidate,
    CostInputs,
    EvaluationInputs,
    GridSection,
    ReportInputs,
    Section,
)
from schemas.rounds import RoundsSection
from schemas.spec import Student
from schemas.students import Arm

Judge = Callable[[Graph, Project], None]
"""Adds the steps that judge what was made."""
NO_TRUTH = f"{IMPOSSIBLE} at a label budget of 0"
NO_START = "its start from the source failed"
NO_SOURCE = f"{IMPOSSIBLE} where the source of a given teacher is not known"
OTHER_CLASSES = f"{IMPOSSIBLE} where the source has other classes than the target"


def judge_all(graph: Graph, project: Project) -> None:
    """Every teacher and student, their costs, and the report."""
    for name in project.spec.teachers:
        add_teacher_evaluations(graph, project, name)
    for name in project.spec.students:
        add_student_evaluation(graph, project, name)
    add_costs(graph, project, {name: name for name in project.spec.students})
    add_report(graph, project)


def add_teacher_evaluations(graph: Graph, project: Project, name: str) -> None:
    """A teacher where it was trained, and on targets that another labels in its place."""
    teacher = project.spec.teachers[name]
    direct = {student.labels for student in project.spec.students.values()}
    labelled = {project.domain(item) for item in direct if item and project.spec.labels[item].teacher == name}
    targets = [target for target in project.targets_of(name) if target not in (*teacher.domains, *labelled)]
    for domain in (*(() if teacher.class_map else teacher.domains), *targets):
        _add_teacher(graph, project, name, domain)


def _add_teacher(graph: Graph, project: Project, name: str, domain: str) -> None:
    seed = project.draws(domain)[0]
    step, budget = f"teachers.{name}", project.budget(domain, seed)

    def inputs(done: Outputs) -> EvaluationInputs:
        judged = Candidate(arm="teacher", seed=seed, model=done[step].model, budget=done[budget].budget)
        return evaluation_of(project, done, name, domain, (judged,), None)

    graph.add(f"evaluation.{name}.{domain}", (step, *project.data(domain, seed)), inputs)


def add_student_evaluation(graph: Graph, project: Project, name: str) -> None:
    """`evaluation.NAME`: a student with its teacher beside it and its baselines against it."""
    student = project.spec.students[name]
    target = project.target(student)
    labels = f"labels.{student.labels}" if student.labels is not None else None
    trained = f"students.{name}"
    alone = trained if student.soup is None else f"students.{student.soup.of[0]}"  # a soup's baselines are its first's
    source = f"{alone}.source" if f"{alone}.source" in graph.steps else None
    seeds = student.seeds if project.has_budget(target) else (0,)
    steps = [step for step in (source, alone, trained) if step]
    needs = [*steps, *project.data(target, *seeds), *([labels] if labels else [])]

    def inputs(done: Outputs) -> EvaluationInputs:
        results = {(out.arm, out.seed): out for step in steps for out in done[step].students}
        reference = done[labels].labels if labels else None
        candidates: list[Candidate] = []
        if reference is not None:
            first = student.seeds[0]
            budget = done[project.budget(target, first)].budget
            candidates.append(Candidate(arm="teacher", seed=first, labels=reference, budget=budget))
        possible = project.arms(name)
        stopped = next((out.stopped for out in results.values() if out.stopped), None)
        shown: tuple[Arm, ...] = ("distilled", *project.baselines(name))
        for arm in shown:
            if labels is None and arm != "distilled":
                continue
            why = NO_START if arm in possible else NO_TRUTH
            if arm.startswith("source") and source is None:
                why = OTHER_CLASSES if project.maps_classes(student) else NO_SOURCE
            for seed in student.seeds:
                found = results.get((arm, seed))
                ended = stopped if found is None and arm in possible else found.stopped if found else None
                candidates.append(
                    Candidate(
                        arm=arm,
                        seed=seed,
                        model=found.model if found else None,
                        failure=found.failure if found else None if ended else why,
                        stopped=ended,
                        budget=done[project.budget(target, seed)].budget,
                    )
                )
        settings = project.spec.evaluation.model_copy(update={"baselines": project.baselines(name)})
        asked = evaluation_of(project, done, name, target, tuple(candidates), reference)
        return asked.model_copy(update={"settings": settings})

    graph.add(f"evaluation.{name}", needs, inputs, grid=project.of_grid(name, "evaluation"))


def evaluation_of(
    project: Project, done: Outputs, subject: str, domain: str, candidates: tuple[Candidate, ...], reference: Any
) -> EvaluationInputs:
    """What is asked of an evaluation on one domain."""
    samples, split = project.data(domain)
    return EvaluationInputs(
        subject=subject,
        domain=domain,
        task=project.task,
        candidates=candidates,
        samples=done[samples].samples,
        split=done[split].split,
        truth=done[samples].truth,
        reference=reference,
        settings=project.spec.evaluation,
    )


def add_costs(graph: Graph, project: Project, students: Mapping[str, str]) -> None:
    """`costs`: the teachers that labelled, and one seed of each student, by what they are built like.

    `students`: those of the spec, by the name that each is shown under.
    """
    spec = project.spec
    if not spec.evaluation.cost or not students:
        return
    asked_students = {shown: spec.students[name] for shown, name in students.items()}
    samples = f"domains.{project.target(next(iter(asked_students.values())))}"
    said = dict.fromkeys(student.labels for student in asked_students.values() if student.labels)
    asked = [teacher for name in said for teacher in project.said_by(name)]
    teachers = [name for name in dict.fromkeys(asked) if name is not None]
    needs = [samples, *(f"teachers.{name}" for name in teachers), *(f"students.{name}" for name in students.values())]

    def inputs(done: Outputs) -> CostInputs:
        from stages.evaluation.costs import host_description

        candidates: list[CostCandidate] = []
        for name in teachers:
            made = done[f"teachers.{name}"]
            model, preprocessing = project.made_like(name)
            shape = _architecture(project, model, made.classes, preprocessing)
            candidates.append(CostCandidate(name=name, model=made.model, architecture=shape))
        for shown, student in asked_students.items():
            name = students[shown]
            results = done[f"students.{name}"].students
            model = next((out.model for out in results if out.arm == "distilled" and out.model), None)
            if model is not None:
                classes = classes_for(project, done, name)
                shape = _architecture(project, student.model, classes, project.normal.student_preprocessing[name])
                candidate = CostCandidate(name=_built_like(shown, student), model=model, architecture=shape)
                if (candidate.name, shape) not in [(other.name, other.architecture) for other in candidates]:
                    candidates.append(candidate)
        return CostInputs(candidates=tuple(candidates), samples=done[samples].samples, host=host_description())

    graph.add("costs", needs, inputs)


def _built_like(name: str, student: Student) -> str:
    """What a student's cost goes by: points of a grid that are built alike have one name, and are measured once."""
    if student.point is None:
        return name
    built = {path: item for path, item in student.point.at.items() if path.split(".")[0] in ("model", "preprocessing")}
    return point_name(student.point.grid, built)


def _architecture(
    project: Project, model: Part | None, classes: tuple[str, ...], preprocessing: dict[str, Any]
) -> dict[str, Any]:
    return {
        "task": project.task.dump(),
        "model": model.dump() if model else None,
        "outputs": len(classes),
        "preprocessing": preprocessing,
    }


def add_report(
    graph: Graph,
    project: Project,
    shown: Collection[str] | None = None,
    sets: Collection[str] | None = None,
    rounds: Callable[[Outputs], RoundsSection] | None = None,
) -> None:
    """`report`: everything that was judged, in one place; only the evaluations in `shown` have tables of their own, and
    only the label sets in `sets` a line.
    """
    spec = project.spec
    evaluations = [step.name for step in graph.steps.values() if step.stage == "evaluation"]
    costs = ["costs"] if "costs" in graph.steps else []
    made_of = {name for name, student in spec.students.items() if student.soup or project.weighed(student)}
    told = [
        f"{kind}.{name}"
        for kind, parts in (("teachers", spec.teachers), ("students", spec.students))
        for name, part in parts.items()
        if part.training.balance or part.training.source_share or part.training.early_stopping or name in made_of
    ]

    def inputs(done: Outputs) -> ReportInputs:
        return ReportInputs(
            name=spec.name,
            budgets={name: str(domain.label_budget) for name, domain in spec.domains.items() if domain.label_budget},
            labels=tuple(
                Section(
                    name=name,
                    teacher=labels.teacher,
                    fuse=labels.fuse,
                    domain=project.domain(name),
                    rows=done[f"labels.{name}"].rows,
                    fingerprint=done[f"labels.{name}"].labels.fingerprint,
                    digest=done[f"labels.{name}"].labels.digest,
                )
                for name, labels in spec.labels.items()
                if sets is None or name in sets
            ),
            qualities=tuple(done[step].quality for step in evaluations if shown is None or step in shown),
            grids=tuple(
                GridSection(name=grid, points={name: point.at for name, point in points.items()})
                for grid, points in project.grids.items()
            ),
            rounds=rounds(done) if rounds is not None else None,
            costs=done["costs"].cost if costs else None,
            notes=(
                *graph.notes,
                *graph.remarks(done),
                *(note for step in told for note in training_notes(spec, step, done[step])),
            ),
        )

    looked = [step.name for step in graph.steps.values() if step.stage in ("screening", "rounds")]
    graph.add("report", [*looked, *(f"labels.{name}" for name in spec.labels), *evaluations, *costs, *told], inputs)
