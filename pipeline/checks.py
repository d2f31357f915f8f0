"""What can be found wrong with a spec before any work starts: all of it, not one fault per try. Loads no torch."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator
from typing import Any

from pipeline.draws import draw_faults
from pipeline.ensembles import ensemble_faults
from pipeline.graph.project import ALONE, Project
from pipeline.graph.teachers import classes_of
from pipeline.parts import normal_parts
from pipeline.sides import side_faults
from pipeline.specs import LoadedSpec
from pipeline.trainings import needs_faults, question_faults, training_faults
from schemas.artifacts import WeightsRef
from schemas.encodings import Dense, Encoding
from schemas.errors import PACKAGES_OURS, ModelError, SpecError, UserError, did_you_mean
from schemas.labels import FEATURES, SAID, VIEWS, LabelSchema
from schemas.spec import Spec, Student
from stages.classes import class_columns
from stages.code import code_digest
from stages.places import Place

SECRET = re.compile(r"^[a-z0-9+.-]+://[^/@]+@")
"""A URI with credentials before its host."""


def check_spec(loaded: LoadedSpec, workspace: Place) -> None:
    """Raise SpecError with every fault that can be told without writing: names, settings, sources, weights, places."""
    spec = loaded.spec
    problems = [*_shadows(loaded), *_secrets(spec.dump(), ""), *_references(spec)]
    try:
        normal_parts(spec)
        problems += _task_faults(spec)
    except UserError as error:
        problems += error.problems
    problems += [*training_faults(spec), *_weights_faults(spec)]
    problems += [fault for place in _places(loaded, workspace) if (fault := place.unwritable())]
    if not problems:
        problems += _order_faults(spec)
    if not problems:
        problems += [*_label_faults(spec), *_source_faults(spec), *_class_faults(spec)]
        problems += [
            *needs_faults(spec),
            *question_faults(spec),
            *ensemble_faults(spec),
            *_cohort_faults(spec),
            *_halving_faults(spec),
            *_rounds_faults(spec),
        ]
        problems += side_faults(spec)
    if problems:
        raise SpecError(*dict.fromkeys(problems))


def _shadows(loaded: LoadedSpec) -> Iterator[str]:
    """The spec's folder is on the workers' import path: nothing in it may bear a name of ours."""
    from crossdistill import HOUSE

    if loaded.folder == HOUSE:
        return
    for name in PACKAGES_OURS:
        for path in (loaded.folder / name, loaded.folder / f"{name}.py"):
            if path.exists() and (path.suffix or any(path.glob("*.py"))):
                yield f"{path} shadows crossdistill's own package '{name}' in every worker: rename it, or move the spec"


def _secrets(value: Any, where: str) -> Iterator[str]:
    """Places that carry a user's name and password, anywhere in the spec."""
    if isinstance(value, dict):
        for key, item in value.items():
            yield from _secrets(item, f"{where}.{key}".lstrip("."))
    elif isinstance(value, list):
        for index, item in enumerate(value):
            yield from _secrets(item, f"{where}[{index}]")
    elif isinstance(value, str) and SECRET.match(value):
        yield f"{where} carries a secret: credentials come from the environment or the usual config files"


