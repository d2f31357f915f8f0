"""How figures are written: blocks, cells and the names of metrics. Pure functions.

Shares are shown in percent with one decimal, differences in points; raw fractions stand in `report.json`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import mean, stdev

from schemas.evaluation import ArmQuality, QualityTable
from schemas.students import Stopped

NOTHING = "-"
SHORT = {"accuracy": "acc", "macro_f1": "F1", "balanced_accuracy": "bal acc", "calibration_error": "ECE"}
"""What a terminal calls a metric; the others by their own name."""


@dataclass(frozen=True)
class Block:
    """A piece of the report: a titled table with what is to be said below it."""

    title: str
    columns: tuple[str, ...] = ()
    rows: tuple[tuple[str, ...], ...] = ()
    sentences: tuple[str, ...] = ()
    """Our own words."""
    foreign: tuple[str, ...] = ()
    """Words from elsewhere: printable by then, escaped by each way of showing."""
    beside: int = 0
    """Last columns that stay beside the first one where a table is too wide for one piece."""


def metric_heads(tables: Sequence[QualityTable], brief: bool) -> dict[str, str]:
    """Metrics with their unit and, where less is better, an arrow down."""
    found = {}
    for table in tables:
        for metric in table.metrics:
            name = SHORT.get(metric, plain_name(metric)) if brief else plain_name(metric)
            unit, arrow = "" if metric in table.unbounded else " %", " ↓" if metric in table.errors else ""
            found[metric] = f"{name}{unit}{arrow}"
    return found


def plain_name(metric: str) -> str:
    """A metric's name in words."""
    return metric.replace("_", " ")


def stopped_of(arm: ArmQuality) -> Stopped | None:
    """Where an arm was stopped, if that is why it has no figures."""
    return next((seed.stopped for seed in arm.seeds if seed.stopped is not None), None)


def seeds_cell(arm: ArmQuality) -> str:
    """How many seeds of an arm have figures."""
    if stopped_of(arm) is not None:
        return "stopped"
    able = sum(seed.failure is None for seed in arm.seeds)
    return str(able) if able == len(arm.seeds) else f"{able} of {len(arm.seeds)}"


def mean_spread(table: QualityTable, metric: str, figures: Sequence[dict[str, float]]) -> str:
    """Mean ± standard deviation (n - 1) of one metric; the mean alone for one seed; a dash for none."""
    values = [item[metric] for item in figures if metric in item]
    if metric in table.unbounded:
        return spread(values, scale=1.0, digits=3) or NOTHING
    return spread(values) or NOTHING


def spread(values: Sequence[float], scale: float = 100.0, digits: int = 1) -> str:
    """Mean ± standard deviation (n - 1) of scaled values; the mean alone for one; nothing for none."""
    if not values:
        return ""
    shown = f"{scale * mean(values):.{digits}f}"
    return shown if len(values) == 1 else f"{shown} ± {scale * stdev(values):.{digits}f}"


def figure(table: QualityTable, metric: str, value: float) -> str:
    """One figure of a metric."""
    return mean_spread(table, metric, [{metric: value}])


def printable(text: str) -> str:
    """Foreign text on one line, without what steers a terminal."""
    return "".join(char if char.isprintable() else " " for char in text).strip()
