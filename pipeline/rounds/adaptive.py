"""Adaptive: how much the teacher counts follows the gap between student and teacher, from round to round.

A student under its teacher gets more of it and softer labels, one above it less and harder ones: the direction as in
"annealing" and "adaptive" distillation (Jafari et al. 2021, arXiv:2104.07163, who let the teacher fade as the student
comes near), decided here by selection quality. A step that did harm is taken back, and steps halve when they turn.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from pydantic import PositiveFloat

from pipeline.rounds.base import Base, Most, Past, Policy, Round, Stop, changed
from schemas.base import Contract, Fraction
from schemas.errors import SpecError
from schemas.spec import Student
from stages.students.methods import METHODS


class AdaptiveConfig(Contract):
    """Settings of `adaptive`."""

    step: Fraction = 0.2
    """First change of `alpha`, the teacher's share of the loss."""
    least_step: Fraction = 0.05
    """A student whose step is smaller is left as it is."""
    warmer: PositiveFloat = 1.5
    """Factor on the temperature for a whole first step."""
    tolerance: Fraction = 0.005
    """Gap to the teacher that is no reason to change, in the metric's own unit (a share of 1)."""
    low: Fraction = 0.1
    """Least `alpha`."""
    high: Fraction = 0.95
    """Largest `alpha`."""
    hottest: PositiveFloat = 8.0
    """Highest temperature."""
    sure: Fraction | None = None
    """While a student is under its teacher, labels whose largest probability is smaller do not count (method
    `confident`, soft); left out: all count alike."""


class Adaptive(Policy):
    """Of each student: alpha and temperature go up while it is under its teacher, and down while it is above."""

    Config = AdaptiveConfig

    def initial(self, base: Base) -> Round:
        for name, student in base.students.items():
            settings = METHODS.normal(student.method, f"students.{name}.method").settings
            if "alpha" not in settings:
                raise SpecError(
                    f"students.{name}.method: policy adaptive changes `alpha`, which '{student.method.name}' does not "
                    "have: use a single method with a teacher"
                )
        asked = base.as_asked()
        state = {name: {"step": self.config.step, "direction": 0} for name in base.students}
        return Round(asked.students, asked.decision, asked.teachers, asked.labels, state=state)

    def next(self, base: Base, history: Sequence[Past]) -> Round | Stop:
        now = history[-1]
        students: dict[str, Student] = {}
        state: dict[str, Any] = {}
        words = []
        for name in base.students:
            students[name], state[name], said = self._one(base, history, name)
            words.append(said)
        if all(students[name] == now.round.students[name] for name in students):
            return Stop(f"nothing left to adjust: {'; '.join(words)}")
        return Round(students, "; ".join(words), state=state)

    def _one(self, base: Base, history: Sequence[Past], name: str) -> tuple[Student, dict[str, Any], str]:
        """(the student of the next round, its state, why)."""
        now, config = history[-1], self.config
        memory = dict(now.round.state[name])
        best = max(history, key=lambda past: _figure(base, past, name))
        here, top = _figure(base, now, name), _figure(base, best, name)
        asked = best.round.students[name]
        teacher = base.figure(best.sets[str(asked.labels)])
        if teacher is None or top == float("-inf"):
            return now.round.students[name], memory, f"{name}: no figures to go by"
        gap = teacher - top
        direction = 0 if abs(gap) <= config.tolerance else 1 if gap > 0 else -1
        if direction == 0:
            return asked, memory, f"{name} is level with its teacher"
        harmed = here < top
        if harmed or direction == -memory["direction"]:
            memory["step"] /= 2
        memory["direction"] = direction
        if memory["step"] < config.least_step:
            return now.round.students[name], memory, f"{name}: smaller steps than {config.least_step:g} are not taken"
        method, said = self._changed(asked, direction * memory["step"], direction > 0)
        above = f"{base.points(abs(gap))} {'under' if gap > 0 else 'over'} its teacher"
        back = f" (round {now.number} did harm; from round {best.number} on)" if harmed else ""
        return asked.model_copy(update={"method": method}), memory, f"{name} {above}{back}: {said}"

    def _changed(self, student: Student, change: float, poor: bool) -> tuple[Any, str]:
        config = self.config
        settings = METHODS.normal(student.method, "method").settings
        alpha = min(max(settings["alpha"] + change, config.low), config.high)
        words = [f"alpha {settings['alpha']:.2f} -> {alpha:.2f}"]
        updates: dict[str, Any] = {"alpha": round(alpha, 4)}
        if "temperature" in settings:
            tau = settings["temperature"] * config.warmer ** (change / config.step)
            updates["temperature"] = round(min(max(tau, 1.0), config.hottest), 4)
            words.append(f"temperature {settings['temperature']:g} -> {updates['temperature']:g}")
        method = student.method
        if config.sure is not None and method.name in ("soft", "confident"):
            threshold = config.sure if poor else 0.0
            method = student.method.model_validate(
                {"name": "confident", "target": "soft", "threshold": threshold, "temperature": settings["temperature"]}
            )
            words.append(f"labels count from a probability of {threshold:g} on")
        return changed(method, **updates), ", ".join(words)

    def most(self, base: Base) -> Most:
        return Most(0, 0, len(base.students))


def _figure(base: Base, past: Past, name: str) -> float:
    figure = base.figure(past.students[name])
    return float("-inf") if figure is None else figure


POLICY = Adaptive
