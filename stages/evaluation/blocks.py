"""What a report says: titled tables with sentences below. Pure functions; `render` shows the same blocks everywhere.

Shares are shown in percent with one decimal, differences in points; raw fractions stand in `report.json`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import mean, stdev

from schemas.evaluation import ArmQuality, Comparison, Cost, CostTable, QualityTable, Report

NOTHING = "-"


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


def blocks(report: Report) -> list[Block]:
    """All that the report says, in order: quality, selection, costs, labels, notes."""
    students = [table for table in report.qualities if not _of_teacher(table)]
    teachers = [table for table in report.qualities if _of_teacher(table)]
    found = [_student_block(table, report.budgets) for table in students]
    if teachers:
        found.append(_teacher_block(teachers))
    found += [block for table in students if (block := _selection_block(table)) is not None]
    if report.costs is not None:
        found.append(_cost_block(report.costs, {section.teacher for section in report.labels}))
    if report.labels:
        rows = tuple((s.name, s.teacher, s.domain, f"{s.rows:,}", s.digest[:8]) for s in report.labels)
        found.append(Block("Label sets", ("label set", "teacher", "domain", "rows", "digest"), rows))
    if report.notes:
        found.append(Block("Notes", foreign=tuple(printable(note) for note in report.notes)))
    return found


# --- quality -------------------------------------------------------------------------------------------------


def verdict(table: QualityTable, budgets: dict[str, str]) -> str:
    """What distillation gave, in one sentence that says no more than the figures do."""
    comparison = table.comparison
    if comparison is None:
        return f"{table.subject}: {_no_comparison(table)}"
    arms = {arm.arm: arm for arm in table.arms}
    metric = comparison.metric
    ours, theirs = (_figure(table, metric, arms[arm].mean[metric]) for arm in ("distilled", comparison.baseline))
    sign = -1 if metric in table.errors else 1
    low, high = sorted((sign * comparison.difference.low, sign * comparison.difference.high))
    distilled, baseline = f"distilled {ours}", f"the best baseline {comparison.baseline} {theirs}"
    size = _gap(table, comparison, absolute=not low <= 0 <= high)
    if low > 0:
        said = f"{distilled} beats {baseline} by {size}"
    elif high < 0:
        said = f"{distilled} does worse than {baseline} by {size}"
    else:
        said = f"no gain shown: {distilled} against {baseline}, a difference of {size}"
    budget = budgets.get(table.domain)
    where = f"at a label budget of {budget} on {table.domain}" if budget else f"with all labels of {table.domain}"
    return f"{table.subject}: {said} ({_basis(comparison)}) {where}."


def _gap(table: QualityTable, comparison: Comparison, absolute: bool) -> str:
    """The difference with its interval; `absolute` where the words around it say which way it goes."""
    scale, unit = (1.0, "") if comparison.metric in table.unbounded else (100.0, " points")
    digits = 3 if comparison.metric in table.unbounded else 1
    difference = comparison.difference
    values = [difference.value, difference.low, difference.high]
    if absolute:
        values = [abs(difference.value), *sorted(abs(end) for end in (difference.low, difference.high))]
    value, low, high = (f"{scale * item:{'' if absolute else '+'}.{digits}f}" for item in values)
    return f"{value}{unit} [{low}, {high}]"


def _basis(comparison: Comparison) -> str:
    level = f"{100 * comparison.confidence:g}%"
    over = "seeds and test samples" if comparison.seeds > 1 else "test samples, one seed"
    return (
        f"{comparison.metric}, {level} interval over {over}; "
        f"better in {comparison.seeds_better} of {comparison.seeds} seed{'s' if comparison.seeds > 1 else ''}"
    )


def _no_comparison(table: QualityTable) -> str:
    distilled = next((arm for arm in table.arms if arm.arm == "distilled"), None)
    if distilled is None or distilled.note is not None:
        return "there is no distilled student to compare."
    if not distilled.mean:
        agreement = _spread([seed.agreement for seed in distilled.seeds if seed.agreement is not None])
        said = f"the truth of the test rows of {table.domain} is unknown, so final quality is unknown"
        return f"{said}; it says what the teacher says on {agreement}% of them." if agreement else f"{said}."
    return "there is no baseline with figures to compare with."


def _student_block(table: QualityTable, budgets: dict[str, str]) -> Block:
    agreements = {arm.arm: [s.agreement for s in arm.seeds if s.agreement is not None] for arm in table.arms}
    agreed = any(agreements.values())
    rows = []
    for arm in table.arms:
        name = "teacher (ref.)" if arm.arm == "teacher" else arm.arm
        cells = [_mean_spread(table, metric, [seed.final for seed in arm.seeds]) for metric in table.metrics]
        if agreed:
            cells.append(_spread(agreements[arm.arm]) or NOTHING)
        rows.append((name, *cells, _seeds(arm)))
    rows_shown = f"{table.test_rows:,} test rows"
    columns = ("arm", *_headers(table), *(["agreement %"] if agreed else []), "seeds")
    return Block(
        title=f"{table.subject} on {table.domain}: final quality ({rows_shown})",
        columns=columns,
        rows=tuple(rows),
        sentences=(verdict(table, budgets), *_legend(table, agreed)),
        foreign=_failures(table),
    )


def _teacher_block(tables: Sequence[QualityTable]) -> Block:
    metrics = tuple(dict.fromkeys(metric for table in tables for metric in table.metrics))
    header = {name: text for table in tables for name, text in zip(table.metrics, _headers(table), strict=True)}
    rows = []
    for table in tables:
        seeds = [seed for arm in table.arms for seed in arm.seeds]
        for kind, figures in (("selection", [s.selection for s in seeds]), ("final", [s.final for s in seeds])):
            if any(figures):
                cells = (_mean_spread(table, metric, figures) for metric in metrics)
                rows.append((f"{table.subject} on {table.domain}, {kind}", *cells))
    failures = tuple(line for table in tables for line in _failures(table))
    return Block("Teachers", ("teacher", *(header[name] for name in metrics)), tuple(rows), foreign=failures)


def _selection_block(table: QualityTable) -> Block | None:
    """Quality on the validation budgets, which every choice rested on."""
    rows = []
    for arm in table.arms:
        figures = [seed.selection for seed in arm.seeds if seed.selection]
        if figures:
            rows.append((str(arm.arm), *(_mean_spread(table, metric, figures) for metric in table.metrics)))
    if not rows:
        return None
    sizes = sorted(set(table.selection_rows))
    shown = f"{sizes[0]:,}" if len(sizes) == 1 else f"{sizes[0]:,} to {sizes[-1]:,}"
    title = f"{table.subject} on {table.domain}: selection quality ({shown} validation labels a seed)"
    return Block(title, ("arm", *_headers(table)), tuple(rows))


def _legend(table: QualityTable, agreed: bool) -> tuple[str, ...]:
    """What the columns mean, where they do not say it themselves."""
    parts = ["Mean ± standard deviation over seeds"]
    if table.errors:
        parts.append("↓: less is better")
    if agreed:
        parts.append("agreement: share of test rows on which it says what the teacher's labels say")
    return (f"{'; '.join(parts)}.",)


def _of_teacher(table: QualityTable) -> bool:
    return all(arm.arm == "teacher" for arm in table.arms)


def _headers(table: QualityTable) -> tuple[str, ...]:
    """Metrics with their unit and, where less is better, an arrow down."""
    units = ("" if name in table.unbounded else " %" for name in table.metrics)
    arrows = (" ↓" if name in table.errors else "" for name in table.metrics)
    return tuple(
        f"{name.replace('_', ' ')}{unit}{arrow}" for name, unit, arrow in zip(table.metrics, units, arrows, strict=True)
    )


def _failures(table: QualityTable) -> tuple[str, ...]:
    """Arms without figures, and seeds that failed in the others, with the reason."""
    found = []
    for arm in table.arms:
        if arm.note is not None:
            found.append(f"{arm.arm}: {printable(arm.note)}")
        else:
            found += [f"{arm.arm}, seed {s.seed}: {printable(s.failure)}" for s in arm.seeds if s.failure is not None]
    return tuple(found)


def _seeds(arm: ArmQuality) -> str:
    able = sum(seed.failure is None for seed in arm.seeds)
    return str(able) if able == len(arm.seeds) else f"{able} of {len(arm.seeds)}"


def _mean_spread(table: QualityTable, metric: str, figures: Sequence[dict[str, float]]) -> str:
    """Mean ± standard deviation (n - 1) of one metric; the mean alone for one seed; a dash for none."""
    values = [item[metric] for item in figures if metric in item]
    if metric in table.unbounded:
        return _spread(values, scale=1.0, digits=3) or NOTHING
    return _spread(values) or NOTHING


def _spread(values: Sequence[float], scale: float = 100.0, digits: int = 1) -> str:
    if not values:
        return ""
    shown = f"{scale * mean(values):.{digits}f}"
    return shown if len(values) == 1 else f"{shown} ± {scale * stdev(values):.{digits}f}"


def _figure(table: QualityTable, metric: str, value: float) -> str:
    return _mean_spread(table, metric, [{metric: value}])


# --- costs ---------------------------------------------------------------------------------------------------

COST_COLUMNS = ("params", "MACs", "size", "latency (p95)", "samples/s", "memory")


def _cost_block(table: CostTable, teachers: set[str]) -> Block:
    """Costs by model, and how many times a teacher's figure is a student's."""
    rows = [(cost.name, *_cost_cells(cost)) for cost in table.costs]
    students = [cost for cost in table.costs if cost.name not in teachers]
    for teacher in (cost for cost in table.costs if cost.name in teachers):
        rows += [(f"{teacher.name} / {student.name}", *_ratios(teacher, student)) for student in students]
    known = ((name, value) for name, value in table.host.items() if value is not None)
    host = "; ".join(printable(f"{name}: {value}") for name, value in known)
    return Block(
        "Costs",
        ("model", *COST_COLUMNS),
        tuple(rows),
        ("Latency at batch 1; samples/s and peak memory above the model's own at batch 32.",),
        (f"Measured on: {host}.",),
    )


def _cost_cells(cost: Cost) -> tuple[str, ...]:
    return (
        f"{cost.parameters:,}",
        f"{cost.macs / 1e6:,.2f} M",
        _bytes(cost.size_bytes),
        f"{cost.latency_ms:.2f} ms ({cost.latency_p95_ms:.2f})",
        f"{cost.throughput:,.0f}",
        NOTHING if cost.peak_memory_bytes is None else _bytes(cost.peak_memory_bytes),
    )


def _ratios(teacher: Cost, student: Cost) -> tuple[str, ...]:
    names = ("parameters", "macs", "size_bytes", "latency_ms", "throughput", "peak_memory_bytes")
    pairs = ((getattr(teacher, name), getattr(student, name)) for name in names)
    return tuple(f"{one / other:.3g}x" if one is not None and other else NOTHING for one, other in pairs)


def _bytes(size: int) -> str:
    return f"{size / 2**20:,.1f} MiB" if size >= 2**20 else f"{size / 2**10:,.1f} KiB"


def printable(text: str) -> str:
    """Foreign text on one line, without what steers a terminal."""
    return "".join(char if char.isprintable() else " " for char in text).strip()
