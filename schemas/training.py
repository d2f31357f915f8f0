"""The block `training:` of a spec: how a model is trained, the same for teachers and students."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Literal, Self

from pydantic import BeforeValidator, Field, NonNegativeFloat, PositiveFloat, PositiveInt, model_validator

from schemas.base import Contract, Fraction, Part

Share = Annotated[float, Field(gt=0, lt=1)]
"""A share of what is neither nothing nor all."""


class Constant(Contract):
    """The peak rate at every step."""

    name: Literal["constant"] = "constant"
    """Tag of the schedule."""


class InverseTime(Contract):
    """The peak rate / (1 + decay * epoch), epochs counted from 0."""

    name: Literal["inverse-time"]
    """Tag of the schedule."""
    decay: NonNegativeFloat
    """How fast the rate falls, per epoch."""


class Stepwise(Contract):
    """The peak rate, multiplied by a factor after every so many epochs."""

    name: Literal["step"]
    """Tag of the schedule."""
    epochs: PositiveInt
    """Epochs from one fall to the next."""
    factor: Share = 0.1
    """What the rate is multiplied by."""


class Cosine(Contract):
    """Half a cosine from the peak rate to 0, after the warm-up."""

    name: Literal["cosine"]
    """Tag of the schedule."""


class OneCycle(Contract):
    """Half a cosine up from peak / 25 over the warm-up, and another down to peak / 250,000 (Smith 2018)."""

    name: Literal["one-cycle"]
    """Tag of the schedule."""


def _named(value: Any) -> Any:
    return {"name": value} if isinstance(value, str) else value


Schedule = Annotated[
    Annotated[Constant | InverseTime | Stepwise | Cosine | OneCycle, Field(discriminator="name")],
    BeforeValidator(_named, json_schema_input_type=str | Mapping[str, Any]),
]
"""Course of the learning rate: a name, or a mapping of `name` and its settings."""


class Mixing(Contract):
    """Pairs of rows become one, and its loss is that of both targets; of true and of teachers' labels alike."""

    mixup: NonNegativeFloat = 0.0
    """Blends two rows, the share drawn from Beta(a, a) with this a: 0.2 for little, 1 for any; 0 for none."""
    cutmix: NonNegativeFloat = 0.0
    """Sets a box of one picture into the other, its share of the area drawn from Beta(a, a); 0 for none. With both, a
    step takes one or the other, as often."""
    share: Fraction = 1.0
    """Share of the steps that are mixed."""

    @model_validator(mode="after")
    def _some(self) -> Self:
        if not self.mixup and not self.cutmix:
            raise ValueError("give `mixup` or `cutmix`, or both, a strength above 0")
        return self


class Scaling(Contract):
    """Starts small: a smaller model is trained first, and the one that is asked for takes over from it."""

    start: Part
    """The smaller model. One of the same architecture in another width is widened without a change of its answers."""
    switch_at: Share = 0.5
    """Share of the steps after which the model that is asked for takes over."""
    distil: Fraction = 0.1
    """Share of the steps in which it learns the smaller one's answers first, where it cannot be widened."""


class EarlyStopping(Contract):
    """Ends a training that gets no better on its validation budget; rows without truth are never asked."""

    patience: PositiveInt = 5
    """Epochs without a gain after which it ends."""
    min_gain: NonNegativeFloat = 0.0
    """What the task's leading metric must gain over the best epoch so far, to count; in the metric's own unit."""


class Balance(Contract):
    """Rows with true labels count alike, however many of each kind there are."""

    between: Annotated[tuple[Literal["classes", "domains"], ...], Field(min_length=1)] = ("classes",)
    """What counts alike: the classes, the domains that a teacher learns from, or with both the domains and the classes
    of each. A student balances its target and source by `source_share`."""
    by: Literal["sampler", "weights"] = "sampler"
    """`sampler` draws rows with replacement, rare ones more often; `weights` lets each one's loss count more, with a
    mean of 1 over all rows."""


