"""What a report says: titled tables with sentences below. Pure functions; `render` shows the same blocks everywhere."""

from __future__ import annotations

from collections.abc import Sequence

from schemas.evaluation import IMPOSSIBLE, ArmQuality, Comparison, Cost, CostTable, QualityTable, Report, SeedQuality
from stages.evaluation.cells import (
    NOTHING,
    SHORT,
    Block,
    figure,
    mean_spread,
    metric_heads,
    plain_name,
    printable,
    seeds_cell,
    spread,
    stopped_of,
)
from stages.evaluation.grids import Grid
from stages.evaluation.rounds import rounds_block


def blocks(report: Report, brief: bool = False) -> list[Block]:
    """All that the report says, in order: quality, costs, labels, notes, selection.

    `brief` is for a terminal: short names, and where there are many students, selection quality of these alone.
    """
    students = [table for table in report.qualities if not _of_teacher(table)]
    teachers = [table for table in report.qualities if _of_teacher(table)]
    legend = _legend(report.qualities, brief)
    grids = [Grid(section, students) for section in report.grids]
    passed = {name for grid in grids for name in grid.passed(brief)}
    shown = [table for table in students if table.subject not in passed]
    last = shown[-1] if shown else None
    found = [_student_block(table, report.budgets, legend if table is last else (), brief) for table in shown]
    found += [grid.block(brief) for grid in grids]
    if report.rounds is not None:
        found.append(rounds_block(report.rounds))
    if teachers:
        found.append(_teacher_block(teachers, () if students else legend, brief))
    if report.costs is not None:
        found.append(
            _cost_block(report.costs, {section.teacher for section in report.labels if section.teacher}, brief)
        )
    if report.labels:
        rows = tuple(
            (s.name, s.teacher or " + ".join(s.fuse) or "made elsewhere", s.domain, f"{s.rows:,}", s.fingerprint[:8])
            for s in report.labels
        )
        found.append(Block("Label sets", ("label set", "teacher", "domain", "rows", "fingerprint"), rows))
    if report.notes:
        found.append(Block("Notes", foreign=tuple(printable(note) for note in report.notes)))
    return [*found, *_selection_blocks(shown, brief)]


# --- quality -------------------------------------------------------------------------------------------------


def verdict(table: QualityTable, budgets: dict[str, str]) -> str:
    """What distillation gave, in one sentence that says no more than the figures do."""
    comparison = table.comparison
    if comparison is None:
        return f"{table.subject}: {_no_comparison(table)}"
    arms = {arm.arm: arm for arm in table.arms}
    metric = comparison.metric
    ours, theirs = (figure(table, metric, arms[arm].mean[metric]) for arm in ("distilled", comparison.baseline))
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
    student = next((arm for arm in table.arms if arm.arm == "distilled"), None)
    if student is not None and (stopped := stopped_of(student)) is not None:
        reached = figure(table, stopped.metric, stopped.quality)
        return f"it was {stopped}, at a selection quality of {reached} ({plain_name(stopped.metric)})."
    if student is None or student.note is not None:
        return "there is no student to compare."
    if not student.mean:
        agreement = spread(_agreements(student))
        said = f"the truth of the test rows of {table.domain} is unknown, so final quality is unknown"
        return f"{said}; it says what the teacher says on {agreement}% of them." if agreement else f"{said}."
    if _untaught(table):
        return "trained without a teacher, so there is no distillation to judge."
    return "there is no baseline with figures to compare with."


def _student_block(table: QualityTable, budgets: dict[str, str], legend: tuple[str, ...], brief: bool) -> Block:
    agreed = any(_agreements(arm) for arm in table.arms)
    rows = []
    for name, arm in _arms(table).items():
        cells = [mean_spread(table, metric, [seed.final for seed in arm.seeds]) for metric in table.metrics]
        if agreed:
            cells.append(spread(_agreements(arm)) or NOTHING)
        rows.append((name, *cells, seeds_cell(arm)))
    last = (*([f"{_agreement(brief)} %"] if agreed else []), "seeds")
    return Block(
        title=f"{table.subject} on {table.domain}: final quality ({table.test_rows:,} test rows)",
        columns=("arm", *metric_heads([table], brief).values(), *last),
        rows=tuple(rows),
        sentences=(verdict(table, budgets), *legend),
        foreign=_failures(table),
        beside=len(last),
    )


def _teacher_block(tables: Sequence[QualityTable], legend: tuple[str, ...], brief: bool) -> Block:
    headers = metric_heads(tables, brief)
    rows = []
    for table in tables:
        seeds = [seed for arm in table.arms for seed in arm.seeds]
        for kind, figures in (("selection", [s.selection for s in seeds]), ("final", [s.final for s in seeds])):
            if any(figures):
                cells = (mean_spread(table, metric, figures) for metric in headers)
                rows.append((f"{table.subject} on {table.domain}, {kind}", *cells))
    failures = tuple(line for table in tables for line in _failures(table))
    return Block("Teachers", ("teacher", *headers.values()), tuple(rows), legend, failures)


def _selection_blocks(tables: Sequence[QualityTable], brief: bool) -> list[Block]:
    """Quality on the validation budgets, which every choice rested on; none where nothing was held back for it."""
    headers = metric_heads(tables, brief)
    alone = brief and len(tables) > 2
    rows = []
    for table in tables:
        for name, arm in _arms(table).items():
            figures = [seed.selection for seed in arm.seeds if seed.selection]
            if figures and (arm.arm == "distilled" or not alone):
                cells = (mean_spread(table, metric, figures) for metric in headers)
                rows.append((table.subject if alone else f"{table.subject}, {name}", *cells))
    if not rows:
        return []
    sizes = sorted({size for table in tables for size in table.selection_rows})
    shown = " to ".join(f"{size:,}" for size in (*sizes[:1], *sizes[1:][-1:]))
    title = f"Selection quality ({shown} validation labels a seed)"
    return [Block(title, ("student", *headers.values()), tuple(rows))]


