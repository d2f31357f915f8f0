"""What can be found wrong with the blocks `training:` of a spec before any work starts. Loads no torch."""

from __future__ import annotations

from collections.abc import Iterator

from schemas.errors import did_you_mean
from schemas.spec import Spec
from schemas.training import Training
from stages.students.methods import method_for
from stages.tasks import TASKS, get_task
from stages.tasks.base import Task
from stages.training.optim import optimizer_faults


def training_faults(spec: Spec) -> Iterator[str]:
    """One sentence for every setting that makes no sense for the teacher or student that it stands in."""
    task = TASKS.get(spec.task.name) if spec.task.name in TASKS.names() else None
    known = None if task is None else task.mixes
    for name, teacher in spec.teachers.items():
        if teacher.training.source_share is not None:
            yield (
                f"teachers.{name}.training.source_share is for students: give a teacher all of its `domains`, and "
                "`balance: {between: [domains]}`"
            )
    for name, student in spec.students.items():
        if (balance := student.training.balance) is not None and "domains" in balance.between:
            where = f"{spec.where(name)}.training.balance"
            yield f"{where}: a student balances its domains by `source_share`: leave `domains` out of `between`"
    for where, training, domains, given in _blocks(spec):
        if given and training.scaling is not None:
            yield f"{where}.scaling: it begins with a smaller model than the given `weights` are of: leave one out"
        for way in ("mixup", "cutmix"):
            if known is not None and training.mixing is not None and getattr(training.mixing, way) and way not in known:
                yield f"{where}.mixing: inputs of task '{spec.task.name}' cannot be mixed by {way}: leave it out"
        if task is not None and task.coded and training.balance is not None and "classes" in training.balance.between:
            yield f"{where}.balance: samples of '{spec.task.name}' have no one class to balance by: leave `classes` out"
        if task is not None and training.scaling is not None and task.priced is not Task.priced:
            yield (
                f"{where}.scaling: models of '{spec.task.name}' say more than classes (places), which a larger one "
                "cannot learn from a smaller: leave it out"
            )
        yield from (f"{where}.optimizer: {problem}" for problem in optimizer_faults(training))
        if training.early_stopping is not None and domains and not any(can_validate(spec, name) for name in domains):
            yield (
                f"{where}.early_stopping: it is decided on true validation labels, and {' and '.join(domains)} "
                "has none to use: raise `label_budget.validation`, or leave it out"
            )


def _blocks(spec: Spec) -> Iterator[tuple[str, Training, tuple[str, ...], bool]]:
    """(place, block, domains whose validation labels it may use, whether it starts from given weights)."""
    for name, teacher in spec.teachers.items():
        yield f"teachers.{name}.training", teacher.training, teacher.domains, teacher.weights is not None
    for name, student in spec.students.items():
        target = spec.domain_of(student.labels) if student.labels in spec.labels else student.domain
        domains = () if target is None else (target,)
        yield f"{spec.where(name)}.training", student.training, domains, student.weights is not None


def can_validate(spec: Spec, domain: str) -> bool:
    """Whether a domain has validation labels that may be used; one that the spec does not know is another fault."""
    described = spec.domains.get(domain)
    if described is None:
        return True
    if described.label_budget is not None and not described.label_budget.validation:
        return False
    return described.split.validation > 0 if described.split is not None else "validation" in described.from_.places


def question_faults(spec: Spec) -> Iterator[str]:
    """Weights of questions that the task does not ask."""
    questions = [question.name for question in get_task(spec.task).questions]
    for where, training, _, _ in _blocks(spec):
        for name in training.question_weights.keys() - set(questions):
            known = did_you_mean(name, questions) if questions else ", which asks one thing: leave it out"
            yield f"{where}.question_weights: '{name}' is no question of task '{spec.task.name}'{known}"


def needs_faults(spec: Spec) -> Iterator[str]:
    """Methods that need what a training, a task or a domain does not give."""
    task = get_task(spec.task)
    for name, student in spec.students.items():
        needs, where = method_for(task, student.method, student.training).needs, spec.where(name)
        domain = str(spec.domain_of(student.labels) if student.labels else student.domain)
        if (fault := needs.fault_with(task)) is not None:
            yield f"{where}.method: '{student.method.name}' {fault}"
        if student.calibrate and task.coded:
            yield f"{where}.calibrate: samples of '{spec.task.name}' have no one class to fit labels to: leave it out"
        if needs.validation and not can_validate(spec, domain):
            yield (
                f"{where}.method: '{student.method.name}' follows what validation says, and '{domain}' has no "
                "validation labels: give it some (`label_budget`, `split`), or use another method"
            )
        if (needs.validation or needs.inputs) and spec.resources.data_parallel:
            yield f"{where}.method: '{student.method.name}' trains on one worker: leave out `data_parallel`"
        if needs.inputs and student.training.mixing is not None:
            yield f"{where}.training.mixing: the models of method '{student.method.name}' learn unmixed: leave it out"
