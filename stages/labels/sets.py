"""Making a set: plan it, label what is missing, commit it. Resume is a set difference."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, TypeVar

from schemas.artifacts import ModelRef, Provenance
from schemas.canonical import digest
from schemas.encodings import Dense, LowRank
from schemas.errors import InternalError, StoreError
from schemas.labels import (
    SAID,
    LabelSchema,
    LabelsInputs,
    Receipt,
    Replay,
    Requirements,
    SetManifest,
    SetPlan,
    UnitPlan,
    UnitResult,
    UnitStatistics,
    Views,
)
from stages.context import Context
from stages.labels.bases import read_basis
from stages.labels.builder import How
from stages.labels.encodings import codec_of, difficulty_fields, features_field, label_schema, said_field
from stages.labels.labeller import Shards
from stages.labels.statistics import merge
from stages.labels.store import About, Store, fidelity_labels, fidelity_threshold, missing_units, unit_key
from stages.progress import Reporter, Told

if TYPE_CHECKING:
    from stages.domains.seen import Seen

Label = Callable[[Sequence[UnitPlan]], Iterator[UnitResult]]
Answer = TypeVar("Answer")


def plan_set(
    inputs: LabelsInputs,
    fingerprint: str,
    stage_version: int,
    schema: LabelSchema,
    samples: Shards,
    provenance: Provenance,
) -> SetPlan:
    """The units that a set needs, one per view and packed shard. Pure: equal inputs give an equal plan."""
    teacher = asked_teacher(inputs)
    how = how_asked(inputs, stage_version, provenance)
    units = tuple(
        UnitPlan(
            key=unit_key(teacher.digest, how, schema, inputs.views, view, shard.digest),
            shard=shard.name,
            shard_digest=shard.digest,
            view=view,
            rows=shard.rows,
        )
        for view in range(inputs.views.count)
        for shard in samples.shards
    )
    return planned(fingerprint, schema, units, provenance, inputs.views)


def planned(
    fingerprint: str,
    schema: LabelSchema,
    units: tuple[UnitPlan, ...],
    provenance: Provenance,
    views: Views,
    parents: tuple[str, ...] = (),
) -> SetPlan:
    """A plan over some units, which says how much of them is measured."""
    rows = sum(unit.rows for unit in units)
    return SetPlan(
        fingerprint=fingerprint,
        label_schema=schema,
        views=views,
        units=units,
        fidelity_threshold=fidelity_threshold(rows),
        fidelity_labels=fidelity_labels(schema, rows),
        provenance=provenance,
        parents=parents,
    )


def asked_teacher(inputs: LabelsInputs) -> ModelRef:
    """Who is asked. A given set asks nobody."""
    if inputs.teacher is None:
        raise InternalError("a given label set was to be made")
    return inputs.teacher


def how_asked(inputs: LabelsInputs, stage_version: int, provenance: Provenance) -> dict[str, Any]:
    """How a teacher is asked: what counts in the keys of units beside who, what and in which form."""
    return {
        "stage": "labels",
        "stage_version": stage_version,
        "precision": inputs.precision,
        "batch_size": inputs.batch_size,
        "code": provenance.code,
    }


def complete_set(
    store: Store,
    plan: SetPlan,
    label: Label,
    about: About,
    require: Requirements | None = None,
) -> SetManifest:
    """Label the plan's missing units with `label`, then commit the set.

    A killed call goes on where it was; one that runs beside another adopts what the other finished. Raises
    StoreError before the set exists if it is less exact than required; its units are kept.
    """
    store.commit_plan(plan)
    receipts = store.receipts(plan)
    if missing := missing_units(plan, receipts):
        for _ in label(missing):
            pass
        receipts = store.receipts(plan)
        if missing := missing_units(plan, receipts):
            raise InternalError(f"{len(missing)} units have no receipt after labelling (first: {missing[0].key})")
    if require is not None:
        check_exact(merge(receipts[unit.key].statistics for unit in plan.units), require, plan.fingerprint)
    return store.commit_set(plan, receipts, about)


def write_set(
    store: Store,
    plan: SetPlan,
    write: Callable[[UnitPlan], Receipt],
    about: About,
    told: Told | None = None,
    require: Requirements | None = None,
) -> SetManifest:
    """`complete_set` in this process, unit by unit: `write` leaves the arrays of one and gives its receipt."""

    def label(units: Sequence[UnitPlan]) -> Iterator[UnitResult]:
        begun = len(plan.units) - len(units)
        for done, unit in enumerate(units, begun):
            if told is not None:
                told(done, len(plan.units))
            receipt = write(unit)
            committed = store.commit_unit(receipt)
            yield UnitResult(key=unit.key, made=committed.attempt == receipt.attempt, rows=unit.rows, seconds=0.0)

    return complete_set(store, plan, label, about, require)


def check_exact(found: UnitStatistics, require: Requirements, fingerprint: str) -> None:
    """Raise StoreError naming every bound that a set's measured fidelity misses."""
    rows = found.fidelity_rows
    if not rows:
        return
    misses = []
    for name, bounds in (("full_kl", require.full_kl), ("bucket_kl", require.bucket_kl)):
        sums: dict[str, float] = getattr(found, f"{name}_sums")
        for tau, bound in bounds.items():
            if tau not in sums:
                misses.append(f"{name} at T = {tau} cannot be measured: the encoding does not hold that temperature")
            elif (value := sums[tau] / rows) > bound:
                misses.append(f"{name} at T = {tau} is {value:.3g}, at most {bound:g} is required")
    if (agreement := found.top1_agreements / rows) < require.top1_agreement:
        misses.append(f"top1_agreement is {agreement:.4f}, at least {require.top1_agreement:g} is required")
    if misses:
        raise StoreError(
            f"label set {fingerprint[:12]} is not exact enough on {rows:,} labels: {'; '.join(misses)}. Choose a "
            "larger encoding, or change `require`; what the teacher said in this one is kept"
        )


