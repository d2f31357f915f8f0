"""What a task is: everything that depends on the kind of problem, in one file.

A task says how a source row becomes a packed sample and its truth, how packed samples become a batch for a model,
which models it knows by name, and which metrics count. Stages know only this interface.
Task modules import torch (and other heavy packages) inside functions only.

A label stands for one item or for several: a sample, or each token of a text (a pixel, a box), and every item has one
distribution over C classes. A model of a task with several items a sample is *forced*: it is handed what is asked
beside its inputs, which is the truth or what a teacher said (or where it spoke of), never anything else, and answers
for these items; handed its inputs alone it says what it would.

A task may also ask several questions of each sample (`questions`). Then outputs and labels hold the classes of one
question after another's, each a distribution of its own, and a sample's truth answers some of the questions or all.

Shapes: B rows, N items of all rows, one row's after another's, C classes, Q questions, T numbers of what is asked of a
row, K channels, S side of the picture.
"""

from __future__ import annotations

import inspect
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from schemas.base import Contract, Part
from schemas.labels import SAID, LabelShape
from schemas.training import Training

if TYPE_CHECKING:
    import numpy as np
    import torch

    from stages.labels.decoded import Decoded
    from stages.random import Draws
    from stages.truth import Truth

Packed = Mapping[str, Any]
"""Columns of packed samples by role. A `raw` column is a numpy array of shape (B, *shape) and the declared dtype,
an `encoded` column a sequence of B bytes objects."""


def rows_of(packed: Packed, rows: slice | np.ndarray) -> Packed:
    """Some of the rows of packed samples, in the order of `rows`."""
    if isinstance(rows, slice):
        return {role: values[rows] for role, values in packed.items()}
    return {
        role: [values[row] for row in rows.tolist()] if isinstance(values, list) else values[rows]
        for role, values in packed.items()
    }


class BadRow(ValueError):
    """A row that cannot be used; the message says why, without its place."""


def is_empty(cell: Any) -> bool:
    """Whether a source's cell has no value."""
    return cell is None or (isinstance(cell, str) and not cell) or (isinstance(cell, float) and cell != cell)


@dataclass(frozen=True)
class Column:
    """How one column of a packed sample is stored."""

    storage: str
    """`raw`: one array of fixed shape; `encoded`: bytes of any length (a PNG, a UTF-8 text)."""
    dtype: str | None = None
    """Numpy type of a raw value."""
    shape: tuple[int, ...] | None = None
    """Shape of a raw value, such as (height, width, channels)."""

    def dump(self) -> dict[str, Any]:
        """As it stands in a manifest."""
        return {"storage": self.storage, "dtype": self.dtype, "shape": list(self.shape) if self.shape else None}

    @classmethod
    def load(cls, value: Mapping[str, Any]) -> Column:
        """From a manifest."""
        shape = value.get("shape")
        return cls(value["storage"], value.get("dtype"), tuple(shape) if shape else None)


@dataclass(frozen=True)
class Sample:
    """One row, checked and ready to be packed."""

    values: Mapping[str, bytes]
    """Bytes by role."""
    columns: Mapping[str, Column]
    """How each is stored; all samples of a domain must agree."""
    content: bytes
    """What identifies the decoded inputs; hashed into `content_id`. Never holds truth."""


@dataclass(frozen=True)
class Question:
    """One of several things that are asked of each sample."""

    name: str
    columns: slice
    """Its part of the classes."""


