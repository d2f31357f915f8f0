"""Steps that make teachers and let them speak: training, taking as given, carrying over, labelling."""

from __future__ import annotations

from pipeline.graph.project import Project
from pipeline.graph.screening import add_screening
from pipeline.graph.steps import Graph, Outputs
from schemas.artifacts import HeldOut, SplitRef
from schemas.errors import SpecError
from schemas.labels import Fusion, LabelsInputs, Names
from schemas.spec import Adapt
from schemas.teachers import (
    AdaptTeacher,
    GivenTeacher,
    LabelledDomain,
    StudentTeacher,
    TeacherInputs,
    TrainTeacher,
)
from stages.classes import reordered


def add_teacher(graph: Graph, project: Project, name: str, after: tuple[str, ...]) -> None:
    """`teachers.NAME`."""
    teacher = project.spec.teachers[name]
    if teacher.from_ is not None and teacher.adapt is not None:
        _add_adapted(graph, project, name, f"teachers.{teacher.from_}", teacher.adapt)
        return
    if teacher.student is not None:
        _add_student(graph, project, name, teacher.student, teacher.seed)
        return
    targets = project.targets_of(name)
    needs = [step for domain in teacher.domains for step in project.data(domain, teacher.seed)]
    needs += [f"domains.{target}" for target in targets]

    def inputs(done: Outputs) -> TeacherInputs:
        own, classes = classes_of(project, done, name, targets)
        way: TrainTeacher | GivenTeacher
        if teacher.domains:
            way = TrainTeacher(
                domains=tuple(labelled(project, done, domain, teacher.seed) for domain in teacher.domains),
                training=project.normal.teacher_training[name],
                seed=teacher.seed,
            )
        else:
            way = GivenTeacher(weights=project.weights[teacher.weights] if teacher.weights else None)
        return TeacherInputs(
            task=project.task,
            model=teacher.model,
            classes=classes,
            own_classes=own if teacher.class_map else None,
            class_map=teacher.class_map,
            preprocessing=project.normal.teacher_preprocessing[name],
            way=way,
            held_out=held_out(project, done, *project.heirs(name)),
        )

    graph.add(f"teachers.{name}", needs, inputs, after=after)


def _add_adapted(graph: Graph, project: Project, name: str, parent: str, adapt: Adapt) -> None:
    samples, split = project.data(adapt.domain)
    graph.add(
        f"teachers.{name}",
        (parent, samples, split),
        lambda done: TeacherInputs(
            task=project.task,
            way=AdaptTeacher(
                method=adapt.method,
                teacher=done[parent].model,
                samples=done[samples].samples,
                split=done[split].split,
            ),
            held_out=held_out(project, done, *project.heirs(name)),
        ),
        after=tuple(step for target in project.heirs(name) for step in project.data(target)),
    )


def _add_student(graph: Graph, project: Project, name: str, student: str, seed: int) -> None:
    step, asked = f"students.{student}", project.spec.students[student]
    target = project.target(asked)
    samples, split, budget = project.data(target, seed if project.has_budget(target) else 0)
    labels = f"labels.{asked.labels}" if asked.labels else None

    def inputs(done: Outputs) -> TeacherInputs:
        became = next(one for one in done[step].students if one.arm == "distilled" and one.seed == seed)
        if became.model is None:
            raise SpecError(f"teachers.{name}: {step} of seed {seed} has no model: {became.failure or became.stopped}")
        return TeacherInputs(
            task=project.task,
            way=StudentTeacher(
                student=became.model,
                samples=done[samples].samples,
                split=done[split].split,
                budget=done[budget].budget,
                labels=done[labels].labels if labels else None,
            ),
            held_out=held_out(project, done, *project.heirs(name)),
        )

    graph.add(f"teachers.{name}", [step, samples, split, budget, *([labels] if labels else [])], inputs)


def held_out(project: Project, done: Outputs, *domains: str) -> tuple[HeldOut, ...]:
    """Domains whose test rows are nobody's to learn from, as far as they are there: no work rests on them."""
    steps = {domain: project.data(domain) for domain in domains}
    return tuple(
        HeldOut(samples=done[samples].samples, split=done[split].split, name=domain)
        for domain, (samples, split) in steps.items()
        if samples in done and split in done
    )


def split_of(done: Outputs, split: str) -> SplitRef | None:
    """The splits of a domain if they are there: labels are checked against them, and do not rest on them."""
    return done[split].split if split in done else None


def add_labels(graph: Graph, project: Project, name: str) -> None:
    """`labels.NAME`."""
    labels = project.spec.labels[name]
    domain = project.domain(name)
    samples, split = project.data(domain)
    if labels.fuse:
        _add_fused(graph, project, name)
        return
    if labels.teacher is None:
        graph.add(
            f"labels.{name}",
            (samples,),
            lambda done: LabelsInputs(
                task=project.task,
                given=project.given[name].ref,
                samples=done[samples].samples,
                require=labels.require,
                split=split_of(done, split),
                names=Names(domain=domain),
            ),
            after=(split,),
        )
        return
    teacher = f"teachers.{labels.teacher}"
    # Rounds measure their teachers themselves, one after the other.
    screening = None if project.spec.rounds else add_screening(graph, project, labels.teacher, domain)
    names = Names(teacher=labels.teacher, trained_on=project.trained_on(labels.teacher), domain=domain)
    graph.add(
        f"labels.{name}",
        (teacher, samples),
        lambda done: LabelsInputs(
            task=project.task,
            teacher=done[teacher].model,
            samples=done[samples].samples,
            encoding=labels.encoding,
            precision=labels.precision,
            batch_size=labels.batch_size,
            views=project.normal.views[name],
            difficulty=labels.difficulty,
            features=labels.features,
            require=labels.require,
            split=split_of(done, split),
            names=names,
            store=project.spec.store,
        ),
        after=(split, *([screening] if screening else [])),
    )