def _references(spec: Spec) -> Iterator[str]:
    def missing(where: str, kind: str, name: str | None, known: object) -> Iterator[str]:
        names = list(known)  # type: ignore[call-overload]
        if name is not None and name not in names:
            yield f"{where}: no {kind} is called '{name}'{did_you_mean(name, names)}"

    for name, teacher in spec.teachers.items():
        where = f"teachers.{name}"
        for domain in teacher.domains:
            yield from missing(f"{where}.domains", "domain", domain, spec.domains)
        yield from missing(f"{where}.from", "teacher", teacher.from_, spec.teachers)
        yield from missing(f"{where}.student", "student", teacher.student, spec.students)
        if teacher.student in spec.students and teacher.seed not in (seeds := spec.students[teacher.student].seeds):
            known = ", ".join(map(str, seeds))
            yield f"{where}.seed: student '{teacher.student}' is trained with seed {known}, not with {teacher.seed}"
        if teacher.adapt is not None:
            yield from missing(f"{where}.adapt.domain", "domain", teacher.adapt.domain, spec.domains)
        trail = [name]
        while (parent := spec.teachers[trail[-1]].from_) in spec.teachers and parent is not None:
            if parent in trail:
                yield f"{where}: made from itself, by way of {' -> '.join([*trail, parent])}"
                break
            trail.append(parent)
    for name, labels in spec.labels.items():
        yield from missing(f"labels.{name}.teacher", "teacher", labels.teacher, spec.teachers)
        yield from missing(f"labels.{name}.domain", "domain", labels.domain, spec.domains)
        for parent in labels.fuse:
            yield from missing(f"labels.{name}.fuse", "label set", parent, spec.labels)
        if circle := _circle(spec, (name,)):
            yield f"labels.{name}: fused with itself, by way of {' -> '.join(circle)}"
            continue
        for parent in labels.fuse:
            own, other = spec.domain_of(name), spec.domain_of(parent)
            if parent in spec.labels and own != other:
                yield f"labels.{name}: it speaks of domain '{own}', and '{parent}', which it fuses, of '{other}'"
    for name, student in spec.students.items():
        where = spec.where(name)
        yield from missing(f"{where}.labels", "label set", student.labels, spec.labels)
        yield from missing(f"{where}.domain", "domain", student.domain, spec.domains)
        yield from missing(f"{where}.start", "teacher", student.start, spec.teachers)
        if student.labels is None and student.method.name != "none":
            yield f"{where}: method '{student.method.name}' learns from labels: give `labels`, or use method none"
        if student.calibrate and not _can_calibrate(spec, student):
            yield f"{where}: `calibrate` fits the labels of a teacher to validation labels: give both, or leave it out"
        if spec.resources.data_parallel and (settings := student.training.of_one_rank):
            yield f"{where}: {', '.join(settings)} needs whole batches on one worker: leave out `data_parallel`"
        if student.labels is None and student.domain is None:
            yield f"{where}: nothing says which domain it is for: give `labels` or `domain`"
        spoken = None if student.labels is None else spec.domain_of(student.labels)
        if spoken is not None and student.domain not in (None, spoken):
            yield (
                f"{where}: labels '{student.labels}' speak of domain '{spoken}', "
                f"not of '{student.domain}': leave out `domain`"
            )
    for name, described in spec.domains.items():
        if described.split is None and "" in described.from_.places:
            example = "{train: 0.8, validation: 0.1, test: 0.1}"
            yield f"domains.{name}: give `split` (such as {example}), or one place per split"
        if described.split is not None and "" not in described.from_.places:
            yield f"domains.{name}: the source comes in one place per split: leave out `split`"


def _order_faults(spec: Spec) -> Iterator[str]:
    """Circles, and students that start from a teacher which is another model."""
    project = Project(spec, normal_parts(spec), {}, {})
    try:
        project.in_order()
    except SpecError as error:
        yield from error.problems
        return
    for name, student in spec.students.items():
        if student.pretrain and (project.source(student) is None or project.maps_classes(student)):
            yield (
                f"{spec.where(name)}.pretrain: the source is where its teacher was trained, and none with its "
                "classes is known: leave it out, or `start` from a teacher"
            )
        if student.start is None:
            continue
        model, _ = project.made_like(student.start)
        if model is not None and model != student.model:
            yield (
                f"{spec.where(name)}.start: teacher '{student.start}' is a {model.name} and the student a "
                f"{student.model.name}: weights go over between equal models only"
            )
        if spec.teachers[project.root(student.start)].class_map:
            yield f"{spec.where(name)}.start: teacher '{student.start}' has other classes behind a `class_map`"
    yield from draw_faults(project)


def _can_calibrate(spec: Spec, student: Student) -> bool:
    if student.labels not in spec.labels:
        return False
    domain = spec.domains.get(str(spec.domain_of(str(student.labels))))
    return domain is None or domain.label_budget is None or domain.label_budget.validation > 0


def _circle(spec: Spec, trail: tuple[str, ...]) -> tuple[str, ...] | None:
    """The way from a label set over those that it fuses back to itself."""
    for parent in spec.labels[trail[-1]].fuse if trail[-1] in spec.labels else ():
        if parent == trail[0]:
            return (*trail, parent)
        if parent not in trail and (found := _circle(spec, (*trail, parent))):
            return found
    return None


