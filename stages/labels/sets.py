"""Making a set: plan it, label what is missing, commit it. Resume is a set difference."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

from schemas.artifacts import Provenance
from schemas.errors import InternalError
from schemas.labels import LabelSchema, LabelsInputs, SetManifest, SetPlan, UnitPlan, UnitResult
from stages.context import Context
from stages.labels.builder import How
from stages.labels.encodings import difficulty_fields, label_schema
from stages.labels.labeller import Shards
from stages.labels.store import Store, fidelity_labels, fidelity_threshold, missing_units, unit_key

Label = Callable[[Sequence[UnitPlan]], Iterator[UnitResult]]


def plan_set(
    inputs: LabelsInputs,
    fingerprint: str,
    stage_version: int,
    schema: LabelSchema,
    samples: Shards,
    provenance: Provenance,
) -> SetPlan:
    """The units that a set needs, one per view and packed shard. Pure: equal inputs give an equal plan."""
    how = {
        "stage": "labels",
        "stage_version": stage_version,
        "precision": inputs.precision,
        "batch_size": inputs.batch_size,
        "code": provenance.code,
    }
    units = tuple(
        UnitPlan(
            key=unit_key(inputs.teacher.digest, how, schema, inputs.views, view, shard.digest),
            shard=shard.name,
            shard_digest=shard.digest,
            view=view,
            rows=shard.rows,
        )
        for view in range(inputs.views.count)
        for shard in samples.shards
    )
    rows = sum(unit.rows for unit in units)
    return SetPlan(
        fingerprint=fingerprint,
        label_schema=schema,
        views=inputs.views,
        units=units,
        fidelity_threshold=fidelity_threshold(rows),
        fidelity_labels=fidelity_labels(schema, rows),
        provenance=provenance,
    )


def complete_set(store: Store, plan: SetPlan, label: Label, teacher: str, samples: str) -> SetManifest:
    """Label the plan's missing units with `label`, then commit the set.

    A killed call goes on where it was; one that runs beside another adopts what the other finished.
    """
    store.commit_plan(plan)
    receipts = store.receipts(plan)
    if missing := missing_units(plan, receipts):
        for _ in label(missing):
            pass
        receipts = store.receipts(plan)
        if missing := missing_units(plan, receipts):
            raise InternalError(f"{len(missing)} units have no receipt after labelling (first: {missing[0].key})")
    return store.commit_set(plan, receipts, teacher, samples)


def make_set(
    context: Context,
    inputs: LabelsInputs,
    store: Store,
    fingerprint: str,
    stage_version: int,
    provenance: Provenance,
) -> SetManifest:
    """The set that `inputs` ask for, labelled where the context says."""
    from stages.domains.reader import Samples
    from stages.training.models import read_card

    teacher_place, samples_place = context.place(inputs.teacher), context.place(inputs.samples)
    card = read_card(teacher_place, inputs.teacher)
    samples = Samples.open(samples_place, inputs.samples)
    schema = label_schema(card.classes, inputs.encoding, extras=difficulty_fields(inputs.difficulty))
    plan = plan_set(inputs, fingerprint, stage_version, schema, samples, provenance)
    how = How(schema, inputs.precision, inputs.batch_size, plan.fidelity_threshold, plan.fidelity_labels)

    def label(units: Sequence[UnitPlan]) -> Iterator[UnitResult]:
        from stages.labels.actor import LabelJob, label_units_here, label_units_on_ray

        total = samples.rows * inputs.views.count
        done = total - sum(unit.rows for unit in units)
        reporter = context.reporter()
        tells = context.local or (context.resources.workers == 1 and reporter.bulletin is not None)
        job = LabelJob(
            store=store.place,
            teacher_place=teacher_place,
            teacher=inputs.teacher,
            samples_place=samples_place,
            samples=inputs.samples,
            how=how,
            reporter=reporter if tells else None,
            rows_done=done,
            rows_total=total,
        )
        results = label_units_here(job, units) if context.local else label_units_on_ray(job, units, context.resources)
        for result in results:
            done += result.rows
            if not tells:
                context.progress(done, total, "rows")
            yield result

    return complete_set(store, plan, label, inputs.teacher.digest, inputs.samples.digest)
