"""Several label sets as one: what their teachers say together, with all of them in its provenance.

An ordinary set in every way: planned, made unit by unit, resumed by its receipts, safe with two writers. Its units are
keyed by the parents' root digests and the weights. Where samples are given, its units are their packed shards; else
those of the first parent, cut to the samples that count. Parents that are packed another way are read through their
ids. Memory is that of a unit and a batch, and 8 bytes a sample and parent (about 50 a sample while ids are compared).

Shapes: N samples, P parents, C classes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from schemas.artifacts import Provenance
from schemas.canonical import digest, identity
from schemas.encodings import Encoding, LowRank
from schemas.errors import StoreError
from schemas.labels import Fusion, LabelsInputs, Names, Receipt, Replay, Requirements, SetManifest, UnitPlan
from stages.artifacts import package_version
from stages.classes import class_columns, reordered
from stages.context import Context
from stages.domains.seen import together
from stages.labels.bases import basis_rows, make_basis
from stages.labels.builder import How, Said, UnitBuilder, exact_rows, hashes
from stages.labels.encodings import check_temperatures, difficulty_fields, label_schema
from stages.labels.lots import Lot, Rows, lots_of_parents, lots_of_samples
from stages.labels.matching import ABSENT
from stages.labels.mixture import label_weights, mixed
from stages.labels.reader import LabelSet
from stages.labels.sets import basis_key, check_rank, planned, write_set
from stages.labels.store import About, Store, fidelity_threshold, unit_key
from stages.places import Place
from stages.progress import Told

VERSION = 1
"""Counts in the keys of what is made here: raised when the same parents would give other bytes."""
BATCH = 4096
AT_ONCE = 2**21
"""Log-probabilities of all parents that are in memory at once."""
Tell = Callable[[str], None]


def fuse_sets(
    parents: Sequence[LabelSet], fusion: Fusion, encoding: Encoding, place: Place, tell: Tell, told: Told
) -> SetManifest:
    """The parents as one set in the store at `place` (made if there is none), over the samples that they speak of.

    Fidelity is measured against the fused float32. `tell` hears what people should know. Raises StoreError for parents
    that do not fit together, before anything is written.
    """
    asked = {"stage": "fuse", "version": VERSION, "fuse": identity(fusion), "encoding": identity(encoding)}
    lots = lots_of_parents(parents, fusion.ids)
    known = {unit.shard_digest for unit in parents[0].units if unit.view == 0}
    whole = {lot.digest for lot in lots} == known
    samples = parents[0].manifest.samples if whole else digest([lot.digest for lot in lots])
    task = _task(parents)
    code = {name: value for labels in parents for name, value in labels.manifest.provenance.code.items()}
    provenance = Provenance(package=package_version(), inputs=asked | ({"task": task} if task else {}), code=code)
    making = _Fuse(tuple(parents), fusion, encoding, lots, tell)
    return making.run(place, digest(asked), samples, provenance, _names(parents), told)


def fuse_asked(
    context: Context, inputs: LabelsInputs, fusion: Fusion, place: Place, fingerprint: str, provenance: Provenance
) -> SetManifest:
    """What the stage's inputs ask for, over all of their samples. Raises LabelsMissing, counting those without any."""
    from stages.domains.reader import Samples as PackedSamples

    parents = tuple(LabelSet.open_ref(context.place(ref), ref) for ref in fusion.sets)
    samples = PackedSamples.open(context.place(inputs.samples), inputs.samples)
    making = _Fuse(
        parents,
        fusion,
        inputs.encoding,
        lots_of_samples(samples, parents, fusion.ids),
        lambda said: context.tell("warning", said),
        inputs.difficulty,
        inputs.require,
    )
    _task(parents)

    def told(done: int, total: int) -> None:
        context.progress(done, total, "units")

    called = {name: value for name in ("teacher", "domain") if (value := getattr(inputs.names, name))}
    names = _names(parents).model_copy(update=called)
    return making.run(place, fingerprint, inputs.samples.digest, provenance, names, told)