def _task_faults(spec: Spec) -> Iterator[str]:
    from stages.domains.sources import check_source
    from stages.tasks import get_task

    task = get_task(spec.task)
    for place, metric in enumerate(spec.evaluation.metrics):
        forced = [task.forced_metric] if task.forced_metric else []
        if metric not in (metrics := (*task.metrics, *task.of_classes, *forced)):
            known = did_you_mean(metric, metrics)
            yield f"evaluation.metrics: task '{spec.task.name}' has no metric '{metric}'{known}"
        if metric in forced and place == 0:
            yield f"evaluation.metrics: '{metric}' is told beside others and cannot lead: put another first"
    for name, domain in spec.domains.items():
        for problem in check_source(domain.from_, domain.columns, task.roles, task.optional, task.labels):
            yield f"domains.{name}: {problem}"
        if task.coded and domain.label_budget is not None and domain.label_budget.without:
            yield (
                f"domains.{name}.label_budget.without: samples of '{spec.task.name}' have no one class that they could "
                "be left out by: leave it out"
            )
    for name, teacher in spec.teachers.items():
        if teacher.class_map and task.forces:
            yield (
                f"teachers.{name}.class_map: what models of '{spec.task.name}' say is of the task's own classes: leave "
                "it out, and bring a model of these"
            )
    for where, part in dict.fromkeys(_models(spec)):
        if ":" in part:
            try:
                code_digest(part)
            except ModelError as error:
                yield f"{where}: {error}"
        library, slash, _ = part.partition("/")
        elsewhere = ":" in part or (slash and f"{library}/NAME" in task.libraries)
        if not elsewhere and part not in task.models:
            others = ", ".join([*task.libraries, "package.module:factory"])
            yield (
                f"{where}: task '{spec.task.name}' has no model '{part}'{did_you_mean(part, task.models)} "
                f"(or give {others})"
            )


def _label_faults(spec: Spec) -> Iterator[str]:
    """Labels that a student's method cannot learn from, or encodings that the classes cannot have."""
    from stages.labels.encodings import check_temperatures, codec_of
    from stages.tasks import get_task

    task = get_task(spec.task)
    for name, labels in spec.labels.items():
        if labels.from_ is None:
            beside = [
                *labels.difficulty,
                *([FEATURES] if labels.features else []),
                *([SAID] if task.forces and SAID in task.recalls else []),
                *([VIEWS] if labels.views.count > 1 else []),
            ]
            read = Dense() if labels.weighed_by_students else labels.encoding  # a mean has every class
            yield from method_faults(spec, name, read, beside)
    for name, labels in spec.labels.items():
        for parent in labels.fuse:
            try:
                check_temperatures(spec.labels[parent].encoding, (1.0,))
            except UserError as error:
                yield f"labels.{name}.fuse: '{parent}' cannot be fused: {error}"
        domain = spec.domain_of(name)
        classes = spec.domains[domain].classes if domain in spec.domains else None
        if classes is not None:
            try:
                codec_of(labels.encoding, len(classes))
            except UserError as error:
                yield f"labels.{name}.encoding: {error}"


def given_faults(spec: Spec, labels: str, schema: LabelSchema, views: int = 1) -> Iterator[str]:
    """What keeps a spec from using labels of another store: its students' methods, or classes that its domain names."""
    from stages.tasks import get_task

    yield from method_faults(
        spec, labels, schema.encoding, [*(field.name for field in schema.fields), *([VIEWS] if views > 1 else [])]
    )
    domain, task = str(spec.domain_of(labels)), get_task(spec.task)
    own = task.vocabulary()
    if own is not None and task.forces and tuple(schema.classes) != own:
        if task.label_shape.kind == "token":
            yield (
                f"labels.{labels}: the set speaks of {len(schema.classes):,} tokens, `task.says` of {len(own):,} "
                "others: set `says` to the set's tokenizer, or distil what its teacher said, which needs no shared "
                "tokens: export its translations, and give them as the labels of a domain"
            )
        else:
            shown = ", ".join(schema.classes[:5])
            yield f"labels.{labels}: it speaks of other classes, or in another order: set `task.classes` to {shown}, …"
        return
    classes = own or spec.domains[domain].classes
    if classes is not None:
        try:
            class_columns(schema.classes, classes, "the label set", "the task" if own else f"domain '{domain}'")
        except UserError as error:
            yield f"labels.{labels}: {error}"