def _legend(tables: Sequence[QualityTable], brief: bool) -> tuple[str, ...]:
    """What the columns mean, where they do not say it themselves; once for all tables of quality."""
    arms = [arm for table in tables for arm in table.arms]
    parts = []
    if any(sum(seed.failure is None for seed in arm.seeds) > 1 for arm in arms):
        parts.append("Mean ± standard deviation over seeds")
    metrics = dict.fromkeys(metric for table in tables for metric in table.metrics)
    parts += [f"{SHORT[metric]}: {plain_name(metric)}" for metric in metrics if brief and metric in SHORT]
    if any(table.errors for table in tables):
        parts.append("↓: less is better")
    if any(_agreements(arm) for arm in arms):
        parts.append(f"{_agreement(brief)}: share of test rows on which it says what the teacher's labels say")
    return (f"{'; '.join(parts)}.",) if parts else ()


def _of_teacher(table: QualityTable) -> bool:
    return all(arm.arm == "teacher" for arm in table.arms)


def _untaught(table: QualityTable) -> bool:
    """Whether its student learned from true labels alone: nothing stands beside it, no teacher to agree with."""
    tried = [arm for arm in table.arms if arm.seeds]
    return [arm.arm for arm in tried] == ["distilled"] and not _agreements(tried[0])


def _arms(table: QualityTable) -> dict[str, ArmQuality]:
    """Arms by the name that they are shown under."""
    if _untaught(table):
        return {"trained": next(arm for arm in table.arms if arm.seeds)}
    return {"teacher (ref.)" if arm.arm == "teacher" else str(arm.arm): arm for arm in table.arms}


def _agreements(arm: ArmQuality) -> list[float]:
    return [seed.agreement for seed in arm.seeds if seed.agreement is not None]


def _agreement(brief: bool) -> str:
    return "agree" if brief else "agreement"


def _failures(table: QualityTable) -> tuple[str, ...]:
    """Arms that cannot be, and each reason why trainings failed, with how many and which."""
    arms = _arms(table)
    trained = {
        name: [seed for seed in arm.seeds if seed.stopped is None]
        for name, arm in arms.items()
        if arm.arm != "teacher" and _tried(arm)
    }
    found = []
    for name, arm in arms.items():
        if name not in trained:
            who = f"{table.subject} on {table.domain}" if _of_teacher(table) else name
            found += [f"{who}: {printable(said)}" for said in ([arm.note] if arm.note else _reasons(arm.seeds))]
    total = sum(len(seeds) for seeds in trained.values())
    for reason in _reasons([seed for seeds in trained.values() for seed in seeds]):
        failed = {name: [seed.seed for seed in seeds if seed.failure == reason] for name, seeds in trained.items()}
        which = "; ".join(
            f"{name}, seed{'s' if len(seeds) > 1 else ''} {', '.join(map(str, seeds))}"
            for name, seeds in failed.items()
            if seeds
        )
        count = sum(len(seeds) for seeds in failed.values())
        found.append(f"student {table.subject} failed in {count} of {total} trainings ({which}): {printable(reason)}")
    return tuple(found)


def _tried(arm: ArmQuality) -> bool:
    """Whether its models were tried."""
    return bool(arm.seeds) and not (arm.note or "").startswith(IMPOSSIBLE)


def _reasons(seeds: Sequence[SeedQuality]) -> list[str]:
    return list(dict.fromkeys(seed.failure for seed in seeds if seed.failure is not None))


# --- costs ---------------------------------------------------------------------------------------------------


def _cost_block(table: CostTable, teachers: set[str], brief: bool) -> Block:
    """Costs by model, and how many times a teacher's figure is a student's."""
    rows = [(cost.name, *_cost_cells(cost, brief)) for cost in table.costs]
    students = [cost for cost in table.costs if cost.name not in teachers]
    for teacher in (cost for cost in table.costs if cost.name in teachers):
        rows += [(f"{teacher.name} / {student.name}", *_ratios(teacher, student)) for student in students]
    known = ((name, value) for name, value in table.host.items() if value is not None)
    host = "; ".join(printable(f"{name}: {value}") for name, value in known)
    return Block(
        "Costs",
        ("model", "params", "MACs", "size", "latency" if brief else "latency (p95)", "samples/s", "memory"),
        tuple(rows),
        ("Latency at batch 1; samples/s and peak memory above the model's own at batch 32.",),
        (f"Measured on: {host}.",),
    )


def _cost_cells(cost: Cost, brief: bool) -> tuple[str, ...]:
    return (
        f"{cost.parameters:,}",
        f"{cost.macs / 1e6:,.2f} M",
        _bytes(cost.size_bytes),
        f"{cost.latency_ms:.2f} ms" if brief else f"{cost.latency_ms:.2f} ms ({cost.latency_p95_ms:.2f})",
        f"{cost.throughput:,.0f}",
        NOTHING if cost.peak_memory_bytes is None else _bytes(cost.peak_memory_bytes),
    )


def _ratios(teacher: Cost, student: Cost) -> tuple[str, ...]:
    names = ("parameters", "macs", "size_bytes", "latency_ms", "throughput", "peak_memory_bytes")
    pairs = ((getattr(teacher, name), getattr(student, name)) for name in names)
    return tuple(f"{one / other:.3g}x" if one is not None and other else NOTHING for one, other in pairs)


def _bytes(size: int) -> str:
    return f"{size / 2**20:,.1f} MiB" if size >= 2**20 else f"{size / 2**10:,.1f} KiB"
