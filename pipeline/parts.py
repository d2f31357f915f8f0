"""The plug-ins of a spec, with their settings checked and every default written out."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from schemas.base import Contract, Part
from schemas.errors import SpecError, UserError
from schemas.labels import Views
from schemas.spec import Spec
from schemas.training import Training
from stages.registry import validate_settings


@dataclass
class NormalParts:
    """Settings as fingerprints see them, by the name of the part that they belong to."""

    task: Part
    prepare: dict[str, dict[str, Any]] = field(default_factory=dict)
    teacher_preprocessing: dict[str, dict[str, Any]] = field(default_factory=dict)
    student_preprocessing: dict[str, dict[str, Any]] = field(default_factory=dict)
    teacher_training: dict[str, Training] = field(default_factory=dict)
    student_training: dict[str, Training] = field(default_factory=dict)
    method: dict[str, Part] = field(default_factory=dict)
    views: dict[str, Views] = field(default_factory=dict)


def normal_parts(spec: Spec) -> NormalParts:
    """Check every plug-in's settings. Loads no torch. Raises SpecError with all faults at once."""
    from stages.students.methods import METHODS
    from stages.tasks import TASKS

    problems: list[str] = []

    def checked(config: type[Contract], settings: dict[str, Any], where: str) -> dict[str, Any]:
        try:
            result: Contract = validate_settings(config, settings, where)
        except UserError as error:
            problems.extend(error.problems)
            return {}
        return result.dump() if settings else {}

    task = TASKS.get(spec.task.name)
    try:
        parts = NormalParts(TASKS.normal(spec.task, "task"))
    except UserError as error:
        problems.extend(error.problems)
        parts = NormalParts(spec.task)

    def training(block: Training, where: str) -> Training:
        augmentation = checked(task.Augmentation, block.augmentation, f"{where}.training.augmentation")
        return block.model_copy(update={"augmentation": augmentation})

    for name, domain in spec.domains.items():
        parts.prepare[name] = checked(task.Prepare, domain.prepare, f"domains.{name}.prepare")
    for name, teacher in spec.teachers.items():
        where = f"teachers.{name}"
        parts.teacher_preprocessing[name] = checked(task.Preprocessing, teacher.preprocessing, f"{where}.preprocessing")
        parts.teacher_training[name] = training(teacher.training, where)
    for name, labels in spec.labels.items():
        settings = checked(task.Augmentation, labels.views.settings, f"labels.{name}.views.settings")
        parts.views[name] = labels.views.model_copy(update={"settings": settings})
    for name, student in spec.students.items():
        where = spec.where(name)
        parts.student_preprocessing[name] = checked(task.Preprocessing, student.preprocessing, f"{where}.preprocessing")
        parts.student_training[name] = training(student.training, where)
        try:
            parts.method[name] = METHODS.normal(student.method, f"{where}.method")
        except UserError as error:
            problems.extend(error.problems)
            parts.method[name] = student.method
    if problems:
        raise SpecError(*problems)
    return parts
