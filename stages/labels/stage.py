"""Stage `labels`: what one teacher says about one domain, or several together, as a label set in a store."""

from __future__ import annotations

from schemas.artifacts import LabelSetRef, ModelRef, Provenance, SamplesRef
from schemas.base import Part
from schemas.canonical import identity
from schemas.errors import StoreError
from schemas.labels import LabelsInputs, LabelsOutputs, Requirements, SetManifest
from stages.artifacts import package_version
from stages.base import Stage
from stages.context import Context
from stages.labels.store import Store
from stages.places import Place
from stages.tasks import task_code


class LabelsStage(Stage[LabelsInputs, LabelsOutputs]):
    """Makes the units that are missing, and with the last one the set; the workspace's artifact only points to it."""

    name = "labels"
    version = 2
    Inputs = LabelsInputs
    Outputs = LabelsOutputs

    def code(self, inputs: LabelsInputs) -> dict[str, str]:
        return task_code(inputs.task)

    def find(self, context: Context, inputs: LabelsInputs) -> LabelsOutputs | None:
        """The set, if this workspace has made or adopted it and its store still holds it. Three small reads.

        Raises StoreError if one of them is damaged, or the store holds other labels than those that the workspace
        knew.
        """
        known = super().find(context, inputs)
        place = _place(context, inputs)
        store = None if known is None else Store.find(place)
        manifest = None if known is None or store is None else store.manifest(known.labels.fingerprint)
        if known is None or manifest is None:
            return None
        self._check_same(known, manifest, place)
        self._check_exact(manifest, inputs)
        return _outputs(manifest, place)

    def discard(self, context: Context, inputs: LabelsInputs) -> None:
        """Let the set and its units be made anew, in the store too.

        Raises StoreError for a store outside the workspace: others may rest on what is there.
        """
        if inputs.store is not None:
            raise StoreError(
                f"labels in the shared store {inputs.store} are not made anew: other sets and other teams may rest on "
                "them. Leave out `store` to label inside the workspace, or name another store"
            )
        super().discard(context, inputs)
        if inputs.given is not None:
            return
        Store(context.store_place(inputs.store)).forget_set(self.fingerprint(inputs))

    def run(self, context: Context, inputs: LabelsInputs) -> LabelsOutputs:
        """Adopt the set if the store holds it (no teacher is loaded), else label the units that are missing.

        A given set is checked against the samples and pointed to; a fused one is made of others, and loads none either.
        Any number of runs may work on one set at once. Raises DataError for a teacher that learned from test rows,
        ModelError for outputs that are not finite.
        """
        place, fingerprint = _place(context, inputs), self.fingerprint(inputs)
        if inputs.given is not None:
            from stages.labels.given import check_given

            manifest = check_given(context, inputs, inputs.given)
        else:
            manifest = self._made(context, inputs, place, fingerprint)
        self._check_exact(manifest, inputs)
        outputs = _outputs(manifest, place)
        artifact = self.attempt(context, inputs).commit(outputs, content=manifest.digest)
        self._check_same(LabelsOutputs.parse(artifact.outputs, "artifact.json"), manifest, place)
        return outputs

    def _made(self, context: Context, inputs: LabelsInputs, place: Place, fingerprint: str) -> SetManifest:
        """The set that the store holds, or that is made there."""
        from stages.domains.seen import check_held_out
        from stages.labels.checks import held_out, seen_by

        seen = seen_by(context, inputs)
        check_held_out(context, seen, held_out(inputs), "the teacher")
        store = Store.find(place) or Store.create(place)
        if (manifest := store.manifest(fingerprint)) is not None:
            return manifest
        provenance = Provenance(package=package_version(), inputs=identity(inputs), code=self.code(inputs))
        if inputs.fuse is not None:
            from stages.labels.fuse import fuse_asked

            return fuse_asked(context, inputs, inputs.fuse, place, fingerprint, provenance)
        from stages.labels.sets import make_set

        return make_set(context, inputs, store, fingerprint, self.version, provenance, seen)

    def example(self) -> LabelsInputs:
        some = "0" * 32
        return LabelsInputs(
            task=Part.model_validate({"name": "image-classification", "image_size": 16, "channels": 1}),
            teacher=ModelRef(uri="WORKSPACE/artifacts/teachers/FINGERPRINT", fingerprint=some, digest=some),
            samples=SamplesRef(uri="WORKSPACE/artifacts/domains/FINGERPRINT", fingerprint=some, digest=some),
        )

    @staticmethod
    def _check_exact(manifest: SetManifest, inputs: LabelsInputs) -> None:
        """What was found or adopted must be as exact as what is made."""
        if inputs.require != Requirements():
            from stages.labels.sets import check_exact

            check_exact(manifest.statistics, inputs.require, manifest.fingerprint)

    def _check_same(self, known: LabelsOutputs, manifest: SetManifest, place: Place) -> None:
        if known.labels.digest != manifest.digest:
            raise StoreError(
                f"label set {manifest.fingerprint} in {place.uri} holds other labels than this workspace knew (root "
                f"digest {manifest.digest}, not {known.labels.digest}): make it again with --force labels"
            )


def _place(context: Context, inputs: LabelsInputs) -> Place:
    """The store that holds the set."""
    return context.store_place(inputs.store) if inputs.given is None else context.place(inputs.given)


def _outputs(manifest: SetManifest, place: Place) -> LabelsOutputs:
    ref = LabelSetRef(uri=place.uri, fingerprint=manifest.fingerprint, digest=manifest.digest)
    return LabelsOutputs(
        labels=ref,
        rows=manifest.rows,
        units=manifest.units,
        classes=manifest.label_schema.classes,
        views=manifest.views,
    )


LABELS = LabelsStage()
