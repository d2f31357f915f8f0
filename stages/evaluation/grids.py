"""What a report says of a grid: all points beside each other, and the one that selection quality chooses."""

from __future__ import annotations

from collections.abc import Sequence
from statistics import mean

from schemas.evaluation import ArmQuality, GridSection, QualityTable
from stages.evaluation.cells import Block, figure, mean_spread, metric_heads, printable, seeds_cell, stopped_of


class Grid:
    """The points of a grid, the best by selection quality first, the stopped ones last: by rung, then by quality."""

    def __init__(self, section: GridSection, tables: Sequence[QualityTable]) -> None:
        self.section = section
        found = {table.subject: table for table in tables}
        self._tables = {name: found[name] for name in section.points if name in found}
        self._order = sorted(self._tables, key=self._rank)  # stable: the spec's order among equal ones
        first = next(iter(self._order), None)
        self.best = first if first is not None and self._selection(first) else None
        """The point to take; none where nothing was held back to choose by."""

    def passed(self, brief: bool) -> set[str]:
        """Points that have no table of their own: those that were stopped, and on a terminal all but the best."""
        return {name for name in self._order if stopped_of(self._arm(name)) or (brief and name != self.best)}

    def block(self, brief: bool) -> Block:
        """A row a point. Final quality stands beside what chose, and chooses nothing."""
        metric = next((table.metrics[0] for table in self._tables.values()), "")
        rows = [
            (self._title(name), self._selection_cell(name), self._final_cell(name), seeds_cell(self._arm(name)))
            for name in self._order
        ]
        head = next(iter(metric_heads(list(self._tables.values()), brief).values()), metric)
        return Block(
            title=f"{self.section.name}: {len(self._order)} points of its grid",
            columns=("point", f"selection {head}", f"final {head}", "seeds"),
            rows=tuple(rows),
            sentences=(self._verdict(),),
        )

    def _verdict(self) -> str:
        if self.best is None:
            return "No validation labels were held back, so none of them can be chosen."
        equal = sum(self._rank(name) == self._rank(self.best) for name in self._order)
        among = {1: "", 2: ", as 1 other has"}.get(equal, f", as {equal - 1} others have")
        said = f"Best by selection quality{among}: {self._title(self.best)} ({self._selection_cell(self.best)})"
        return f"{said}; its final quality is {self._final_cell(self.best)}. Final quality chose nothing."

    def _rank(self, name: str) -> tuple[bool, int, bool, float]:
        table, arm = self._tables[name], self._arm(name)
        stopped, figures = stopped_of(arm), self._selection(name)
        value = stopped.quality if stopped else mean(figures) if figures else None
        metric = stopped.metric if stopped else table.metrics[0]
        sign = 1.0 if metric in table.errors else -1.0
        failed = any(seed.failure is not None for seed in arm.seeds)
        rung = -stopped.rung if stopped else 0
        return stopped is not None or value is None, rung, failed, 0.0 if value is None else sign * value

    def _arm(self, name: str) -> ArmQuality:
        return next(arm for arm in self._tables[name].arms if arm.arm == "distilled")

    def _selection(self, name: str) -> list[float]:
        metric = self._tables[name].metrics[0]
        return [seed.selection[metric] for seed in self._arm(name).seeds if metric in seed.selection]

    def _selection_cell(self, name: str) -> str:
        table = self._tables[name]
        if (stopped := stopped_of(self._arm(name))) is not None:
            return f"{figure(table, stopped.metric, stopped.quality)} at rung {stopped.rung} of {stopped.rungs}"
        return mean_spread(table, table.metrics[0], [seed.selection for seed in self._arm(name).seeds])

    def _final_cell(self, name: str) -> str:
        table = self._tables[name]
        return mean_spread(table, table.metrics[0], [seed.final for seed in self._arm(name).seeds])

    def _title(self, name: str) -> str:
        """The point's values, each path by its last part: those of a grid differ."""
        short = {path: [part for part in path.split(".") if part != "name"][-1] for path in self.section.points[name]}
        plain = list(short.values())
        values = self.section.points[name].items()
        return ", ".join(
            printable(f"{short[path] if plain.count(short[path]) == 1 else path} {item}") for path, item in values
        )