class Training(Contract):
    """How a model is trained; one block for teachers and students."""

    epochs: PositiveInt | None = None
    """Passes over the training rows (of the shared stream, for students). Either this or `steps`."""
    steps: PositiveInt | None = None
    """Optimiser steps. Either this or `epochs`."""
    batch_size: PositiveInt = 64
    """Rows per step over all workers; for students the shared rows of a step."""
    labelled_batch_size: PositiveInt | None = None
    """Rows with true labels per student step, drawn from the budget; left out: as many as `batch_size`."""
    optimizer: str = "adamw"
    """`adamw`, `adam` or `sgd` as in torch.optim, or `timm/NAME` for one of timm's (timm/lamb, timm/lion, …)."""
    learning_rate: PositiveFloat = 1e-3
    """Peak learning rate, per step."""
    weight_decay: Annotated[float, Field(ge=0)] = 1e-2
    """Decay of weights, as the optimiser defines it."""
    momentum: Fraction = 0.9
    """Momentum of sgd, and of those of timm's that have one; others do not use it."""
    nesterov: bool = True
    """Whether sgd with momentum looks ahead; others do not use it."""
    betas: tuple[Fraction, Fraction] | None = None
    """Decay of an adaptive optimiser's running means; left out: the optimiser's own."""
    schedule: Schedule = OneCycle(name="one-cycle")
    """Course of the learning rate over all steps: `constant`, `cosine`, `one-cycle`, `{name: inverse-time, decay: D}`
    or `{name: step, epochs: N, factor: F}`."""
    warmup: Fraction | None = None
    """Share of the steps in which the rate rises, in a line but for one-cycle. Left out: 0.2 with one-cycle and cosine,
    else 0."""
    label_smoothing: Annotated[float, Field(ge=0, lt=1)] = 0.0
    """Share of a true label that is spread over all classes."""
    gradient_clip: PositiveFloat | None = None
    """Largest norm of the gradient of all weights together."""
    accumulate: PositiveInt = 1
    """Parts that the rows of a step are cut into, one after another, to need less memory. The step is that of the whole
    batch but for batch norm, which sees one part at a time; a student runs each part forward twice."""
    precision: Literal["float32", "bfloat16"] = "float32"
    """Precision that layers compute in while training; weights, losses and validation are float32."""
    ema: Share | None = None
    """Decay of a moving average of the weights, such as 0.999, which is validated and kept in their place; left out:
    none is made. It rises towards this value as (1 + step) / (10 + step), so that short trainings average too."""
    early_stopping: EarlyStopping | None = None
    """Ends the training before its last step, once validation shows no gain; left out: it takes all its steps."""
    augmentation: dict[str, Any] = {}
    """The task's own augmentation settings; empty for none. A student whose label set holds views reads its shared rows
    in these instead, and augments rows with truth: as said here, or as the views were drawn. So do its baselines."""
    mixing: Mixing | None = None
    """Mixed rows, such as {mixup: 0.2} or {cutmix: 1.0}; left out: none. Rows of the source
    are not mixed."""
    scaling: Scaling | None = None
    """A smaller model first, such as {start: {name: mobile-tiny, width: 0.5}}; left out: one model from the beginning.
    A student that starts from weights does not scale."""
    balance: Balance | None = None
    """Balance between classes or domains, by the truth that may be seen; left out: each row counts as it comes."""
    source_share: Share | None = None
    """Share of a student's loss that is the cross-entropy of rows of its teacher's source domain, as many a step as
    shared ones, with the truth that may be seen there; all arms on the target are trained so. Left out: none is."""
    question_weights: dict[str, PositiveFloat] = {}
    """What each question counts in a loss, beside the others, of a task that asks several; one left out counts 1."""
    keep: Literal["best", "last"] | None = None
    """Weights kept: best on the validation budget, or last. Left out: best for teachers and with `early_stopping`,
    else last."""

    @property
    def of_one_rank(self) -> tuple[str, ...]:
        """Settings that are chosen and need all rows of a batch, or of validation, on one rank."""
        chosen = {
            "accumulate": self.accumulate > 1,
            "mixing": self.mixing is not None,
            "early_stopping": self.early_stopping is not None,
            "scaling": self.scaling is not None,
        }
        return tuple(name for name, is_chosen in chosen.items() if is_chosen)

    @model_validator(mode="after")
    def _one_length(self) -> Self:
        if self.epochs is not None and self.steps is not None:
            raise ValueError("give `epochs` or `steps`, not both")
        return self

    @model_validator(mode="after")
    def _parts(self) -> Self:
        for name in ("batch_size", "labelled_batch_size"):
            if (rows := getattr(self, name)) is not None and rows < self.accumulate:
                raise ValueError(f"`accumulate` cannot cut the `{name}` of {rows} rows into {self.accumulate} parts")
        return self

    def shares(self, questions: Sequence[str]) -> tuple[float, ...]:
        """What each of some questions counts in a loss, adding up to 1."""
        weights = [self.question_weights.get(name, 1.0) for name in questions]
        return tuple(weight / sum(weights) for weight in weights)

    @property
    def first_model(self) -> Part | None:
        """The smaller model that a training begins with, where it scales."""
        return None if self.scaling is None else self.scaling.start

    @property
    def keeps_best(self) -> bool:
        """Whether a student's best weights are kept, not its last."""
        return self.keep == "best" or (self.keep is None and self.early_stopping is not None)
