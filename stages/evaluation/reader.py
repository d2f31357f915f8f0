"""Readers of what evaluation leaves: one small read each, checked against its reference and its checksum."""

from __future__ import annotations

from typing import TypeVar

from schemas.artifacts import Ref
from schemas.base import Document
from schemas.errors import DataError
from schemas.evaluation import CostRef, CostTable, QualityRef, QualityTable, Report, ReportRef
from stages.artifacts import open_ref, read_object
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


def _read(place: Place, ref: Ref, stage: str, name: str, contract: type[DocumentT]) -> DocumentT:
    artifact, files = open_ref(place, ref, stage)
    if artifact.digest != ref.digest:
        raise DataError(
            f"{place.uri} holds {artifact.digest}, {ref.digest} was referred to: run again, or use --force {stage}"
        )
    return contract.parse_json(read_object(files, artifact, name), f"{files.uri}/{name}")
