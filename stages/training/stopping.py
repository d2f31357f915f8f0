"""When a training ends before its last step: a pure function of its history, so that a resumed one ends there too."""

from __future__ import annotations

from collections.abc import Sequence

from schemas.teachers import EpochQuality
from schemas.training import EarlyStopping
from stages.tasks.base import Task


def figure_of(task: Task, quality: dict[str, float]) -> float | None:
    """The leading metric of an epoch, larger being better; None where nothing was validated."""
    leading = task.metrics[0]
    if leading not in quality:
        return None
    return -quality[leading] if leading in task.errors else quality[leading]


def reason_to_stop(
    stopping: EarlyStopping | None, history: Sequence[EpochQuality], task: Task, after: int = 0
) -> str | None:
    """Why a training ends with the last line of its history, or None if it goes on.

    It ends once `patience` epochs have passed since the best one, which is the first, or one whose leading metric is
    more than `min_gain` above the best before it. Lines up to epoch `after` do not count.
    """
    figures = [
        (line.epoch, figure)
        for line in history
        if line.epoch > after and (figure := figure_of(task, line.validation)) is not None
    ]
    if stopping is None or not figures:
        return None
    best_epoch, best = figures[0]
    for epoch, figure in figures[1:]:
        if figure > best + stopping.min_gain:
            best_epoch, best = epoch, figure
    last = figures[-1][0]
    if last - best_epoch < stopping.patience:
        return None
    gain = f" by more than {stopping.min_gain:g}" if stopping.min_gain else ""
    return (
        f"ended early after epoch {last}: {task.metrics[0]} of epoch {best_epoch} ({abs(best):.4g}) was not bettered"
        f"{gain} in {stopping.patience} epoch{'s' if stopping.patience > 1 else ''}"
    )
