"""What crosses to the worker that makes a teacher, and what it leaves behind.

The driver never builds a model: a worker leaves the finished teacher as the last of the training's checkpoints, and
the driver copies its tensors into the artifact. So a run that is killed between the two goes on from there.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from schemas.base import Part
from schemas.errors import SpecError
from schemas.models import ModelCard
from schemas.spec import Storage
from schemas.teachers import DomainSize, EpochQuality, TeacherInputs
from stages.context import Context
from stages.places import Place
from stages.progress import Reporter

if TYPE_CHECKING:
    import torch

WINDOW_BYTES = 256 * 2**20
"""Bytes of samples within which a teacher's rows are shuffled; a change here raises the stage's version."""


@dataclass(frozen=True)
class Work:
    """One teacher to be made."""

    inputs: TeacherInputs
    checkpoints: Place
    """Where its checkpoints and the finished teacher lie until the commit."""
    storage: Storage
    threads: int
    """CPU threads of a worker."""
    code: dict[str, str]
    """Digests of the plug-ins that it rests on."""
    reporter: Reporter

    @property
    def model(self) -> Part:
        """The model. Raises SpecError if the inputs name none."""
        if self.inputs.model is None:
            raise SpecError(f"a teacher that is made by '{self.inputs.way.kind}' needs a `model`")
        return self.inputs.model

    @property
    def own_classes(self) -> tuple[str, ...]:
        """Classes of the raw outputs. Raises SpecError if the inputs name none."""
        own = self.inputs.own_classes or self.inputs.classes
        if not own:
            raise SpecError(f"a teacher that is made by '{self.inputs.way.kind}' needs `classes`")
        return own

    def card(self) -> ModelCard:
        """Card of a teacher that is trained or given. Raises ModelError if its class map does not fit."""
        from stages.training.models import members

        inputs = self.inputs
        classes = inputs.classes or self.own_classes
        if inputs.own_classes is not None:
            members(inputs.own_classes, inputs.class_map, classes)
        elif inputs.class_map:
            raise SpecError("a `class_map` needs `own_classes`, the classes of the raw outputs")
        return ModelCard(
            task=inputs.task,
            model=self.model,
            classes=classes,
            own_classes=inputs.own_classes,
            class_map=inputs.class_map,
            preprocessing=inputs.preprocessing,
            code=self.code,
        )


@dataclass(frozen=True)
class Finished:
    """A teacher as its worker left it."""

    card: ModelCard
    state: Mapping[str, torch.Tensor]
    history: tuple[EpochQuality, ...] = ()
    kept_epoch: int | None = None
    ended_early: str | None = None
    sizes: tuple[DomainSize, ...] = ()


def leave(work: Work, number: int, finished: Finished) -> None:
    """Leave the finished teacher as checkpoint `number`, later than all others."""
    from stages.training import checkpoints

    meta: dict[str, Any] = {
        "card": finished.card.dump(),
        "history": [line.dump() for line in finished.history],
        "kept_epoch": finished.kept_epoch,
        "ended_early": finished.ended_early,
        "sizes": [size.dump() for size in finished.sizes],
    }
    checkpoints.save(work.checkpoints, number, finished.state, {"finished": meta})


def finished_of(saved: tuple[int, dict[str, torch.Tensor], dict[str, Any]] | None) -> Finished | None:
    """The finished teacher, if that is what the newest checkpoint holds."""
    if saved is None or "finished" not in saved[2]:
        return None
    meta = saved[2]["finished"]
    history = tuple(EpochQuality.model_validate(line) for line in meta["history"])
    card = ModelCard.parse(meta["card"], "finished teacher")
    sizes = tuple(DomainSize.model_validate(size) for size in meta["sizes"])
    return Finished(card, saved[1], history, meta["kept_epoch"], meta["ended_early"], sizes)


def delegate(context: Context, function: Callable[[Work], None], work: Work) -> None:
    """Run `function(work)` as one Ray task, or in this process in local mode.

    Raises what it raised if that is a CrossdistillError, else InternalError with the cause.
    """
    if context.local:
        function(work)
        return
    from stages.cluster import on_ray

    on_ray(context.step, context.resources, function, work)
