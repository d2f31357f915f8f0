"""Models as artifacts: what is saved is what is loaded, byte for byte, and nothing else is taken for it."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from schemas.artifacts import ModelRef
from schemas.base import Part
from schemas.errors import DataError, ModelError, StoreError
from schemas.models import ModelCard
from schemas.teachers import GivenTeacher, TeacherInputs, TeacherOutputs
from stages.artifacts import Attempt
from stages.places import Place
from stages.tasks import get_task
from stages.training.class_map import ClassMap
from stages.training.models import build, load_model, members, read_card, read_state, save_model

USER_CODE = Path(__file__).parent.parent / "user_code"
TASK = Part.model_validate({"name": "image-classification", "image_size": 8, "channels": 1})


def card(model: str = "mobile-tiny", classes: tuple[str, ...] = ("a", "b", "c"), **more: object) -> ModelCard:
    return ModelCard.model_validate(
        {
            "version": 1,
            "task": TASK,
            "model": Part(name=model),
            "classes": classes,
            "preprocessing": {"mean": [0.5]},
            **more,
        }
    )


def network(of: ModelCard, seed: int = 0) -> torch.nn.Module:
    return build(get_task(of.task), of.model, len(of.own_classes or of.classes), of.preprocessing, seed)


def saved(folder: Place, of: ModelCard, module: torch.nn.Module) -> ModelRef:
    asked = TeacherInputs(task=of.task, way=GivenTeacher())
    attempt = Attempt(folder, "teachers", 1, "f" * 32, asked, {})
    content = save_model(attempt, of, module.state_dict())
    ref = ModelRef(uri=folder.uri, fingerprint="f" * 32, digest=content)
    attempt.commit(TeacherOutputs(model=ref, classes=of.classes), content)
    return ref


@pytest.fixture
def folder(tmp_path: Path) -> Place:
    return Place(str(tmp_path / "model"))


def test_a_seed_alone_makes_a_model() -> None:
    torch.manual_seed(5)
    drawn = torch.rand(1)
    torch.manual_seed(5)
    one, same, other = (network(card(), seed).state_dict() for seed in (1, 1, 2))
    assert torch.equal(torch.rand(1), drawn)  # the process's own random state is left alone
    assert all(torch.equal(one[name], same[name]) for name in one)
    assert not all(torch.equal(one[name], other[name]) for name in one)


def test_a_model_comes_back(folder: Place) -> None:
    module = network(card(), 3).eval()
    ref = saved(folder, card(), module)
    loaded = load_model(folder, ref)
    batch = torch.rand(4, 1, 8, 8)
    assert read_card(folder, ref) == loaded.card == card()
    assert torch.equal(loaded.module(batch), module(batch))
    logits, unmapped = loaded.answer(batch)
    assert torch.equal(logits, module(batch))
    assert unmapped.tolist() == [0.0] * 4
    assert not any(part.training for part in loaded.module.modules())
    assert read_state(folder, ref).keys() == module.state_dict().keys()


def test_equal_models_have_equal_digests(tmp_path: Path) -> None:
    places = [Place(str(tmp_path / name)) for name in "abcd"]
    one, same = (saved(place, card(), network(card())) for place in places[:2])
    nudged = network(card())
    with torch.no_grad():
        weight = next(nudged.parameters())
        weight.view(torch.int32).view(-1)[0] ^= 1  # the last bit of one weight
    other = saved(places[2], card(), nudged)
    recoded = saved(places[3], card(code={"model x": "0" * 32}), network(card()))
    assert one.digest == same.digest
    assert len({one.digest, other.digest, recoded.digest}) == 3


def test_tied_weights_come_back(folder: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(USER_CODE)
    of = card("image_factories:tied")
    module = network(of, 1)
    loaded = load_model(folder, saved(folder, of, module))
    assert torch.equal(loaded.module(torch.ones(1, 1, 8, 8)), module(torch.ones(1, 1, 8, 8)))


@pytest.mark.parametrize("name", ["model.json", "model.safetensors"])
def test_a_damaged_file_is_named(folder: Place, name: str) -> None:
    ref = saved(folder, card(), network(card()))
    path = next(folder.path.glob(f"*/{name}"))
    data = bytearray(path.read_bytes())
    data[-3] ^= 1
    path.write_bytes(data)
    with pytest.raises(StoreError, match=name):
        load_model(folder, ref)
    path.unlink()
    with pytest.raises(StoreError, match=f"{name} is missing"):
        load_model(folder, ref)


def test_another_model_is_not_taken(folder: Place, tmp_path: Path) -> None:
    ref = saved(folder, card(), network(card()))
    with pytest.raises(StoreError, match="not the one that was referred to"):
        load_model(folder, ref.model_copy(update={"digest": "0" * 32}))
    with pytest.raises(DataError, match="no artifact"):
        load_model(Place(str(tmp_path / "elsewhere")), ref)


def test_a_model_whose_source_changed(folder: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(USER_CODE)
    of = card("image_factories:group_norm")
    ref = saved(folder, of, network(of))
    import image_factories  # type: ignore[import-not-found]

    monkeypatch.setattr(image_factories, "group_norm", lambda num_classes: image_factories.tied(num_classes))
    with pytest.raises(ModelError, match=r"no longer fit .* Was its source changed"):
        load_model(folder, ref)


# --- class map -----------------------------------------------------------------------------------------------------


def test_class_map_by_hand() -> None:
    mapped = ClassMap(
        members(
            ["tabby", "poodle", "truck", "siamese"], {"tabby": "cat", "siamese": "cat", "poodle": "dog"}, ["dog", "cat"]
        )
    )
    raw = torch.tensor([[1.0, 2.0, 3.0, 0.5]])
    assert mapped(raw)[0].tolist() == pytest.approx([2.0, math.log(math.e + math.exp(0.5))])
    whole = sum(math.exp(value) for value in (1.0, 2.0, 3.0, 0.5))
    assert mapped.unmapped_mass(raw).tolist() == pytest.approx([math.exp(3.0) / whole])


@given(st.lists(st.integers(-1, 2), min_size=3, max_size=9), st.integers(0, 99))
def test_class_map_adds_probabilities(targets: list[int], seed: int) -> None:
    """softmax of the mapped logits = probability of the members among the mapped classes."""
    targets = [0, 1, 2, *targets]
    groups = [[number for number, target in enumerate(targets) if target == wanted] for wanted in range(3)]
    raw = torch.randn(4, len(targets), generator=torch.Generator().manual_seed(seed))
    mapped = ClassMap(groups)
    own = raw.double().softmax(1)
    wanted = torch.stack([own[:, group].sum(1) for group in groups], dim=1)
    assert torch.allclose(mapped(raw).double().softmax(1), wanted / wanted.sum(1, keepdim=True), atol=1e-6)
    assert torch.allclose(mapped.unmapped_mass(raw).double(), 1 - wanted.sum(1), atol=1e-6)
    assert torch.isfinite(mapped(raw)).all()


def test_without_a_map_equal_names_meet() -> None:
    assert members(["x", "b", "a"], {}, ["a", "b"]) == [[2], [1]]


def test_a_map_that_does_not_fit_is_told_whole() -> None:
    with pytest.raises(ModelError) as caught:
        members(["tabby", "truck"], {"taby": "cat", "truck": "lorry"}, ["cat", "dog"])
    assert "'taby' is no class of the model; did you mean 'tabby'" in str(caught.value)
    assert "'lorry' is no class of the target" in str(caught.value)
    assert "leads to cat, dog" in str(caught.value)


def test_a_loaded_model_speaks_of_the_targets_classes(folder: Place) -> None:
    of = card(classes=("cat", "dog"), own_classes=("a", "b", "c"), class_map={"a": "dog", "c": "cat"})
    module = network(of).eval()
    loaded = load_model(folder, saved(folder, of, module))
    batch = torch.rand(2, 1, 8, 8)
    raw = module(batch)
    assert torch.allclose(loaded.module(batch), raw[:, [2, 0]], atol=1e-6)
    logits, unmapped = loaded.answer(batch)
    assert torch.equal(logits, loaded.module(batch))
    assert torch.allclose(unmapped, raw.softmax(1)[:, 1])
