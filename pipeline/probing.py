"""Models tried before the work: built and fed one batch in a subprocess, the verdict kept in the workspace.

With nothing new to try this costs a few reads and loads no torch; one subprocess tries all that is new.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Collection, Iterator
from typing import Any

from pipeline.graph.project import Project
from pipeline.parts import normal_parts
from pipeline.specs import LoadedSpec
from pipeline.workspace import readable
from schemas.models import ProbeInputs, ProbeVerdict
from schemas.spec import Spec
from schemas.training import Training
from stages.context import Context
from stages.students.methods import get_method
from stages.tasks import get_task
from stages.training.probe import probe_key

UNKNOWN_CLASSES = ("first", "second")
"""Stand in while a domain is not packed: the factory is tried, the weights wait."""
TIMEOUT_S = 120
"""Most seconds that one subprocess may take."""


def try_models(loaded: LoadedSpec, outputs: dict[str, Any], context: Context) -> list[str]:
    """One sentence for every model that does not build or gives another shape."""
    asked: dict[bytes, tuple[ProbeInputs, list[str]]] = {}  # the points of a grid mostly ask for one and the same model
    for where, inputs in _wanted(loaded, outputs):
        asked.setdefault(inputs.to_json(), (inputs, []))[1].append(where)
    verdicts: dict[str, ProbeVerdict] = {}
    new: dict[str, ProbeInputs] = {}
    places: dict[str, list[str]] = {}
    for inputs, wheres in asked.values():
        key = probe_key(inputs)
        places.setdefault(key, []).extend(wheres)
        verdict = readable(ProbeVerdict, context.workspace.read_or_none(f"probes/models/{key}.json"))
        if verdict is not None:
            verdicts[key] = verdict
        else:
            new[key] = inputs
    if new:
        context.tell("note", f"trying {', '.join(dict.fromkeys(item.model.name for item in new.values()))}")
        for key, verdict in zip(new, _run(loaded, list(new.values())), strict=True):
            if verdict.problem is None:  # a fault may lie in the environment: it is tried again
                context.workspace.remove(f"probes/models/{key}.json")  # what stands there is damaged
                context.workspace.put_new(f"probes/models/{key}.json", verdict.to_json())
            verdicts[key] = verdict
    problems = [
        f"{where}: {verdicts[key].problem}"
        for key in verdicts
        if verdicts[key].problem
        for where in dict.fromkeys(places[key])
    ]
    fixed = {where for key in verdicts if not verdicts[key].statistics for where in places[key]}
    return problems or list(_not_adaptable(loaded.spec, fixed))


def _not_adaptable(spec: Spec, fixed: Collection[str]) -> Iterator[str]:
    """Teachers to be carried over whose model, at one of the places `fixed`, has no statistics to re-estimate."""
    for name, teacher in spec.teachers.items():
        made = name
        while (before := spec.teachers[made].from_) is not None:
            made = before
        student = spec.teachers[made].student
        where = f"teachers.{made}" if student is None else spec.where(student)
        if teacher.adapt is not None and f"{where}.model" in fixed:
            yield (
                f"teachers.{name}.adapt: the model of '{made}' has no batch-norm layers, so there is nothing to "
                f"re-estimate: use '{made}' as it is, without `adapt`"
            )


def _wanted(loaded: LoadedSpec, outputs: dict[str, Any]) -> Iterator[tuple[str, ProbeInputs]]:
    spec, normal = loaded.spec, normal_parts(loaded.spec)
    project = Project(spec, normal, {}, {})
    tokens = get_task(normal.task).vocabulary()
    storing = {project.root(item.teacher) for item in spec.labels.values() if item.teacher and item.features}

    def classes_of(domain: str | None) -> tuple[str, ...] | None:
        packed = outputs.get(f"domains.{domain}")
        if tokens is not None:
            return tokens
        return spec.domains[domain].classes or (packed.classes if packed else None) if domain else None

    for name, teacher in spec.teachers.items():
        if teacher.model is None:
            continue
        target = next((spec.domain_of(key) for key, item in spec.labels.items() if item.teacher == name), None)
        known = teacher.classes or classes_of(teacher.domains[0] if teacher.domains else target)
        asked = ProbeInputs(
            task=normal.task,
            model=teacher.model,
            classes=known or UNKNOWN_CLASSES,
            preprocessing=normal.teacher_preprocessing[name],
            weights=teacher.weights if known else None,
            storage=spec.storage,
            features=name in storing,
        )
        yield from _with_first(f"teachers.{name}", asked, teacher.training)
    for name, student in spec.students.items():
        domain = spec.domain_of(student.labels) if student.labels else student.domain
        known = classes_of(domain)
        asked = ProbeInputs(
            task=normal.task,
            model=student.model,
            classes=known or UNKNOWN_CLASSES,
            preprocessing=normal.student_preprocessing[name],
            weights=student.weights if known else None,
            storage=spec.storage,
            strict=False,
            features=(method := get_method(normal.method[name])).needs.features,
        )
        yield from _with_first(spec.where(name), asked, student.training)
        for model in method.models:
            own = {"model": model, "weights": None, "features": False}
            yield f"{spec.where(name)}.method", asked.model_copy(update=own)


def _with_first(where: str, asked: ProbeInputs, training: Training) -> Iterator[tuple[str, ProbeInputs]]:
    """A model, and the smaller one that its training begins with."""
    yield f"{where}.model", asked
    if (first := training.first_model) is not None:
        yield f"{where}.training.scaling.start", asked.model_copy(update={"model": first})


def _run(loaded: LoadedSpec, inputs: list[ProbeInputs]) -> list[ProbeVerdict]:
    """Verdicts in order. A model that ends or hangs the process has that for its verdict, and the rest go on."""
    verdicts: list[ProbeVerdict] = []
    while len(verdicts) < len(inputs):
        left = inputs[len(verdicts) :]
        found, ending = _try(loaded, left)
        verdicts += found
        if len(found) < len(left):
            verdicts.append(ProbeVerdict(key=probe_key(left[len(found)]), problem=ending))
    return verdicts


def _try(loaded: LoadedSpec, inputs: list[ProbeInputs]) -> tuple[list[ProbeVerdict], str]:
    """Verdicts of one subprocess as far as it came, and how it ended."""
    path = os.pathsep.join(filter(None, [os.environ.get("PYTHONPATH"), str(loaded.folder)]))
    command = [sys.executable, "-m", "stages.training.probe"]
    asked = json.dumps([item.dump() for item in inputs])
    try:
        answer = subprocess.run(
            command,
            input=asked,
            capture_output=True,
            text=True,
            timeout=TIMEOUT_S,
            env={**os.environ, "PYTHONPATH": path},
            check=False,
        )
        said, ending = (
            answer.stdout,
            f"the process that tried it ended without a verdict (exit code {answer.returncode})",
        )
        if answer.stderr.strip():
            ending += f": {answer.stderr.strip().splitlines()[-1]}"
    except subprocess.TimeoutExpired as late:
        said = (late.stdout or b"").decode()  # bytes, though text was asked for
        ending = f"it gave no answer in {TIMEOUT_S} s: does its module wait for something, or work, when imported?"
    return [ProbeVerdict.parse_json(line, "a model's verdict") for line in said.splitlines()], ending
