"""From predictions to a table of quality: figures per seed, mean and spread per arm, the comparison.

Selection figures rest on each model's own validation budget, final ones on the test rows whose truth is known.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from schemas.evaluation import IMPOSSIBLE, ArmQuality, Comparison, EvaluationInputs, QualityTable, SeedQuality
from stages.evaluation.compare import best_baseline, compare
from stages.evaluation.predict import Entry, Evidence
from stages.tasks.base import Task
from stages.truth import UNKNOWN

ORDER = ("teacher", "distilled", "no-teacher", "source-only", "source-finetuned")
"""Arms as they are shown."""
NEEDS_TRUTH = ("no-teacher", "source-finetuned")
"""Arms that learn from true labels of the target alone, or end with them."""


def table_of(task: Task, metrics: Sequence[str], inputs: EvaluationInputs, evidence: Evidence) -> QualityTable:
    """The figures of one subject. Reads each candidate's predictions once, and twice for the two compared arms."""
    truth = evidence.test_truth
    known = np.flatnonzero(truth != UNKNOWN) if truth is not None else None
    arms = []
    for arm in _arms(inputs):
        entries = [entry for entry in evidence.entries if entry.candidate.arm == arm]
        seeds = [_seed_quality(task, metrics, inputs, entry, evidence, known) for entry in entries]
        arms.append(_arm_quality(arm, seeds, _impossible(arm, evidence.entries)))
    rows = _test_rows(evidence, known)
    return QualityTable(
        subject=inputs.subject,
        domain=inputs.domain,
        metrics=tuple(metrics),
        errors=tuple(name for name in metrics if name in task.errors),
        unbounded=tuple(name for name in metrics if name in task.unbounded),
        arms=tuple(arms),
        comparison=_comparison(task, metrics[0], inputs, arms, evidence, known),
        selection_rows=_selection_rows(evidence.entries),
        test_rows=rows,
    )


def _arms(inputs: EvaluationInputs) -> list[str]:
    """Arms to show: those of the candidates, and beside a distilled student every baseline that was asked for."""
    present = {str(candidate.arm) for candidate in inputs.candidates}
    if "distilled" in present:
        present |= set(inputs.settings.baselines)
    return [arm for arm in ORDER if arm in present]


def _seed_quality(
    task: Task,
    metrics: Sequence[str],
    inputs: EvaluationInputs,
    entry: Entry,
    evidence: Evidence,
    known: NDArray[np.intp] | None,
) -> SeedQuality:
    seed = entry.candidate.seed
    if entry.candidate.stopped is not None:
        return SeedQuality(seed=seed, stopped=entry.candidate.stopped)
    if entry.failure is not None:
        return SeedQuality(seed=seed, failure=entry.failure)
    said, spoken = entry.read(), [name for name in metrics if name != task.forced_metric]
    selection: dict[str, float] = {}
    final: dict[str, float] = {}
    agreement = None
    if entry.budget is not None and len(entry.budget.validation_positions):
        selection = task.score(said["selection_logits"], entry.budget.validation_truth, spoken)
        selection |= _forced(task, metrics, said.get("selection_right"))
    if evidence.test_truth is not None and known is not None and len(known):
        final = task.score(said["test_logits"][known], evidence.test_truth[known], spoken)
        final |= _forced(task, metrics, said.get("test_right"))
    itself = inputs.reference is not None and entry.candidate.labels == inputs.reference
    if evidence.reference is not None and len(evidence.reference) and not itself:
        agreement = float(np.mean(task.alike(task.compared(said["test_logits"]), evidence.reference)))
    return SeedQuality(seed=seed, selection=selection, final=final, agreement=agreement)


def _forced(task: Task, metrics: Sequence[str], right_N2: NDArray[np.int64] | None) -> dict[str, float]:
    """The share of items that a model got right when it was forced on the truth, where that was asked for."""
    if right_N2 is None or task.forced_metric not in metrics or not right_N2[:, 1].sum():
        return {}
    return {str(task.forced_metric): float(right_N2[:, 0].sum() / right_N2[:, 1].sum())}


def _arm_quality(arm: str, seeds: Sequence[SeedQuality], impossible: str | None) -> ArmQuality:
    """Mean and standard deviation (n - 1) over the seeds that have figures."""
    finals = [item.final for item in seeds if item.final]
    columns = {name: [final[name] for final in finals] for name in (finals[0] if finals else ())}
    reasons = list(dict.fromkeys(item.failure for item in seeds if item.failure))
    note = None
    if all(item.failure for item in seeds):
        note = impossible or "; ".join(reason for reason in reasons if reason) or "no model was given"
    elif all(item.failure or item.stopped for item in seeds):
        note = next(str(item.stopped) for item in seeds if item.stopped)
    return ArmQuality.model_validate(
        {
            "arm": arm,
            "seeds": sorted(seeds, key=lambda item: item.seed),
            "mean": {name: float(np.mean(values)) for name, values in columns.items()},
            "spread": {name: float(np.std(values, ddof=1)) for name, values in columns.items() if len(values) > 1},
            "note": note,
        }
    )


def _impossible(arm: str, entries: Sequence[Entry]) -> str | None:
    """Why an arm cannot exist at all: it learns from true labels, and there are none to see."""
    budgets = [entry.budget for entry in entries if entry.budget is not None and entry.candidate.arm != "teacher"]
    if arm in NEEDS_TRUTH and budgets and not any(len(budget.train_positions) for budget in budgets):
        return f"{IMPOSSIBLE} at a budget of 0"
    return None


def _comparison(
    task: Task,
    metric: str,
    inputs: EvaluationInputs,
    arms: Sequence[ArmQuality],
    evidence: Evidence,
    known: NDArray[np.intp] | None,
) -> Comparison | None:
    distilled = next((arm for arm in arms if arm.arm == "distilled"), None)
    baseline = best_baseline(arms, inputs.settings.baselines, metric, metric in task.errors)
    if distilled is None or baseline is None or evidence.test_truth is None or known is None:
        return None
    files = {(str(entry.candidate.arm), entry.candidate.seed): entry for entry in evidence.entries}

    def logits(arm: str, seed: int) -> NDArray[Any]:
        answer: NDArray[Any] = files[arm, seed].read()["test_logits"][known]
        return answer

    return compare(task, metric, distilled, baseline, logits, evidence.test_truth[known], inputs.settings)


def _selection_rows(entries: Sequence[Entry]) -> tuple[int, ...]:
    """Rows of the validation budget by seed, in the order of the seeds; a teacher's count where it stands alone."""
    rows: dict[int, int] = {}
    for entry in sorted(entries, key=lambda entry: entry.candidate.arm == "teacher"):
        if entry.budget is not None:
            rows.setdefault(entry.candidate.seed, len(entry.budget.validation_positions))
    return tuple(rows[seed] for seed in sorted(rows))


def _test_rows(evidence: Evidence, known: NDArray[np.intp] | None) -> int:
    """Test rows that figures rest on: those with truth, else those that agreement is measured on."""
    if known is not None:
        return len(known)
    return len(evidence.reference) if evidence.reference is not None else 0
