"""Small honest fakes: samples in memory, a task of plain vectors, teachers whose answers are known."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch

from schemas.artifacts import ModelRef, Provenance, SamplesRef
from schemas.base import Part
from schemas.canonical import digest_bytes
from schemas.encodings import Dense, Encoding
from schemas.labels import LabelsInputs, Replay, SetManifest, SetPlan, UnitPlan
from stages.labels.actor import label_units
from stages.labels.builder import How
from stages.labels.encodings import label_schema
from stages.labels.labeller import Labeller
from stages.labels.sets import complete_set, plan_set
from stages.labels.store import About, Store
from stages.places import Place
from stages.training.penultimate import Penultimate


@dataclass(frozen=True)
class FakeShard:
    name: str
    rows: int
    digest: str


class FakeSamples:
    """Packed samples of one `raw` column: row i of shard s is a vector that its id tells apart."""

    def __init__(self, rows: Sequence[int], width: int = 4, zero: bool = False, salt: str = "") -> None:
        self._x, self._ids, self._content = [], [], []
        shards = []
        for number, count in enumerate(rows):
            rng = np.random.default_rng([number, count])
            x = np.zeros((count, width), np.float32) if zero else rng.normal(size=(count, width)).astype("f4") * 4
            ids = [f"{salt}sample-{number}-{row}-é" for row in range(count)]
            content = np.stack(
                [
                    np.frombuffer(hashlib.blake2b(f"{number} {row}".encode(), digest_size=16).digest(), "u1")
                    for row in range(count)
                ]
            )
            self._x.append(x)
            self._ids.append(ids)
            self._content.append(content)
            digest = digest_bytes(x.tobytes(), content.tobytes(), "".join(ids).encode())
            shards.append(FakeShard(f"shard-{number:05d}.arrow", count, digest))
        self.shards = tuple(shards)
        self.rows = sum(rows)

    def sample_ids(self, shard: int) -> list[str]:
        return list(self._ids[shard])

    def content_ids(self, shard: int) -> np.ndarray:
        return self._content[shard]

    def read(self, shard: int) -> dict[str, Any]:
        return {"x": self._x[shard]}


class FakeTask:
    """Vectors as they are."""

    forces = False

    def batch(self, packed: Any, preprocessing: Any) -> torch.Tensor:
        return torch.from_numpy(np.ascontiguousarray(packed["x"]))


class OracleTeacher:
    """Logit c of a sample is its c-th number, so that labels are known without a model. Counts its rows."""

    def __init__(self, change: Callable[[torch.Tensor], torch.Tensor] = lambda batch: batch) -> None:
        self.task: Any = FakeTask()
        self.preprocessing = None
        self.module: torch.nn.Module = torch.nn.Identity()
        self.rows = 0
        self._change = change

    def answer(self, batch: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        self.rows += len(batch)
        return self._change(batch), torch.zeros(len(batch))

    def penultimate(self) -> Penultimate:
        return Penultimate(self.module, torch.zeros(2, 4), 4, "oracle")


class Killed(Exception):
    """The process ended here."""


@dataclass
class Crash:
    """Ends the process before or after its k-th operation on the store; from then on nothing works."""

    at: int = -1
    after: bool = False
    names: list[str] = field(default_factory=list)
    dead: bool = False

    @contextmanager
    def operation(self, name: str) -> Iterator[None]:
        if self.dead:
            raise Killed(name)
        number = len(self.names)
        self.names.append(name)
        if number == self.at and not self.after:
            self.dead = True
            raise Killed(name)
        yield
        if number == self.at:
            self.dead = True
            raise Killed(name)


@dataclass(frozen=True)
class CrashingPlace(Place):
    """A place whose every write is an operation at which the process may end."""

    crash: Crash = field(default_factory=Crash)

    def put_new(self, name: str, data: bytes) -> bool:
        with self.crash.operation(f"put_new {name}"):
            return super().put_new(name, data)

    def put(self, name: str, data: bytes) -> None:
        with self.crash.operation(f"put {name}"):
            super().put(name, data)

    def remove(self, name: str) -> None:
        with self.crash.operation(f"remove {name}"):
            super().remove(name)

    @contextmanager
    def writing(self, name: str) -> Iterator[Path]:
        with self.crash.operation(f"writing {name}"), super().writing(name) as path:
            yield path


CLASSES = ("a", "b", "c", "d")
NOBODY = "0" * 32


def inputs_for(encoding: Encoding | None = None, batch_size: int = 4, **more: Any) -> LabelsInputs:
    """What is asked, of artifacts that nobody looks at."""
    return LabelsInputs(
        task=Part(name="vectors"),
        teacher=ModelRef(uri="teacher", fingerprint=NOBODY, digest=NOBODY),
        samples=SamplesRef(uri="samples", fingerprint=NOBODY, digest=NOBODY),
        encoding=encoding or Dense(),
        batch_size=batch_size,
        **more,
    )


def plan_for(samples: FakeSamples, inputs: LabelsInputs, classes: tuple[str, ...] = CLASSES) -> SetPlan:
    """The plan of a set, under a fingerprint made from the samples."""
    fingerprint = digest_bytes(*(shard.digest.encode() for shard in samples.shards), inputs.to_json())
    provenance = Provenance(package="1", inputs={}, code={"task vectors": "1"})
    return plan_set(inputs, fingerprint, 1, label_schema(classes, inputs.encoding), samples, provenance)


def make_fake_set(
    place: Place,
    samples: FakeSamples,
    teacher: OracleTeacher,
    inputs: LabelsInputs | None = None,
    replays: tuple[Replay, ...] = (),
) -> SetManifest:
    """Label samples in this process, as the stage does in local mode."""
    inputs = inputs or inputs_for()
    plan = plan_for(samples, inputs)
    store = Store.create(place)
    how = How(plan.label_schema, inputs.precision, inputs.batch_size, plan.fidelity_threshold, views=inputs.views)

    def label(units: Sequence[UnitPlan]) -> Iterator[Any]:
        return label_units(Labeller(store, samples, teacher, how), units)

    return complete_set(store, plan, label, About(NOBODY, inputs.samples.digest, replays))


def labeller_for(store: Store, samples: FakeSamples, teacher: OracleTeacher, **more: Any) -> Labeller:
    inputs = inputs_for(**more)
    plan = plan_for(samples, inputs)
    return Labeller(
        store, samples, teacher, How(plan.label_schema, inputs.precision, inputs.batch_size, plan.fidelity_threshold)
    )
