"""Models as artifacts: built from a card, saved beside it as safetensors, loaded again wherever one labels or learns.

An artifact of `teachers` or `students` holds `model.json` (the card) and `model.safetensors`; both are read with
their checksums, and together they must have the digest that was referred to. torch is loaded by what needs it.

Shapes: B rows, C classes, O own classes (raw outputs of a network that a class map follows).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from schemas.artifacts import Artifact, ModelRef, SeenInfo
from schemas.base import Contract, Part
from schemas.canonical import digest
from schemas.errors import ModelError, StoreError, did_you_mean
from schemas.models import ModelCard
from stages.artifacts import Attempt, open_ref, read_object
from stages.places import Place
from stages.registry import validate_settings
from stages.tasks import get_task
from stages.tasks.base import Task

if TYPE_CHECKING:
    import torch

    from stages.domains.seen import Seen
    from stages.training.class_map import ClassMap
    from stages.training.penultimate import Penultimate

CARD = "model.json"
WEIGHTS = "model.safetensors"
STAGES = ("teachers", "students", "soups")
"""Stages whose artifacts are models."""


@dataclass(frozen=True)
class LoadedModel:
    """A model with its weights, in evaluation mode, on the CPU."""

    network: torch.nn.Module
    """Input batch to the network's raw outputs (B, O)."""
    class_map: ClassMap | None
    """From the raw outputs to the card's classes; none where they are the same."""
    module: torch.nn.Module
    """Both in one: input batch to logits (B, C) of the card's classes."""
    card: ModelCard
    task: Task
    preprocessing: Any
    """The task's validated `Preprocessing`."""

    def answer(self, batch: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """(logits (B, C), probability (B,) that fell on classes which the class map leaves out), in one pass."""
        raw = self.network(batch)
        if self.class_map is None:
            return raw, raw.new_zeros(len(raw))
        return self.class_map(raw), self.class_map.unmapped_mass(raw)

    def for_inference(self) -> LoadedModel:
        """The same model for inference alone: faster, and equal to rounding (`stages.training.inference`)."""
        from stages.training.inference import for_inference

        return _loaded(for_inference(self.network), self.class_map, self.card, self.task, self.preprocessing)

    def penultimate(self) -> Penultimate:
        """Takes the network's penultimate features from its next forward pass on. Raises ModelError without a head."""
        from stages.training.penultimate import FAKE_ROWS, Penultimate

        outputs = len(self.card.own_classes or self.card.classes)
        batch = self.task.fake_batch(FAKE_ROWS, self.preprocessing)
        return Penultimate(self.network, batch, outputs, self.card.model.name)


def preprocessing_of(task: Task, settings: Mapping[str, Any]) -> Any:
    """A model's `preprocessing` in the task's own contract. Raises SpecError."""
    return validate_settings(task.Preprocessing, dict(settings), "preprocessing")


def build(
    task: Task, model: Part, outputs: int, preprocessing: Contract | Mapping[str, Any], seed: int = 0
) -> torch.nn.Module:
    """A model of the task with `outputs` numbers a row, initialised from `seed` alone.

    The process's own random state is left as it was. Raises ModelError for a model that cannot be built.
    """
    import torch

    settings = preprocessing_of(task, preprocessing) if isinstance(preprocessing, Mapping) else preprocessing
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return task.build(model, outputs, settings)


def save_model(attempt: Attempt, card: ModelCard, state: Mapping[str, torch.Tensor]) -> str:
    """Write card and weights into an attempt; the answer is the model's digest, for its `ModelRef`."""
    from stages.training.checkpoints import to_bytes

    attempt.put(CARD, card.to_json())
    info = attempt.put(WEIGHTS, to_bytes(state))
    return model_digest(card, info.checksum)


def model_digest(card: ModelCard, weights_checksum: str) -> str:
    """Content digest of a model: its card by meaning, its weights by their bytes."""
    return digest({"card": card, "weights": weights_checksum})


def read_card(place: Place, ref: ModelRef) -> ModelCard:
    """The card of a model. Two small reads, no torch. Raises DataError or StoreError as `open_ref`."""
    return _open(place, ref)[2]


def read_state(place: Place, ref: ModelRef) -> dict[str, torch.Tensor]:
    """The weights of a model by name, to start another from or to adapt."""
    artifact, files, _ = _open(place, ref)
    return _state(artifact, files)


def read_seen(place: Place, ref: ModelRef) -> Seen | None:
    """The rows that a model learned from; None where its artifact does not say. Two small reads and the list."""
    from stages.domains.seen import Seen

    artifact, files = open_ref(place, ref, *STAGES)
    if (told := artifact.outputs.get("seen")) is None:
        return None
    info = SeenInfo.model_validate(told)
    return Seen.load(files.read_or_none(info.object.name), info, f"{files.uri}/{info.object.name}")


def load_model(place: Place, ref: ModelRef) -> LoadedModel:
    """A model, built from its card and given its weights.

    Raises DataError or StoreError if the artifact is gone or damaged, ModelError if the model no longer builds.
    """

    artifact, files, card = _open(place, ref)
    state = _state(artifact, files)
    task = get_task(card.task)
    own = card.own_classes or card.classes
    preprocessing = preprocessing_of(task, card.preprocessing)
    network = build(task, card.model, len(own), preprocessing)
    try:
        network.load_state_dict(state)
    except RuntimeError as error:
        raise ModelError(
            f"the weights at {place.uri} no longer fit {card.model.name}: {' '.join(str(error).split())[:300]}. "
            "Was its source changed?"
        ) from None
    network.eval()
    mapped = None
    if card.own_classes is not None:
        from stages.training.class_map import ClassMap

        mapped = ClassMap(members(own, card.class_map, card.classes))
    return _loaded(network, mapped, card, task, preprocessing)


def _loaded(
    network: torch.nn.Module, class_map: ClassMap | None, card: ModelCard, task: Task, preprocessing: Any
) -> LoadedModel:
    import torch

    module = network if class_map is None else torch.nn.Sequential(network, class_map).eval()
    return LoadedModel(network, class_map, module, card, task, preprocessing)


def members(own: Sequence[str], class_map: Mapping[str, str], classes: Sequence[str]) -> list[list[int]]:
    """Numbers of the own classes that make up each class; without a class map, equal names.

    Raises ModelError for a class map with unknown names, or a class that nothing leads to: its logit would be a lie.
    """
    pairs = dict(class_map) or {name: name for name in own if name in classes}
    problems = [
        f"class_map: '{name}' is no class of the model{did_you_mean(name, list(own))}"
        for name in pairs
        if name not in own
    ]
    problems += [
        f"class_map: '{name}' is no class of the target{did_you_mean(name, list(classes))}"
        for name in dict.fromkeys(pairs.values())
        if name not in classes
    ]
    groups = [[number for number, name in enumerate(own) if pairs.get(name) == wanted] for wanted in classes]
    empty = [name for name, group in zip(classes, groups, strict=True) if not group]
    if empty:
        problems.append(f"no class of the model leads to {', '.join(empty)}: name one in `class_map`")
    if problems:
        raise ModelError(*problems)
    return groups


def _open(place: Place, ref: ModelRef) -> tuple[Artifact, Place, ModelCard]:
    artifact, files = open_ref(place, ref, *STAGES)
    card = ModelCard.parse_json(read_object(files, artifact, CARD), f"{files.uri}/{CARD}")
    weights = next((item for item in artifact.objects if item.name == WEIGHTS), None)
    if weights is None or model_digest(card, weights.checksum) != ref.digest:
        raise StoreError(f"the model at {place.uri} is not the one that was referred to ({ref.digest}): run again")
    return artifact, files, card


def _state(artifact: Artifact, files: Place) -> dict[str, torch.Tensor]:
    import safetensors.torch

    state: dict[str, torch.Tensor] = safetensors.torch.load(read_object(files, artifact, WEIGHTS))
    return state
