"""Tasks: one file each. `TASKS` finds built-ins and entry points of `crossdistill.tasks`."""

from __future__ import annotations

from schemas.base import Part
from stages.code import code_digest
from stages.registry import Registry
from stages.tasks.base import Task

TASKS: Registry[type[Task]] = Registry("task", "stages.tasks", "TASK", "crossdistill.tasks")


def get_task(part: Part) -> Task:
    """The task of a spec or of a stage's inputs, configured. Raises SpecError for unknown names or settings."""
    return TASKS.get(part.name)(TASKS.configure(part, "task"))


def task_code(part: Part, *models: Part | None) -> dict[str, str]:
    """Digests of the source of a task and of the user's own model factories, for fingerprints."""
    code = {f"task {part.name}": code_digest(TASKS.target(part.name))}
    for model in models:
        if model is not None and ":" in model.name:
            code[f"model {model.name}"] = code_digest(model.name)
    return code
