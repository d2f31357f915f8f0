"""Rounds as a report shows them: the curve, and what was decided. Pure functions."""

from __future__ import annotations

from statistics import mean

from schemas.rounds import Measured, RoundLine, RoundsSection
from stages.evaluation.cells import NOTHING, Block, plain_name, printable, spread

BARS = "▁▂▃▄▅▆▇█"


def rounds_block(rounds: RoundsSection) -> Block:
    """Round by round over all chains: selection quality of students and label sets, and final quality beside it."""
    metric = rounds.guide if " " not in rounds.guide else None
    curve = [_mean(line, metric) for line in rounds.lines]
    rows = []
    for line, height in zip(rounds.lines, curve, strict=True):
        students = [_of(record.students, metric) for record in line.chains]
        sets = [_of(record.sets, metric) for record in line.chains]
        differ = [record.disagreement for record in line.chains if record.disagreement is not None]
        best = sum(number == line.number for number in rounds.best.values())
        rows.append(
            (
                str(line.number),
                spread([value for value in students if value is not None]) or NOTHING,
                _bar(height, curve),
                spread([value for value in sets if value is not None]) or NOTHING,
                spread(differ) or NOTHING,
                ", ".join(f"{name} {100 * value:.1f}" for name, value in line.final.items()) or NOTHING,
                f"{len(line.chains)}, best in {best}",
            )
        )
    decided = [
        f"Chain {record.seed}, round {record.number}: {printable(record.decision)}"
        for line in rounds.lines
        for record in line.chains
        if record.number > 1
    ]
    ended = [f"Chain {seed} ends: {printable(reason)}." for seed, reason in rounds.ended.items()]
    guide = plain_name(rounds.guide) if metric else f"{rounds.guide} (no label is there to choose by)"
    return Block(
        f"Rounds: {rounds.policy.name}",
        ("round", "students %", "", "their labels %", "differ %", "final %", "chains"),
        tuple(rows),
        (
            f"Guided by {guide}, mean ± standard deviation over chains. The students of each chain's best round are "
            "the result; final figures decided nothing.",
        ),
        (*decided, *ended),
    )


def _of(measures: tuple[Measured, ...], metric: str | None) -> float | None:
    """The mean of what guides over students or label sets of one chain."""
    if metric is not None:
        found = [one.quality[metric] for one in measures if metric in one.quality]
    else:
        pairs = [[v for v in (one.agreement, one.confidence) if v is not None] for one in measures]
        found = [mean(pair) for pair in pairs if pair]
    return mean(found) if found else None


def _mean(line: RoundLine, metric: str | None) -> float | None:
    found = [value for record in line.chains if (value := _of(record.students, metric)) is not None]
    return mean(found) if found else None


def _bar(value: float | None, curve: list[float | None]) -> str:
    """One column of the curve, from the lowest round to the highest."""
    known = [height for height in curve if height is not None]
    if value is None or not known:
        return ""
    low, high = min(known), max(known)
    return BARS[round((value - low) / (high - low) * (len(BARS) - 1))] if high > low else BARS[-1]
