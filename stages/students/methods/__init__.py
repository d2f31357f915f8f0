"""Methods: one file each. `METHODS` finds built-ins and entry points of `crossdistill.methods`."""

from __future__ import annotations

from schemas.base import Part
from schemas.training import Training
from stages.code import code_digest
from stages.registry import Registry
from stages.students.methods.base import Method
from stages.tasks.base import Task

METHODS: Registry[type[Method]] = Registry("method", "stages.students.methods", "METHOD", "crossdistill.methods")


def get_method(part: Part) -> Method:
    """The method of a student, configured. Raises SpecError for unknown names or settings."""
    return METHODS.get(part.name)(METHODS.configure(part, "method"))


def method_for(task: Task, part: Part, training: Training) -> Method:
    """The method of a student of a task: as it is, or one for each of the task's questions. Raises as `get_method`."""
    if not task.questions:
        return get_method(part)
    from stages.students.methods._questions import EachQuestion

    shares = training.shares([question.name for question in task.questions])
    return EachQuestion([get_method(part) for _ in shares], task.questions, shares)


def method_code(part: Part) -> dict[str, str]:
    """Digests of the source of a method and of those that it calls, for fingerprints. Raises as `get_method`."""
    names = (part.name, *get_method(part).rests_on)
    return {f"method {name}": code_digest(METHODS.target(name)) for name in names}