def _add_fused(graph: Graph, project: Project, name: str) -> None:
    labels, domain = project.spec.labels[name], project.domain(name)
    samples, split = project.data(domain)
    parents = {parent: f"labels.{parent}" for parent in labels.fuse}

    def inputs(done: Outputs) -> LabelsInputs:
        sets = {parent: done[step].labels for parent, step in parents.items()}
        for parent, ref in sets.items():
            if twin := next((other for other in sets if other != parent and sets[other].digest == ref.digest), None):
                raise SpecError(f"labels.{name}: '{parent}' and '{twin}' are one label set: fuse sets that differ")
        asked = labels.weights
        weights = (1.0,) * len(parents) if asked is None or asked == "selection" else asked
        return LabelsInputs(
            task=project.task,
            fuse=Fusion(sets=tuple(sets.values()), weights=weights, space=labels.space, ids=labels.ids),
            samples=done[samples].samples,
            encoding=labels.encoding,
            difficulty=labels.difficulty,
            require=labels.require,
            split=split_of(done, split),
            names=Names(teacher=" + ".join(parents), domain=domain),
            store=project.spec.store,
        )

    graph.add(f"labels.{name}", (*parents.values(), samples), inputs, after=(split,))


def labelled(project: Project, done: Outputs, domain: str, seed: int) -> LabelledDomain:
    """A domain with the truth that may be seen of it."""
    samples, split, budget = project.data(domain, seed)
    return LabelledDomain(samples=done[samples].samples, split=done[split].split, budget=done[budget].budget)


def classes_of(
    project: Project, done: Outputs, name: str, targets: list[str]
) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """(classes of a teacher's raw outputs, classes that it speaks of). Raises SpecError where sets do not match."""
    teacher = project.spec.teachers[name]
    wanted = {target: done[f"domains.{target}"].classes for target in targets}
    wanted = {target: classes for target, classes in wanted.items() if classes is not None}
    own = teacher.classes
    for domain in teacher.domains:
        classes = done[f"domains.{domain}"].classes
        if classes is None:
            raise SpecError(f"teachers.{name} is to be trained on '{domain}', which has no labels")
        if own is not None and set(classes) != set(own):
            raise SpecError(_mismatch(f"teachers.{name}", own, f"domain '{domain}'", classes))
        own = own or classes
    if own is None and wanted:
        own = next(iter(wanted.values()))
    if own is None:
        raise SpecError(f"teachers.{name}: nothing says which classes it speaks of: give `classes`")
    if teacher.class_map:
        return own, _mapped(name, teacher.class_map, own, wanted)
    for target, classes in wanted.items():
        if set(classes) != set(own):
            raise SpecError(_mismatch(f"teachers.{name}", own, f"domain '{target}'", classes))
    return own, own


def order_notes(project: Project, done: Outputs) -> list[str]:
    """Which domains name the classes of a teacher, or of given labels, in another order: as far as theirs are known."""
    spec, notes = project.spec, list[str]()
    classes = {name: domain.classes for name, domain in spec.domains.items()}
    classes |= {name: done[step].classes for name in classes if (step := f"domains.{name}") in done}
    for name, teacher in spec.teachers.items():
        own = teacher.classes or next((found for domain in teacher.domains if (found := classes.get(domain))), None)
        if own is None or teacher.class_map:
            continue
        for domain in dict.fromkeys((*teacher.domains, *project.heirs(name))):
            if (theirs := classes.get(domain)) and theirs != own and set(theirs) == set(own):
                notes.append(reordered(f"teachers.{name}", f"domain '{domain}'"))
    for name, given in project.given.items():
        domain, own = project.domain(name), given.schema.classes
        if (theirs := classes.get(domain)) and theirs != own and set(theirs) == set(own):
            notes.append(reordered(f"labels.{name}", f"domain '{domain}'"))
    return notes


def _mapped(
    name: str, class_map: dict[str, str], own: tuple[str, ...], wanted: dict[str, tuple[str, ...]]
) -> tuple[str, ...]:
    """Classes behind a class map, in the targets' order."""
    where = f"teachers.{name}.class_map"
    unknown = sorted(set(class_map) - set(own))
    if unknown:
        raise SpecError(f"{where} names {', '.join(unknown)}, which are no classes of it")
    mapped = next(iter(wanted.values()), tuple(sorted(set(class_map.values()))))
    for target, classes in wanted.items():
        foreign = sorted(set(class_map.values()) - set(classes))
        if foreign:
            raise SpecError(f"{where} leads to {', '.join(foreign)}, which are no classes of domain '{target}'")
        empty = [item for item in classes if item not in class_map.values()]
        if empty:
            raise SpecError(f"{where} leads nothing to {', '.join(empty)} of domain '{target}'")
        if set(classes) != set(mapped):
            raise SpecError(_mismatch(f"domain '{next(iter(wanted))}'", mapped, f"domain '{target}'", classes))
    return mapped


def _mismatch(one: str, ours: tuple[str, ...], other: str, theirs: tuple[str, ...]) -> str:
    only_ours, only_theirs = [c for c in ours if c not in theirs], [c for c in theirs if c not in ours]
    return (
        f"the classes of {one} and {other} do not match (only the first: {_shown(only_ours)}; only the second: "
        f"{_shown(only_theirs)}): name them alike, or give the teacher a `class_map`"
    )


def _shown(names: list[str]) -> str:
    return ", ".join(names[:5]) + (f" and {len(names) - 5} more" if len(names) > 5 else "") or "none"
