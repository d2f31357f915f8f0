"""Stages `domains`, `splits` and `budgets`: packed samples, and small overlays on them."""

from __future__ import annotations

from schemas.artifacts import SamplesRef, SplitRef, TruthRef
from schemas.base import Contract, Part
from schemas.domains import (
    BudgetInputs,
    BudgetOutputs,
    DomainInputs,
    DomainOutputs,
    SplitInputs,
    SplitOutputs,
)
from schemas.spec import LabelBudget, Source, Split
from stages.artifacts import outputs_of
from stages.base import Stage
from stages.context import Context
from stages.places import Place

NOWHERE = "0" * 32


class Domains(Stage[DomainInputs, DomainOutputs]):
    """Ingest: any source to packed, sharded samples, truth apart."""

    name = "domains"
    Inputs = DomainInputs
    Outputs = DomainOutputs

    def check(self, inputs: DomainInputs) -> list[str]:
        """What can be found wrong with the source without reading its rows, one sentence each; for a plan."""
        from stages.domains.sources import check_source
        from stages.tasks import get_task

        task = get_task(inputs.task)
        return check_source(inputs.source, inputs.columns, task.roles, task.optional, task.labels)

    def with_digest(self, inputs: DomainInputs, workspace: Place | None) -> DomainInputs:
        """The inputs with their `source_digest`, read if it is left out.

        Reads every byte of the source the first time; then, with a workspace, lists its files only.
        """
        if inputs.source_digest is not None:
            return inputs
        from stages.domains.sources import source_digest
        from stages.tasks import get_task

        found = source_digest(inputs.source, workspace, inputs.columns, get_task(inputs.task).files)
        return inputs.model_copy(update={"source_digest": found})

    def parts(self, inputs: DomainInputs) -> dict[str, Contract]:
        """One part; a source that is not known by its digest yet is read here."""
        return {"": self.with_digest(inputs, None)}

    def code(self, inputs: DomainInputs) -> dict[str, str]:
        """The task's source, and that of an example's parser."""
        from stages.code import code_digest
        from stages.tasks import task_code

        code = task_code(inputs.task)
        if inputs.source.example is not None:
            from stages.domains.examples import EXAMPLES

            code[f"example {inputs.source.example}"] = code_digest(EXAMPLES.target(inputs.source.example))
        return code

    def find(self, context: Context, inputs: DomainInputs) -> DomainOutputs | None:
        """The packed domain if it exists."""
        return super().find(context, self.with_digest(inputs, context.workspace))

    def run(self, context: Context, inputs: DomainInputs) -> DomainOutputs:
        """Pack the domain, on Ray or here; what a killed ingest had packed is taken over.

        Raises DataError for a source or rows that cannot be used.
        """
        asked = self.with_digest(inputs, context.workspace)
        if (found := super().find(context, asked)) is not None:
            return found
        from schemas.canonical import digest
        from stages.domains.ingest import ingest
        from stages.domains.kept import PACKED
        from stages.registry import validate_settings
        from stages.tasks import get_task

        task = get_task(asked.task)
        prepare = validate_settings(task.Prepare, asked.prepare, "prepare")
        attempt = self.attempt(context, asked)
        outputs = ingest(context, asked, task, prepare, attempt)
        truth = None if outputs.truth is None else outputs.truth.digest
        artifact = attempt.commit(outputs, digest([outputs.samples.digest, truth]))
        attempt.folder.remove(PACKED)
        return outputs_of(artifact, attempt.folder, DomainOutputs)

    def discard(self, context: Context, inputs: DomainInputs) -> None:
        """Forget what an interrupted ingest packed, too."""
        super().discard(context, inputs)
        from stages.domains.kept import PACKED

        context.artifact_place(self.name, self.fingerprint(inputs)).remove(PACKED)

    def example(self) -> DomainInputs:
        """The demo's target."""
        task = Part.model_validate({"name": "image-classification", "image_size": 16, "channels": 1})
        return DomainInputs(source=Source(example="uci-digits"), task=task)


class Splits(Stage[SplitInputs, SplitOutputs]):
    """Which split each row of a domain belongs to; duplicates always fall in one."""

    name = "splits"
    Inputs = SplitInputs
    Outputs = SplitOutputs

    def run(self, context: Context, inputs: SplitInputs) -> SplitOutputs:
        """Draw the splits, or take those that the source came in. Raises DataError if it came in none."""
        if (found := self.find(context, inputs)) is not None:
            return found
        from stages.domains.splits import make_split

        attempt = self.attempt(context, inputs)
        outputs = make_split(context, inputs, attempt)
        artifact = attempt.commit(outputs, outputs.split.digest)
        return outputs_of(artifact, attempt.folder, SplitOutputs)

    def example(self) -> SplitInputs:
        """A split of a domain made before: put its reference in."""
        samples = SamplesRef(uri="PLACE/artifacts/domains/FINGERPRINT", fingerprint=NOWHERE, digest=NOWHERE)
        return SplitInputs(samples=samples, split=Split(train=0.8, validation=0.1, test=0.1))


class Budgets(Stage[BudgetInputs, BudgetOutputs]):
    """The rows whose truth may be seen, with that truth."""

    name = "budgets"
    Inputs = BudgetInputs
    Outputs = BudgetOutputs

    def parts(self, inputs: BudgetInputs) -> dict[str, Contract]:
        """One part; without a budget there is no draw, and the seed does not count."""
        return {"": inputs if inputs.label_budget is not None else inputs.model_copy(update={"seed": 0})}

    def run(self, context: Context, inputs: BudgetInputs) -> BudgetOutputs:
        """Draw the budget. Raises DataError if it is larger than its split."""
        if (found := self.find(context, inputs)) is not None:
            return found
        from stages.domains.budgets import make_budget

        attempt = self.attempt(context, inputs)
        outputs = make_budget(context, inputs, attempt)
        artifact = attempt.commit(outputs, outputs.budget.digest)
        return outputs_of(artifact, attempt.folder, BudgetOutputs)

    def example(self) -> BudgetInputs:
        """A budget over a split made before: put the references in."""
        domain = "PLACE/artifacts/domains/FINGERPRINT"
        return BudgetInputs(
            samples=SamplesRef(uri=domain, fingerprint=NOWHERE, digest=NOWHERE),
            split=SplitRef(uri="PLACE/artifacts/splits/FINGERPRINT", fingerprint=NOWHERE, digest=NOWHERE),
            truth=TruthRef(uri=domain, fingerprint=NOWHERE, digest=NOWHERE),
            label_budget=LabelBudget(train=50, validation=50),
        )


DOMAINS, SPLITS, BUDGETS = Domains(), Splits(), Budgets()
