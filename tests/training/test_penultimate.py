"""Penultimate features: found in any model by running it, taken while it runs, refused where there are none."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import nn

from schemas.base import Part
from schemas.errors import ModelError
from stages.tasks import get_task
from stages.training.penultimate import Penultimate

TASK = Part.model_validate({"name": "image-classification", "image_size": 32, "channels": 3})
BATCH = torch.linspace(-1, 1, 5 * 6).reshape(5, 6)


class Tied(nn.Module):
    """Its head is a function of its own table: no module gives the outputs."""

    def __init__(self) -> None:
        super().__init__()
        self.table, self.inner = nn.Parameter(torch.randn(3, 4)), nn.Linear(6, 4)

    def forward(self, batch: torch.Tensor) -> torch.Tensor:
        return nn.functional.linear(self.inner(batch), self.table)


class Cosine(nn.Module):
    """A head of a user's own, followed by a scale."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(3, 4))

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        return nn.functional.normalize(features) @ nn.functional.normalize(self.weight).T


class Tokens(nn.Module):
    """A head that is called on every position, in a module with a table of positions."""

    def __init__(self) -> None:
        super().__init__()
        self.head = nn.Linear(2, 3)
        self.positions = nn.Parameter(torch.randn(1, 3, 2))

    def forward(self, batch: torch.Tensor) -> torch.Tensor:
        logits: torch.Tensor = self.head(batch.reshape(-1, 3, 2) + self.positions).mean(dim=1)
        return logits


def stem(head: nn.Module) -> nn.Sequential:
    return nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 4), nn.Tanh(), head)


def convolutional() -> nn.Sequential:
    head = nn.Sequential(nn.Conv2d(4, 3, 1), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    return nn.Sequential(nn.Unflatten(1, (1, 2, 3)), nn.Conv2d(1, 4, 3, padding=1), nn.BatchNorm2d(4), *head)


MODELS: dict[str, tuple[Callable[[], nn.Module], int]] = {
    "linear": (lambda: stem(nn.Linear(4, 3)), 4),
    "its own class": (lambda: nn.Sequential(stem(Cosine()), nn.LayerNorm(3)), 4),
    "normed weight": (lambda: stem(nn.utils.parametrizations.weight_norm(nn.Linear(4, 3))), 4),
    "convolution": (convolutional, 4),
    "tokens": (Tokens, 2),
    "the first layer": (lambda: nn.Linear(6, 3), 6),
}


@pytest.mark.parametrize("name", MODELS)
def test_a_head_is_found_by_running_the_model(name: str) -> None:
    make, width = MODELS[name]
    torch.manual_seed(0)
    model = make().train()
    before = {key: value.clone() for key, value in model.state_dict().items()}
    random = torch.get_rng_state()
    penultimate = Penultimate(model, BATCH, 3, name)
    assert penultimate.width == width
    assert model.training
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())
    assert torch.equal(random, torch.get_rng_state())
    model(BATCH)
    features = penultimate.take()
    assert features.shape == (5, width)
    assert features.requires_grad or name == "the first layer"
    with pytest.raises(ModelError, match="did not call its head"):
        penultimate.take()


def test_they_are_what_the_head_reads() -> None:
    model = stem(linear := nn.Linear(4, 3))
    penultimate = Penultimate(model, BATCH, 3, "m")
    logits = model(BATCH)
    assert torch.equal(linear(penultimate.take()), logits)
    channels = convolutional().eval()
    penultimate, head = Penultimate(channels, BATCH, 3, "m"), channels[3]
    assert isinstance(head, nn.Conv2d)
    assert head.bias is not None
    logits = channels(BATCH)
    assert torch.allclose(penultimate.take() @ head.weight[:, :, 0, 0].T + head.bias, logits, atol=1e-6)


@pytest.mark.parametrize("model", [Tied(), nn.Identity(), nn.Sequential(nn.Linear(6, 4), nn.Softmax(dim=1))])
def test_a_model_without_a_head_is_refused_by_name(model: nn.Module) -> None:
    with pytest.raises(ModelError, match="model 'odd' has no penultimate features.*3 outputs"):
        Penultimate(model, BATCH, 3, "odd")


@pytest.mark.parametrize(
    ("name", "width"),
    [
        ("resnet-tiny", 64),
        ("mobile-tiny", 64),
        ("torchvision/mobilenet_v3_small", 1024),
        ("torchvision/squeezenet1_1", 512),
        ("timm/resnet10t", 512),
        ("timm/vit_tiny_patch16_224", 192),
    ],
)
def test_models_of_the_task_and_of_libraries(name: str, width: int) -> None:
    task = get_task(TASK)
    model = Part.model_validate({"name": name, **({"img_size": 32} if "vit" in name else {})})
    preprocessing = task.Preprocessing()
    network = task.build(model, 7, preprocessing)
    assert Penultimate(network, task.fake_batch(2, preprocessing), 7, name).width == width