class Task(ABC):
    """One kind of problem. Built with its validated `Config`; holds no other state."""

    Config: ClassVar[type[Contract]]
    """Settings of the spec's `task`."""
    Prepare: ClassVar[type[Contract]]
    """Settings of `domains.*.prepare`."""
    Preprocessing: ClassVar[type[Contract]]
    """Settings of `teachers.*.preprocessing` and `students.*.preprocessing`."""
    Augmentation: ClassVar[type[Contract]]
    """Settings of `training.augmentation`, and of the views of a label set."""
    roles: tuple[str, ...]
    """Input columns of a source (`image`); beside them `labels` and `sample_id` are optional."""
    labels: tuple[str, ...] = ("label",)
    """Columns of a source that a row's truth is made of; one may be missing, or empty."""
    optional: frozenset[str] = frozenset()
    """Roles that a source may lack as a whole; it must have the others."""
    files: ClassVar[frozenset[str]] = frozenset()
    """Roles whose text cells name a file beside the source's own; `pack` gets that file's bytes."""
    coded: ClassVar[bool] = False
    """Whether truth is bytes that `code_truth` makes of a source's label, and not the number of a class."""
    forces: ClassVar[bool] = False
    """Whether its models are forced on what is asked of them."""
    recalls: ClassVar[frozenset[str]] = frozenset({SAID})
    """Fields of a label set that `recalled` reads, of a task that forces."""
    metrics: ClassVar[tuple[str, ...]]
    """Known metrics, the first one leading. Larger is better, except for those in `errors`."""
    forced_metric: ClassVar[str | None] = None
    """Share of the items that a model gets right when it is forced on the truth, by this name, for tasks that force;
    never leading, and measured by evaluations alone."""
    errors: ClassVar[frozenset[str]] = frozenset()
    """Metrics of which less is better."""
    unbounded: ClassVar[frozenset[str]] = frozenset()
    """Metrics that are no share of 1 (such as a loss in nats): shown as they are, the others in percent."""
    models: ClassVar[tuple[str, ...]]
    """Models known by a short name."""
    libraries: ClassVar[tuple[str, ...]] = ()
    """Forms of the names of other libraries' models, such as `timm/NAME`."""
    mixes: ClassVar[frozenset[str]] = frozenset()
    """Ways to mix two inputs that make sense for it: `mixup` (of numbers that may be blended), `cutmix` (of pictures
    whose last two axes are rows and columns)."""

    def __init__(self, config: Any) -> None:
        self.config = config

    @classmethod
    def starter(cls) -> str:
        """A commented spec that runs as it is: the YAML file beside the task's own."""
        path = Path(inspect.getfile(cls)).with_suffix(".yaml")
        return path.read_text("utf-8")

    # --- samples ---------------------------------------------------------------------------------------------

    @abstractmethod
    def pack(self, row: Mapping[str, Any], prepare: Any) -> Sample:
        """A source row (by role; a file's bytes, an array or a plain value) as a sample. Raises BadRow."""

    @abstractmethod
    def pack_truth(self, value: Any, classes: Sequence[str]) -> int:
        """A source label as the number of its class. Raises BadRow if it is none of `classes`."""

    @abstractmethod
    def class_name(self, value: Any) -> str:
        """A source label as the name of its class. Raises BadRow."""

    def label(self, row: Mapping[str, Any]) -> Any:
        """The label of a source row (by role), empty where it has none."""
        return row.get("label")

    def code_truth(self, value: Any) -> bytes:
        """A source label as bytes, where truth is `coded`. Raises BadRow."""
        raise NotImplementedError

    def vocabulary(self) -> tuple[str, ...] | None:
        """The classes of its items, where these are the task's own; none: a domain's labels name them."""
        return None

    @property
    def of_classes(self) -> tuple[str, ...]:
        """Metrics of single classes, known beside `metrics` and worked out where they are asked for by name."""
        return ()

    @property
    def label_shape(self) -> LabelShape:
        """What one stored label stands for."""
        return LabelShape()

    @property
    def questions(self) -> tuple[Question, ...]:
        """What is asked of each sample, where that is several things; none: one thing, of which all classes are.

        A method learns each by itself, as if it were all that is asked (`stages.students.methods`).
        """
        return ()

    # --- items -----------------------------------------------------------------------------------------------

    def asked(self, truth: Truth) -> torch.Tensor:
        """What rows with this truth ask of a model: int64 (B,) class numbers, or (B, T) where it is forced."""
        import torch

        return torch.from_numpy(truth.astype("int64"))

    def own(self, module: torch.nn.Module, batch: torch.Tensor) -> torch.Tensor:
        """What a teacher is forced on where it labels (B, T): its own answers. No truth comes near a set."""
        said: torch.Tensor = module(batch)
        return said.to(batch.dtype)

    def recorded(self, own: torch.Tensor) -> dict[str, torch.Tensor]:
        """What is stored beside the labels of a teacher that is forced on its own answers (B, T), by field, (N, ...):
        all that `recalled` needs."""
        return {SAID: self.targets(own)}

    def recalled(
        self, items: np.ndarray, stored: Mapping[str, np.ndarray], seen: torch.Tensor | None = None
    ) -> torch.Tensor:
        """What stored labels ask of a model that is forced (B, T): how many each row has (B,), and what was recorded
        of all of them.

        `seen`: the batch as the labels are of it, where they are of a view; none: of the samples as they are.
        """
        raise NotImplementedError

    def answered(self, decoded: Decoded, items: np.ndarray, stored: Mapping[str, np.ndarray]) -> np.ndarray:
        """What stored labels come to in their teacher's place, as `score` wants it: logits (B, C), or what it said."""
        if not self.forces:
            return decoded.dense()
        return self.recalled(items, stored).numpy().astype("float32")

    def taught(self, forced: torch.Tensor) -> torch.Tensor | None:
        """Number of the stored label that each item of a batch stands for, forced on what a teacher said (N,), counted
        over the labels of the whole batch; none: items are the labels, one by one."""
        return None

    def forced(self, batch: torch.Tensor, asked: torch.Tensor) -> torch.Tensor:
        """The batch of a model that is forced on what is asked; as it is, where none is."""
        return batch

    def items(self, forced: torch.Tensor) -> torch.Tensor | None:
        """Items of each row of a forced batch, int64 (B,); none: one each."""
        return None

    def targets(self, asked: torch.Tensor, forced: torch.Tensor | None = None) -> torch.Tensor:
        """The class that is asked of each item, int64 (N,); of several questions the class among each one's own,
        (B, Q), UNKNOWN where nobody answers.

        `forced` is the batch, for tasks where that depends on how samples were changed; without it they are as packed.
        """
        return asked

    def losses(self, logits: torch.Tensor, targets: torch.Tensor, training: Training) -> torch.Tensor:
        """Cross-entropy of outputs (N, C) with what is asked of them (N,), smoothed as a training says."""
        from torch.nn.functional import cross_entropy

        return cross_entropy(logits, targets, reduction="none", label_smoothing=training.label_smoothing)

    def counted(self, targets: torch.Tensor, training: Training) -> torch.Tensor:
        """What each of these losses counts in their mean (N,), which is their sum over the sum of this; float64."""
        return targets.new_ones(len(targets)).double()

    def priced(self, outputs: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor | None]:
        """A model's outputs as (logits (N, C), what each item costs beside its class (N,)); none: nothing.

        A model that is forced may say that in training, where an item is more than its class: a box has a place.
        Whoever trains it adds the mean of these costs to the loss, weighted as the items are.
        """
        return outputs, None

    def compared(self, said: np.ndarray) -> np.ndarray:
        """What a model's answers come to, a row each, where two models' are compared: the most likely class."""
        answers: np.ndarray = said.argmax(axis=1)
        return answers

    def alike(self, one: np.ndarray, other: np.ndarray) -> np.ndarray:
        """How far two models' answers, as `compared` gives them, are alike, of each row (B,): wholly, or not at all."""
        same: np.ndarray = (one == other).reshape(len(one), -1).all(axis=1)
        return same

    # --- tensors ---------------------------------------------------------------------------------------------

    def reads(self, preprocessing: Any) -> tuple[str, ...] | None:
        """The roles that a model with this preprocessing reads; others never reach it. None: all of them.

        So a teacher and its student may read different sides of one sample.
        """
        return None

    @abstractmethod
    def batch(self, packed: Packed, preprocessing: Any) -> torch.Tensor:
        """Packed samples as one input batch on the CPU, before augmentation and normalisation.

        One tensor (B, ...), whose other sides do not depend on the rows: batches are cut, joined and compared.
        """

    @abstractmethod
    def augmented(self, packed: Packed, preprocessing: Any, augmentation: Any, draws: Draws) -> torch.Tensor:
        """As `batch`, of samples that are changed by parameters drawn from `draws` alone, each row by its own.

        Parameters are relative to the sample, not to a model's input, so that models which want another size see the
        same part of it. With nothing set the answer is that of `batch`.
        """

    @abstractmethod
    def fake_batch(self, rows: int, preprocessing: Any) -> torch.Tensor:
        """A batch of the right form, to try a model with; forced, where models are."""

    # --- models ----------------------------------------------------------------------------------------------

    @abstractmethod
    def build(self, model: Part, outputs: int, preprocessing: Any) -> torch.nn.Module:
        """A model by name, with `outputs` numbers a row: freshly initialised from torch's global generator, but for
        pretrained weights that belong to its name.

        It takes what `batch` gives (normalisation is its first step) and returns raw logits (B, outputs). One that is
        forced takes what `forced` gives and returns raw logits (N, outputs), in training what `priced` takes apart; of
        what `batch` gives it says what it would, as `score` wants it: (B, T), on its own.
        Raises ModelError for a name that is unknown or a factory that fails.
        """

    # --- metrics ---------------------------------------------------------------------------------------------

    @abstractmethod
    def score(self, logits: np.ndarray, truth: np.ndarray, metrics: Sequence[str]) -> dict[str, float]:
        """Metrics of what a model says, float32 logits (B, C) or (B, T), against truth (B,); NaN is never returned."""

    @abstractmethod
    def score_rows(self, logits: np.ndarray, truth: np.ndarray, metric: str, weights: np.ndarray) -> np.ndarray:
        """`metric` under W re-weightings of the rows: weights (W, B) whole numbers (how often each row was drawn
        in a bootstrap) to (W,) values. Vectorised: the bootstrap calls it thousands of rows at a time."""
