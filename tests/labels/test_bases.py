"""Low-rank sets: one basis, made once, kept when the domain grows; and sets that are less exact than required."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from schemas.artifacts import SamplesRef
from schemas.domains import DomainInputs
from schemas.encodings import LowRank, TopK
from schemas.errors import StoreError
from schemas.labels import LabelsInputs, Requirements
from schemas.spec import Source
from stages.context import Context
from stages.domains.stage import DOMAINS
from stages.labels import bases
from stages.labels.encodings.low_rank import fit_basis
from stages.labels.reader import LabelSet
from stages.labels.stage import LABELS
from stages.places import Place
from tests.evaluation.world import TASK, make_model

EXACT = LowRank(kind="low-rank", rank=2, dtype="float16")
"""Three classes, centred, have rank 2."""


def pack(context: Context, folder: Path, rows: int) -> SamplesRef:
    """So many pictures of noise, 20 a shard; a larger domain begins with the smaller one."""
    folder.mkdir(parents=True, exist_ok=True)
    pictures = np.random.default_rng(0).integers(0, 255, (100, 8, 8, 1)).astype(np.uint8)[:rows]
    np.savez(folder / f"{rows}.npz", image=pictures, sample_id=np.array([f"s{row}" for row in range(rows)]))
    source = Source(arrays=str(folder / f"{rows}.npz"))
    return DOMAINS.run(context, DomainInputs(source=source, task=TASK, shard_rows=20)).samples


def ask(context: Context, samples: SamplesRef, **more: Any) -> LabelsInputs:
    fields: dict[str, Any] = {"encoding": EXACT, "batch_size": 16} | more
    return LabelsInputs(task=TASK, teacher=make_model(context, seed=1), samples=samples, **fields)


@pytest.fixture
def forwards(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Rows of each forward pass of a teacher."""
    from stages.labels.labeller import Labeller

    real, seen = Labeller._forward, list[int]()

    def forward(self: Labeller, batch: Any) -> Any:
        seen.append(len(batch))
        return real(self, batch)

    monkeypatch.setattr(Labeller, "_forward", forward)
    return seen


def test_a_low_rank_set_says_what_the_teacher_says(local_context: Context, tmp_path: Path) -> None:
    samples = pack(local_context, tmp_path, 48)
    outputs = LABELS.run(local_context, ask(local_context, samples))
    exact = LABELS.run(local_context, ask(local_context, samples, encoding=TopK(kind="top-k", k=3)))
    labels, dense = (LabelSet.open_ref(local_context.place(out.labels), out.labels) for out in (outputs, exact))
    rows = np.array([47, 0, 21, 21])
    found, wanted = (item.decode(item.gather(rows)).log_probabilities(2.0) for item in (labels, dense))
    assert np.allclose(found, wanted, atol=2e-3)
    assert {name: values.shape for name, values in labels.gather(rows).items()} == {"codes": (4, 2)}
    assert labels.schema.basis is not None


def test_a_killed_run_makes_the_same_set(
    local_context: Context, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    samples = pack(local_context, tmp_path, 48)
    asked = ask(local_context, samples)
    for name in ("bases/asked", "plan.json", "receipt.json"):
        real = Place.put_new

        def put_new(self: Place, key: str, data: bytes, end: str = name, real: Any = real) -> bool:
            made: bool = real(self, key, data)
            if end in f"{self.uri}/{key}":
                raise KeyboardInterrupt
            return made

        monkeypatch.setattr(Place, "put_new", put_new)
        with pytest.raises(KeyboardInterrupt):
            LABELS.run(local_context, asked)
        monkeypatch.setattr(Place, "put_new", real)
    outputs = LABELS.run(local_context, asked)
    elsewhere = Context(workspace=Place(str(tmp_path / "elsewhere")), resources=local_context.resources)
    assert LABELS.run(elsewhere, asked).labels.digest == outputs.labels.digest


def test_a_domain_that_grew_keeps_its_basis(local_context: Context, tmp_path: Path, forwards: list[int]) -> None:
    small = LABELS.run(local_context, ask(local_context, pack(local_context, tmp_path, 40)))
    assert sum(forwards) == 80  # the basis, and the labels
    forwards.clear()
    large = LABELS.run(local_context, ask(local_context, pack(local_context, tmp_path, 55)))
    assert sum(forwards) == 15
    schemas = [LabelSet.open_ref(local_context.place(out.labels), out.labels).schema for out in (small, large)]
    assert schemas[0].basis == schemas[1].basis


def test_more_rank_than_classes_have(local_context: Context, tmp_path: Path, forwards: list[int]) -> None:
    asked = ask(local_context, pack(local_context, tmp_path, 40), encoding=LowRank(kind="low-rank", rank=3))
    with pytest.raises(StoreError, match="rank 3 is more than 3 classes can have: set it to 2"):
        LABELS.run(local_context, asked)
    assert not forwards


@pytest.mark.ray
def test_on_ray_it_is_the_same(local_context: Context, ray_context: Context, tmp_path: Path) -> None:
    samples = pack(local_context, tmp_path, 48)
    asked = ask(local_context, samples)
    here, there = LABELS.run(local_context, asked), LABELS.run(ray_context, asked)
    sets = [LabelSet.open(str(context.workspace.path / "store")) for context in (local_context, ray_context)]
    rows = np.arange(48)
    assert np.allclose(sets[0].logits(rows), sets[1].logits(rows), atol=1e-3)
    assert (here.rows, here.units) == (there.rows, there.units)


# --- the store's side --------------------------------------------------------------------------------------------


def test_a_basis_is_made_once_and_read_back(tmp_path: Path) -> None:
    place, logits = Place(str(tmp_path)), np.random.default_rng(0).normal(size=(30, 5)).astype("f4")
    made = bases.make_basis(place, "0" * 32, 3, lambda: logits)
    again = bases.make_basis(place, "0" * 32, 3, lambda: pytest.fail("it is there"))
    assert again.digest == made.digest == fit_basis(logits, 3).digest
    for fault in (b"", b"x" * 40, place.read(bases.basis_name(made.digest))[:-4] + b"abcd"):
        place.remove(bases.basis_name(made.digest))
        with pytest.raises(StoreError, match="is missing"):
            bases.read_basis(place, made.digest)
        place.put(bases.basis_name(made.digest), fault)
        with pytest.raises(StoreError, match="is damaged"):
            bases.read_basis(place, made.digest)


# --- requirements ------------------------------------------------------------------------------------------------


def test_a_set_that_is_not_exact_enough_is_refused_and_its_units_kept(
    local_context: Context, tmp_path: Path, forwards: list[int]
) -> None:
    coarse = TopK(kind="top-k", k=1, temperatures=(2.0,))
    asked = ask(local_context, pack(local_context, tmp_path, 40), encoding=coarse)
    bounds = {"full_kl": {"2": 1e-9, "1": 1.0}, "top1_agreement": 0.5}
    strict = asked.model_copy(update={"require": Requirements.model_validate(bounds)})
    with pytest.raises(StoreError) as told:
        LABELS.run(local_context, strict)
    assert "full_kl at T = 2 is " in str(told.value)
    assert "at most 1e-09 is required; full_kl at T = 1 cannot be measured" in str(told.value)
    assert "top1_agreement" not in str(told.value)
    assert LABELS.find(local_context, strict) is None
    done = sum(forwards)
    assert LABELS.run(local_context, asked).rows == 40
    assert sum(forwards) == done == 40
    assert LABELS.fingerprint(asked) == LABELS.fingerprint(strict)
    with pytest.raises(StoreError, match="not exact enough"):
        LABELS.find(local_context, strict)
