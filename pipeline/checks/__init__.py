"""What can be found wrong with a spec before any work starts: all of it, not one fault per try. Loads no torch.

A file tells the faults of one kind, as sentences; `check_spec` asks them all.
"""

from __future__ import annotations

from pipeline.checks.cohorts import cohort_faults, halving_faults, rounds_faults
from pipeline.checks.ensembles import ensemble_faults
from pipeline.checks.labels import label_faults, source_faults
from pipeline.checks.places import places_of, secret_faults, shadow_faults, weights_faults
from pipeline.checks.references import order_faults, reference_faults
from pipeline.checks.sides import side_faults
from pipeline.checks.tasks import class_faults, task_faults
from pipeline.checks.trainings import needs_faults, question_faults, training_faults
from pipeline.graph.project import Project
from pipeline.parts import normal_parts
from pipeline.specs import LoadedSpec
from schemas.errors import SpecError, UserError
from stages.places import Place


def check_spec(loaded: LoadedSpec, workspace: Place) -> None:
    """Raise SpecError with every fault that can be told without writing: names, settings, sources, weights, places."""
    spec = loaded.spec
    problems = [*shadow_faults(loaded), *secret_faults(spec.dump(), ""), *reference_faults(spec)]
    try:
        normal = normal_parts(spec)
        problems += task_faults(spec)
    except UserError as error:
        problems += error.problems
    problems += [*training_faults(spec), *weights_faults(spec)]
    problems += [fault for place in places_of(loaded, workspace) if (fault := place.unwritable())]
    if problems:
        raise SpecError(*dict.fromkeys(problems))
    project = Project(spec, normal, {}, {})
    problems += order_faults(project)
    if not problems:
        problems += [*label_faults(spec), *source_faults(project), *class_faults(project)]
        problems += [
            *needs_faults(spec),
            *question_faults(spec),
            *ensemble_faults(project),
            *cohort_faults(project),
            *halving_faults(project),
            *rounds_faults(spec),
        ]
        problems += side_faults(project)
    if problems:
        raise SpecError(*dict.fromkeys(problems))
