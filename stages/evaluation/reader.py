"""Readers of what evaluation leaves: one small read each, checked against its reference and its checksum."""

from __future__ import annotations

from typing import TypeVar

from schemas.artifacts import Ref
from schemas.base import Document
from schemas.errors import DataError
from schemas.evaluation import CostRef, CostTable, EvaluationOutputs, QualityRef, QualityTable, Report, ReportRef
from stages.artifacts import find_artifact, open_ref, outputs_of, read_object
from stages.places import Place

DocumentT = TypeVar("DocumentT", bound=Document)
QUALITY, COST, REPORT = "quality.json", "cost.json", "report.json"


def read_quality(place: Place, ref: QualityRef) -> QualityTable:
    """A table of quality. Raises DataError if it is gone or another, StoreError if it is damaged."""
    return _read(place, ref, "evaluation", QUALITY, QualityTable)


def read_costs(place: Place, ref: CostRef) -> CostTable:
    """A table of costs. Raises DataError if it is gone or another, StoreError if it is damaged."""
    return _read(place, ref, "costs", COST, CostTable)


def read_report(place: Place, ref: ReportRef) -> Report:
    """A report. Raises DataError if it is gone or another, StoreError if it is damaged."""
    return _read(place, ref, "report", REPORT, Report)


def teacher_figures(workspace: Place, labels: str, teacher: str) -> dict[str, float]:
    """What a workspace's evaluations say of a teacher, by figure: `accuracy on digits`, and on the rows that choices
    are made by `accuracy on digits, selection`. It is known by the root digest of its labels or by its own digest.

    One small read an evaluation. Raises DataError if there is none, or they say different things.
    """
    found: dict[str, float] = {}
    for fingerprint in workspace.names("artifacts/evaluation"):
        folder = workspace / f"artifacts/evaluation/{fingerprint}"
        artifact = find_artifact(folder)
        if artifact is None:
            continue
        judged = [item for item in artifact.provenance.inputs.get("candidates", ()) if item.get("arm") == "teacher"]
        if not any(
            (item[kind] or {}).get("digest") == digest
            for item in judged
            for kind, digest in (("labels", labels), ("model", teacher))
        ):
            continue
        table = outputs_of(artifact, folder, EvaluationOutputs).table
        seeds = [seed for arm in table.arms if arm.arm == "teacher" for seed in arm.seeds]
        for what, figures in [(part, getattr(seed, part)) for seed in seeds for part in ("final", "selection")]:
            for metric, value in figures.items():
                name = f"{metric} on {table.domain}" + (", selection" if what == "selection" else "")
                if found.setdefault(name, value) != value:
                    raise DataError(
                        f"the evaluations in {workspace.uri} give two figures for {name!a} ({found[name]:.4g} and "
                        f"{value:.4g}): its splits or budgets were changed. Give the right ones with --quality"
                    )
    if not found:
        raise DataError(
            f"{workspace.uri} holds no evaluation of that teacher: name the workspace of a finished run, or give "
            "figures with --quality"
        )
    return found


def _read(place: Place, ref: Ref, stage: str, name: str, contract: type[DocumentT]) -> DocumentT:
    artifact, files = open_ref(place, ref, stage)
    if artifact.digest != ref.digest:
        raise DataError(
            f"{place.uri} holds {artifact.digest}, {ref.digest} was referred to: run again, or use --force {stage}"
        )
    return contract.parse_json(read_object(files, artifact, name), f"{files.uri}/{name}")