def method_faults(spec: Spec, labels: str, encoding: Encoding, beside: Collection[str]) -> Iterator[str]:
    """What keeps the students of a label set from learning from it: its encoding, or fields that it does not hold."""
    from stages.students.methods import method_for
    from stages.tasks import get_task

    task = get_task(spec.task)
    for name, student in spec.students.items():
        if student.labels == labels:
            try:
                method_for(task, student.method, student.training).needs.check_labels(encoding, beside)
            except UserError as error:
                yield from (
                    f"{spec.where(name)}.method: '{student.method.name}': {problem}" for problem in error.problems
                )


def _source_faults(spec: Spec) -> Iterator[str]:
    """Methods and trainings that read rows of a source that nothing names, or whose truth says something else."""
    from stages.students.methods import get_method

    project = Project(spec, normal_parts(spec), {}, {})
    for name, student in spec.students.items():
        where, share = spec.where(name), student.training.source_share
        if share and project.maps_classes(student):
            yield (
                f"{where}.training.source_share: its teacher was trained on other classes than it speaks of, so the "
                "truth of the source is not the student's: leave it out"
            )
        if project.source(student) is not None:
            continue
        wanting = [f"method: '{student.method.name}'"] if get_method(student.method).needs.source else []
        wanting += ["training.source_share: it"] if share else []
        for what in wanting:
            yield (
                f"{where}.{what} reads rows of the source domain, and there is none: "
                "give it labels of a teacher that was trained on another domain here"
            )


def _cohort_faults(spec: Spec) -> Iterator[str]:
    """Students that are pinned to one cohort and read different streams."""
    project = Project(spec, normal_parts(spec), {}, {})
    first: dict[str, str] = {}
    for name, student in spec.students.items():
        if not student.cohort or student.cohort in ALONE:
            continue
        other = first.setdefault(student.cohort, name)
        ours, theirs = (
            {"domain": project.target(spec.students[who]), **project.stream_settings(who, on_source=False)}
            for who in (name, other)
        )
        if differing := [key for key in ours if ours[key] != theirs[key]]:
            key = differing[0]
            yield (
                f"{spec.where(name)}.cohort: '{student.cohort}' cannot hold both {other} and {name}: a cohort reads "
                f"one stream, and their `{key}` differs ({theirs[key]} and {ours[key]}): give them the same, or leave "
                "out `cohort`"
            )


def _halving_faults(spec: Spec) -> Iterator[str]:
    """Grids to be halved by a selection quality that there is not."""
    project = Project(spec, normal_parts(spec), {}, {})
    for name, student in spec.students.items():
        if student.halving is None:
            continue
        domain = spec.domains[project.target(student)]
        nothing = domain.label_budget is not None and domain.label_budget.validation == 0
        if nothing or (domain.split is not None and domain.split.validation == 0):
            yield (
                f"{spec.where(name)}.halving compares by selection quality, and domain '{project.target(student)}' has "
                "no validation labels: give it some (`label_budget`, `split`), or leave `halving` out"
            )


def _rounds_faults(spec: Spec) -> Iterator[str]:
    """What no policy can work with."""
    from pipeline.rounds import POLICIES
    from stages.tasks import TASKS

    rounds = spec.rounds
    if rounds is None:
        return
    try:
        POLICIES.normal(rounds.policy, "rounds.policy")
    except UserError as error:
        yield from error.problems
    task = TASKS.get(spec.task.name)
    if task.forces or task.coded:
        yield f"rounds: policies go by the one class of a sample, which those of '{spec.task.name}' lack: leave out"
    metrics = task.metrics
    for metric in rounds.until:
        if metric not in metrics:
            yield f"rounds.until: no metric is called '{metric}'{did_you_mean(metric, metrics)}"
    if spec.soups:
        yield "rounds: soups go through no rounds: leave out `soups`, or `rounds`"
    if not spec.students:
        yield "rounds: there are no students to go from round to round with"
    for name, student in spec.students.items():
        if student.labels is None:
            yield f"{spec.where(name)}: rounds are of students with `labels`: leave it out, or leave out `rounds`"
        if student.point is not None and spec.where(name) == f"students.{student.point.grid}":
            yield f"{spec.where(name)}.grid: the points of a grid go through no rounds: leave out `grid`, or `rounds`"


