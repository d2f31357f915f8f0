"""The stage contract: `run(context, inputs) -> outputs`, JSON in and JSON out, and a fingerprint before the work.

A stage is one object in its folder's `stage.py`. That module imports only `schemas` and light parts of `stages`
at its top (a plan loads it); what is heavy is imported inside `run`.
"""

from __future__ import annotations

import importlib
from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any, ClassVar, Generic, TypeVar

from schemas.base import Contract, Document
from schemas.errors import SpecError, did_you_mean
from stages.artifacts import MANIFEST, Attempt, find_artifact, fingerprint_of, outputs_of
from stages.context import Context

InputsT = TypeVar("InputsT", bound=Document)
OutputsT = TypeVar("OutputsT", bound=Document)


class Stage(ABC, Generic[InputsT, OutputsT]):
    """One kind of work. Stateless: everything comes in `inputs` (what) and `context` (where)."""

    name: ClassVar[str]
    """Name on the command line and below `artifacts/`."""
    version: ClassVar[int] = 1
    """Raised when the same inputs would give other outputs."""
    Inputs: ClassVar[type[Any]]
    Outputs: ClassVar[type[Any]]

    def code(self, inputs: InputsT) -> dict[str, str]:
        """Digest of each plug-in's source that the work rests on, by its name."""
        return {}

    def parts(self, inputs: InputsT) -> dict[str, Contract]:
        """What is asked, by part; each part becomes one artifact. Most stages have one, called ''."""
        return {"": inputs}

    def part_code(self, inputs: InputsT, part: str) -> dict[str, str]:
        """Digests of the plug-ins that one part rests on."""
        return self.code(inputs)

    def fingerprints(self, inputs: InputsT) -> dict[str, str]:
        """Fingerprint by part: what was asked, before any work. Loads no torch."""
        return {
            part: fingerprint_of(self.name, self.version, asked, self.part_code(inputs, part))
            for part, asked in self.parts(inputs).items()
        }

    def fingerprint(self, inputs: InputsT) -> str:
        """Fingerprint of a stage with one part."""
        return self.fingerprints(inputs)[""]

    def find(self, context: Context, inputs: InputsT) -> OutputsT | None:
        """The outputs if all that is asked exists, else None. A few small reads.

        Raises StoreError naming the mend if what exists is damaged, ContractError if this release cannot read it.
        """
        artifact = find_artifact(folder := context.artifact_place(self.name, self.fingerprint(inputs)))
        if artifact is None:
            return None
        outputs: OutputsT = outputs_of(artifact, folder, self.Outputs)
        return outputs

    def attempt(self, context: Context, inputs: InputsT) -> Attempt:
        """Begin an artifact of a stage with one part."""
        fingerprint = self.fingerprint(inputs)
        return Attempt(
            folder=context.artifact_place(self.name, fingerprint),
            stage=self.name,
            stage_version=self.version,
            fingerprint=fingerprint,
            inputs=inputs,
            code=self.code(inputs),
        )

    def discard(self, context: Context, inputs: InputsT) -> None:
        """Let what exists be forgotten, so that `run` makes it anew (`--force`). Its files become garbage.

        What is discarded is not read: it may be damaged.
        """
        for fingerprint in self.fingerprints(inputs).values():
            context.artifact_place(self.name, fingerprint).remove(MANIFEST)

    @abstractmethod
    def run(self, context: Context, inputs: InputsT) -> OutputsT:
        """Do the work, or adopt what exists. Raises UserError for what the user can mend."""

    def run_together(self, context: Context, inputs: Sequence[InputsT]) -> list[OutputsT]:
        """Several askings of one group, in one go where the stage can share work between them."""
        return [self.run(context, asked) for asked in inputs]

    @abstractmethod
    def example(self) -> InputsT:
        """Inputs to start from, as `crossdistill stage NAME --example` prints them."""


STAGES: dict[str, str] = {
    "domains": "stages.domains.stage:DOMAINS",
    "splits": "stages.domains.stage:SPLITS",
    "budgets": "stages.domains.stage:BUDGETS",
    "teachers": "stages.teachers.stage:TEACHERS",
    "screening": "stages.evaluation.screening:SCREENING",
    "labels": "stages.labels.stage:LABELS",
    "halving": "stages.students.halving:HALVING",
    "students": "stages.students.stage:STUDENTS",
    "soups": "stages.students.soups:SOUPS",
    "rounds": "stages.rounds.stage:ROUNDS",
    "evaluation": "stages.evaluation.stage:EVALUATION",
    "costs": "stages.evaluation.costs:COSTS",
    "report": "stages.evaluation.report:REPORT",
}
"""Every stage, in the order of the work."""


def get_stage(name: str) -> Stage[Any, Any]:
    """A stage by its name. Raises SpecError naming the probable one."""
    if name not in STAGES:
        raise SpecError(f"no stage is called '{name}'{did_you_mean(name, list(STAGES))}")
    module, _, attribute = STAGES[name].partition(":")
    stage: Stage[Any, Any] = getattr(importlib.import_module(module), attribute)
    return stage