def check_rank(encoding: LowRank, classes: int) -> None:
    """Raise StoreError for a rank that so many classes cannot have."""
    codec_of(encoding, classes)


def basis_key(who: str, how: Mapping[str, Any], classes: tuple[str, ...], encoding: LowRank, first_shard: str) -> str:
    """What names the basis of sets that are asked alike over a domain, however far it grew."""
    return digest({"who": who, "how": dict(how), "classes": list(classes), "rank": encoding.rank, "shard": first_shard})


def make_set(
    context: Context,
    inputs: LabelsInputs,
    store: Store,
    fingerprint: str,
    stage_version: int,
    provenance: Provenance,
    seen: Seen | None = None,
) -> SetManifest:
    """The set that `inputs` ask for, labelled where the context says; `seen` is what its teacher learned from."""
    from stages.cluster import on_ray
    from stages.domains.reader import Samples
    from stages.labels.actor import LabelJob, basis_here, features_here, label_units_here, label_units_on_ray
    from stages.tasks import get_task
    from stages.training.models import read_card

    teacher = asked_teacher(inputs)
    teacher_place, samples_place = context.place(teacher), context.place(inputs.samples)
    card = read_card(teacher_place, teacher)
    classes = card.classes
    samples = Samples.open(samples_place, inputs.samples)
    total = samples.rows * inputs.views.count

    def job(how: How, reporter: Reporter | None = None, done: int = 0) -> LabelJob:
        return LabelJob(store.place, teacher_place, teacher, samples_place, inputs.samples, how, reporter, done, total)

    def ask(question: Callable[..., Answer], *about: Any) -> Answer:
        """What the teacher answers beforehand, here or on the cluster."""
        first = job(How(label_schema(classes, Dense()), inputs.precision, inputs.batch_size))
        if context.local:
            return question(first, *about)
        return on_ray(context.step, context.resources, question, first, *about)

    basis = None
    if isinstance(inputs.encoding, LowRank) and samples.shards:
        check_rank(inputs.encoding, len(classes))
        asked = how_asked(inputs, stage_version, provenance)
        key = basis_key(teacher.digest, asked, classes, inputs.encoding, samples.shards[0].digest)
        basis = read_basis(store.place, ask(basis_here, key, inputs.encoding.rank))
    extras = difficulty_fields(inputs.difficulty)
    if inputs.features is not None:
        extras += (features_field(ask(features_here), inputs.features),)
    task = get_task(card.task)
    if task.forces and SAID in task.recalls:
        extras += (said_field(len(classes)),)
    schema = label_schema(classes, inputs.encoding, task.label_shape, extras, basis)
    plan = plan_set(inputs, fingerprint, stage_version, schema, samples, provenance)
    measured = plan.fidelity_threshold, plan.fidelity_labels
    how = How(schema, inputs.precision, inputs.batch_size, *measured, basis, inputs.views)

    def label(units: Sequence[UnitPlan]) -> Iterator[UnitResult]:
        done = total - sum(unit.rows for unit in units)
        reporter = context.reporter()
        tells = context.local or (context.resources.workers == 1 and reporter.bulletin is not None)
        work = job(how, reporter if tells else None, done)
        results = label_units_here(work, units) if context.local else label_units_on_ray(work, units, context.resources)
        for result in results:
            done += result.rows
            if not tells:
                context.progress(done, total, "rows")
            yield result

    drawn: tuple[Replay, ...] = ()
    if inputs.views.count > 1:
        from stages.labels.views import replays

        drawn = replays(get_task(inputs.task), samples, inputs.views)
    names = inputs.names.model_copy(update={"model": card.model.name})
    about = About(teacher.digest, inputs.samples.digest, drawn, names, seen)
    return complete_set(store, plan, label, about, inputs.require)