def _class_faults(spec: Spec) -> Iterator[str]:
    """Class sets that do not match, where the spec itself names them; others are compared once the data is packed."""
    project = Project(spec, normal_parts(spec), {}, {})
    declared = {f"domains.{name}": domain for name, domain in spec.domains.items() if domain.classes is not None}
    for where, domain in declared.items():
        if domain.label_budget is not None:
            try:
                domain.label_budget.left_out(domain.classes or (), f"{where}.label_budget")
            except UserError as error:
                yield from error.problems
    for name, teacher in spec.teachers.items():
        targets = [target for target in project.targets_of(name) if f"domains.{target}" in declared]
        known = teacher.classes is not None or bool(teacher.domains)
        if teacher.from_ is None and known and all(f"domains.{domain}" in declared for domain in teacher.domains):
            try:
                classes_of(project, declared, name, targets)
            except UserError as error:
                yield from error.problems


def _models(spec: Spec) -> Iterator[tuple[str, str]]:
    for name, teacher in spec.teachers.items():
        if teacher.model is not None:
            yield f"teachers.{name}.model", teacher.model.name
        if (first := teacher.training.first_model) is not None:
            yield f"teachers.{name}.training.scaling.start", first.name
    for name, student in spec.students.items():
        yield f"{spec.where(name)}.model", student.model.name
        if (first := student.training.first_model) is not None:
            yield f"{spec.where(name)}.training.scaling.start", first.name


def _weights_faults(spec: Spec) -> Iterator[str]:
    for where, uri in dict.fromkeys(_weights(spec)):
        folder, _, file = uri.rpartition("/")
        try:
            found = Place(folder, spec.storage).stat(file)
            if found is None or found.folder:
                yield f"{where}: {'there is no file' if found is None else 'it is a folder, not a file:'} {uri}"
        except UserError as error:
            yield f"{where}: {error}"


def _weights(spec: Spec) -> Iterator[tuple[str, str]]:
    for name, teacher in spec.teachers.items():
        if teacher.weights is not None:
            yield f"teachers.{name}.weights", teacher.weights
    for name, student in spec.students.items():
        if student.weights is not None:
            yield f"{spec.where(name)}.weights", student.weights


def read_givens(loaded: LoadedSpec, workspace: Place) -> tuple[dict[str, str], dict[str, WeightsRef]]:
    """(source digest by domain, weights by place): what the user brings, known by its bytes.

    Large sources are read once: their digests are kept in the workspace by size and time of change.
    """
    from stages.domains.sources import source_digest
    from stages.tasks import TASKS
    from stages.training.weights import weights_digest

    spec = loaded.spec
    files = TASKS.get(spec.task.name).files
    digests = {
        name: source_digest(domain.from_, workspace, domain.columns, files) for name, domain in spec.domains.items()
    }
    places = dict.fromkeys(uri for _, uri in _weights(spec))
    return digests, {uri: WeightsRef(uri=uri, digest=weights_digest(uri, spec.storage)) for uri in places}


def check_places(loaded: LoadedSpec, workspace: Place) -> None:
    """Probe workspace and store once for safe commits; the verdict is kept in the workspace.

    Raises PlaceError for a place that cannot be written or lets two writers win.
    """
    for place in _places(loaded, workspace):
        if not place.exists("probes/safe"):
            place.probe()
            place.put_new("probes/safe", b"16 writers, one winner\n")


def _places(loaded: LoadedSpec, workspace: Place) -> list[Place]:
    store = loaded.spec.store
    return [workspace] if store is None else [workspace, Place(store, loaded.spec.storage)]
