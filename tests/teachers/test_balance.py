"""Teachers whose domains or classes count alike."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from schemas.spec import Resources
from schemas.teachers import TeacherInputs, TeacherOutputs, TrainTeacher
from stages.context import Context
from stages.places import Place
from stages.tasks import get_task
from stages.teachers.rows import LabelledRows
from stages.teachers.stage import TEACHERS
from stages.training import checkpoints
from stages.training.models import build
from tests.teachers.world import CLASSES, Domain, trained

USER_CODE = Path(__file__).parent.parent / "user_code"
PLAIN: dict[str, Any] = {"model": "image_factories:plain", "epochs": 1}


@pytest.fixture(autouse=True)
def user_code(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(USER_CODE)


@pytest.fixture(scope="module")
def domains(tmp_path_factory: pytest.TempPathFactory) -> tuple[Domain, Domain]:
    """(large, small)."""
    folder = tmp_path_factory.mktemp("world")
    context = Context(workspace=Place(str(folder / "workspace")), resources=Resources(mode="local"))
    return Domain(context, folder, rows=160, seed=1), Domain(context, folder, rows=40, seed=7)


def run(context: Context, inputs: TeacherInputs) -> TeacherOutputs:
    outputs: TeacherOutputs = TEACHERS.run(context, inputs)
    return outputs


@pytest.mark.parametrize("between", ["classes", "domains"])
def test_weights_of_a_full_batch_by_hand(local_context: Context, domains: tuple[Domain, Domain], between: str) -> None:
    """One full-batch step, no noise: its loss from the untrained model is the mean over kinds of the means in each."""
    sizes = [domain.budget.train for domain in domains]
    balance = {"between": [between], "by": "weights"}
    inputs = trained(*domains, **PLAIN, batch_size=sum(sizes) + 3, balance=balance)
    outputs = run(local_context, inputs)
    assert isinstance(inputs.way, TrainTeacher)
    rows = LabelledRows(inputs.way.domains, CLASSES, local_context.storage)
    task = get_task(inputs.task)
    assert inputs.model is not None
    network, truth = build(task, inputs.model, 3, {}, 0), torch.from_numpy(rows.truth(rows.train)).long()
    with torch.no_grad():
        logits = network(rows.batch(task, task.Preprocessing(), rows.train))
    losses = torch.nn.functional.cross_entropy(logits, truth, reduction="none").numpy()
    kinds = truth.numpy() if between == "classes" else np.repeat([0, 1], sizes)
    wanted = np.mean([losses[kinds == kind].mean() for kind in np.unique(kinds)])
    assert outputs.history[0].loss == pytest.approx(float(wanted), rel=1e-5)
    assert [(size.rows, sum(size.labelled)) for size in outputs.sizes] == [(size, size) for size in sizes]


def test_a_sampler_is_not_lost_by_a_kill(
    local_context: Context, domains: tuple[Domain, Domain], monkeypatch: pytest.MonkeyPatch
) -> None:
    class Killed(BaseException):
        """Stands for a process that ends."""

    balance = {"between": ["domains", "classes"], "by": "sampler"}
    inputs = trained(*domains, **PLAIN | {"epochs": 3}, balance=balance)
    whole = run(Context(workspace=local_context.workspace / "whole", resources=local_context.resources), inputs)
    real = checkpoints.save

    def killing(*args: Any) -> None:
        real(*args)
        raise Killed

    monkeypatch.setattr(checkpoints, "save", killing)
    with pytest.raises(Killed):
        run(local_context, inputs)
    monkeypatch.setattr(checkpoints, "save", real)
    resumed = run(local_context, inputs)
    assert resumed.model.digest == whole.model.digest
    assert resumed.history == whole.history
    plain = run(local_context, trained(*domains, **PLAIN | {"epochs": 3}))
    assert plain.model.digest != whole.model.digest