class _Fuse:
    """Parents that fit together, and what is made of them."""

    def __init__(
        self,
        parents: tuple[LabelSet, ...],
        fusion: Fusion,
        encoding: Encoding,
        lots: list[Lot],
        tell: Tell,
        difficulty: Iterable[str] = (),
        require: Requirements | None = None,
    ) -> None:
        self.parents, self.fusion, self.encoding, self.lots = parents, fusion, encoding, lots
        self.difficulty, self.require = difficulty, require
        first = parents[0]
        self.classes, self.views, self.shape = first.classes, first.manifest.views, first.schema.shape
        self.columns: list[NDArray[np.int64] | None] = []
        for parent in parents:
            name = f"label set {parent.fingerprint[:12]}"
            self._check(parent, name)
            self.columns.append(class_columns(parent.classes, self.classes, name, f"set {first.fingerprint[:12]}"))
            if self.columns[-1] is not None:
                tell(reordered(name, f"set {first.fingerprint[:12]}"))
        self.batch = max(1, min(BATCH, AT_ONCE // (len(parents) * len(self.classes) * first.layout.cells)))
        self.unmapped = [
            parent.manifest.statistics.unmapped_mass_sum / max(1, parent.manifest.statistics.labels)
            for parent in parents
        ]

    def _check(self, parent: LabelSet, name: str) -> None:
        if parent.schema.shape.ragged:
            raise StoreError(
                f"{name} has labels per {parent.schema.shape.kind}, and only those per sample or pixel fuse"
            )
        if (parent.schema.shape, parent.manifest.views) != (self.shape, self.views):
            what = "a label of other shape" if parent.schema.shape != self.shape else "other views of its samples"
            raise StoreError(f"{name} has {what} than set {self.parents[0].fingerprint[:12]}: fuse sets that are alike")
        try:
            check_temperatures(parent.schema.encoding, (1.0,))
        except StoreError as error:
            raise StoreError(f"{name} cannot be fused: {error}") from None

    def run(
        self, place: Place, fingerprint: str, samples: str, provenance: Provenance, names: Names, told: Told
    ) -> SetManifest:
        """Plan, make what is missing, commit."""
        how = {"stage": "fuse", "version": VERSION}
        said_by = digest({
            "fuse": [parent.digest for parent in self.parents],
            "weights": self.fusion.weights if self.fusion.weights == "confidence" else list(self.fusion.weights),
            "space": self.fusion.space,
        })  # fmt: skip
        replays = self._replays()
        basis = None
        if isinstance(self.encoding, LowRank) and self.lots:
            check_rank(self.encoding, len(self.classes))
            key = basis_key(said_by, how, self.classes, self.encoding, self.lots[0].digest)
            rank = self.encoding.rank
            basis = make_basis(Store.create(place).place, key, rank, lambda: self._sampled(basis_rows(rank)))
        extras = difficulty_fields(self.difficulty)
        schema = label_schema(self.classes, self.encoding, self.shape, extras, basis)
        lots = [(view, lot) for view in range(self.views.count) for lot in self.lots]
        units = tuple(
            UnitPlan(
                key=unit_key(said_by, how, schema, self.views, view, lot.digest),
                shard=lot.name,
                shard_digest=lot.digest,
                view=view,
                rows=lot.rows.shape[1],
            )
            for view, lot in lots
        )
        parents = tuple(parent.digest for parent in self.parents)
        plan = planned(fingerprint, schema, units, provenance, self.views, parents)
        making = How(schema, "float32", self.batch, plan.fidelity_threshold, plan.fidelity_labels, basis)
        where = {unit.key: lot for unit, (_, lot) in zip(units, lots, strict=True)}
        store = Store.create(place)

        def write(unit: UnitPlan) -> Receipt:
            lot = where[unit.key]
            builder = UnitBuilder(making, unit, lot.sample_ids(), lot.content_ids())
            for part in builder.batches():
                builder.add(part, self.said(lot.rows[:, part], unit.view))
            return builder.write(store)

        about = About(said_by, samples, replays, names, together(parent.seen() for parent in self.parents))
        return write_set(store, plan, write, about, told, self.require)

    def said(self, rows: Rows, view: int = 0) -> Said:
        """What all parents together say about some samples, by their positions (P, B) in each."""
        cells = self.parents[0].layout.cells
        logp = np.zeros((len(rows), rows.shape[1], cells, len(self.classes)))
        for number, (parent, columns) in enumerate(zip(self.parents, self.columns, strict=True)):
            held = np.flatnonzero(rows[number] != ABSENT)
            if not len(held):
                continue
            said = parent.decode(parent.gather(rows[number][held], view)).log_probabilities(1.0)
            said = said if columns is None else said[:, columns]
            logp[number, held] = said.reshape(len(held), cells, -1)
        present = np.repeat(rows != ABSENT, cells, axis=1)
        flat = logp.reshape(len(rows), -1, len(self.classes))
        weights = label_weights(self.fusion.weights, flat, present)
        logits = mixed(flat, weights, self.fusion.space)
        grid = self.shape.grid
        return Said(
            logits.reshape(rows.shape[1], *grid, -1) if grid else logits,
            unmapped=(weights * np.array(self.unmapped)[:, None]).sum(axis=0),
        )

    def _replays(self) -> tuple[Replay, ...]:
        """The parents' sketches of views, each under the place that its sample has here.

        Raises StoreError for those that differ: the teachers did not see the same.
        """
        if not any(parent.manifest.replays for parent in self.parents):
            return ()
        from stages.labels.views import alike

        found: dict[tuple[int, int], Replay] = {}
        for number, parent in enumerate(self.parents):
            here = np.concatenate([lot.rows[number] for lot in self.lots])
            for item in parent.manifest.replays:
                for place in np.flatnonzero(here == item.position).tolist():
                    mine = item.model_copy(update={"position": place})
                    if not alike(found.setdefault((place, item.view), mine), mine):
                        raise StoreError(
                            f"the teachers of sets {self.parents[0].fingerprint[:12]} and {parent.fingerprint[:12]} "
                            f"did not see the same view {item.view} of one sample: fuse sets that were made with the "
                            "same library versions"
                        )
        return tuple(found[key] for key in sorted(found))

    def _sampled(self, rows: int) -> np.ndarray:
        """Logits (N, C) of some samples by hash, for a basis."""
        threshold = fidelity_threshold(sum(lot.rows.shape[1] for lot in self.lots), rows)
        found = []
        for lot in self.lots:
            chosen = np.flatnonzero(exact_rows(hashes(lot.sample_ids(), lot.content_ids()), threshold))
            for start in range(0, len(chosen), self.batch):
                said = self.said(lot.rows[:, chosen[start : start + self.batch]])
                found.append(said.logits.reshape(-1, len(self.classes)))
        return np.concatenate(found)


def _task(parents: Sequence[LabelSet]) -> dict[str, Any] | None:
    """The task that all parents were made for, as far as they say. Raises StoreError if there are two."""
    known = [
        (parent, task) for parent in parents if isinstance(task := parent.manifest.provenance.inputs.get("task"), dict)
    ]
    for parent, task in known:
        if task != known[0][1]:
            raise StoreError(
                f"label sets {known[0][0].fingerprint[:12]} and {parent.fingerprint[:12]} were made for other tasks, "
                "or other settings of one: their teachers saw other inputs"
            )
    return known[0][1] if known else None


def _names(parents: Sequence[LabelSet]) -> Names:
    """What people call all who took part."""
    known = [parent.manifest.origin.names for parent in parents]
    speakers = (item.teacher or parent.fingerprint[:12] for item, parent in zip(known, parents, strict=True))
    return Names(
        teacher=" + ".join(speakers),
        model=" + ".join(dict.fromkeys(item.model for item in known if item.model)),
        trained_on=tuple(dict.fromkeys(name for item in known for name in item.trained_on)),
        domain=known[0].domain,
    )
