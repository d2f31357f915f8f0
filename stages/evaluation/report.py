"""Stage `report`: tables of quality and cost as one document, for programs (`report.json`) and people (`report.md`)."""

from __future__ import annotations

from schemas.evaluation import Report, ReportInputs, ReportOutputs, ReportRef
from stages.artifacts import objects_digest, outputs_of
from stages.base import Stage
from stages.context import Context
from stages.evaluation.reader import REPORT as REPORT_JSON
from stages.evaluation.reader import read_costs, read_quality
from stages.evaluation.render import render_markdown

REPORT_MARKDOWN = "report.md"


class ReportStage(Stage[ReportInputs, ReportOutputs]):
    """What came of a project. Small reads only; loads no torch."""

    name = "report"
    version = 3
    Inputs = ReportInputs
    Outputs = ReportOutputs

    def run(self, context: Context, inputs: ReportInputs) -> ReportOutputs:
        """Gather and write. Raises DataError if a table is gone."""
        if (found := self.find(context, inputs)) is not None:
            return found
        costs = inputs.costs
        report = Report(
            name=inputs.name,
            budgets=inputs.budgets,
            labels=inputs.labels,
            qualities=tuple(read_quality(context.place(ref), ref) for ref in inputs.qualities),
            grids=inputs.grids,
            rounds=inputs.rounds,
            costs=None if costs is None else read_costs(context.place(costs), costs),
            notes=inputs.notes,
        )
        attempt = self.attempt(context, inputs)
        attempt.put(REPORT_JSON, report.to_json())
        attempt.put(REPORT_MARKDOWN, render_markdown(report).encode())
        ref = ReportRef(uri=attempt.folder.uri, fingerprint=attempt.fingerprint, digest=objects_digest(attempt.objects))
        artifact = attempt.commit(ReportOutputs(report=ref))
        return outputs_of(artifact, attempt.folder, ReportOutputs)

    def example(self) -> ReportInputs:
        """A report of one table."""
        ref = {"uri": "WORKSPACE/artifacts/evaluation/FINGERPRINT", "fingerprint": "0" * 32, "digest": "0" * 32}
        return ReportInputs.model_validate(
            {"name": "mnist-to-digits", "budgets": {"digits": "50 + 50"}, "qualities": [ref]}
        )


REPORT = ReportStage()
