"""The costs and report stages: keyed by the host, measured apart, gathered into one document."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest

from schemas.artifacts import ModelRef
from schemas.errors import DataError, ModelError
from schemas.evaluation import CostCandidate, CostInputs, ReportInputs
from stages.artifacts import find_artifact, open_ref, read_object
from stages.context import Context
from stages.evaluation.costs import COSTS, THREADS, host_description
from stages.evaluation.reader import read_costs, read_report
from stages.evaluation.report import REPORT
from tests.evaluation.world import TASK, World, make_model, make_world

SHAPE = {"task": TASK.dump(), "model": {"name": "mobile-tiny"}, "outputs": 3, "preprocessing": {}}


@pytest.fixture
def world(local_context: Context, tmp_path: Path) -> World:
    return make_world(local_context, tmp_path, rows=40)


def asked(world: World, model: ModelRef, **more: Any) -> CostInputs:
    candidate = CostCandidate(name="mobile", model=model, architecture=more.pop("architecture", SHAPE))
    fields = {"candidates": (candidate,), "samples": world.samples, "host": host_description(), "repeats": 3}
    return CostInputs.model_validate({**fields, **more})


def test_a_host_is_described_without_its_name_and_without_torch() -> None:
    import platform
    import subprocess

    host = host_description()
    assert host == host_description()
    assert (host["threads"], host["processor"] != "") == (THREADS, True)
    assert platform.node() not in str(host).split()
    heavy = "{'torch', 'ray', 'numpy', 'pyarrow', 'rich'}"
    code = (
        "import sys, stages.evaluation.stage, stages.evaluation.report; "
        "from stages.evaluation.costs import host_description; "
        f"host_description(); sys.exit(str({heavy} & set(sys.modules)) if {heavy} & set(sys.modules) else 0)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_the_host_and_the_shape_count_and_the_weights_do_not(local_context: Context, world: World) -> None:
    one, other = make_model(local_context, 1), make_model(local_context, 2)
    plain = COSTS.fingerprint(asked(world, one))
    assert COSTS.fingerprint(asked(world, other)) == plain
    assert COSTS.fingerprint(asked(world, one, host={**host_description(), "cores": 128})) != plain
    assert COSTS.fingerprint(asked(world, one, architecture={**SHAPE, "outputs": 4})) != plain
    nameless = [COSTS.fingerprint(asked(world, model, architecture={})) for model in (one, other)]
    assert nameless[0] != nameless[1], "without a stated shape a model counts by itself"


def test_costs_of_another_host_are_not_measured_here(local_context: Context, world: World) -> None:
    inputs = asked(world, make_model(local_context, 1), host={**host_description(), "processor": "Other CPU"})
    with pytest.raises(DataError, match="Other CPU.*measure there"):
        COSTS.run(local_context, inputs)


def test_costs_are_measured_in_a_process_of_their_own_and_reported(local_context: Context, world: World) -> None:
    model = make_model(local_context, 1)
    inputs = asked(world, model)
    outputs = COSTS.run(local_context, inputs)
    assert read_costs(local_context.place(outputs.cost), outputs.cost) == outputs.table
    cost = outputs.table.costs[0]
    weights = next(Path(model.uri).glob("*/model.safetensors"))
    assert cost.size_bytes == weights.stat().st_size
    assert 4 * cost.parameters < cost.size_bytes
    assert cost.macs > cost.parameters, "a convolution uses each weight more than once"
    assert 0 < cost.latency_ms <= cost.latency_p95_ms
    assert COSTS.run(local_context, inputs) == outputs

    asked_report = ReportInputs(name="stripes", costs=outputs.cost, notes=("the split of stripes changed",))
    made = REPORT.run(local_context, asked_report)
    report = read_report(local_context.place(made.report), made.report)
    assert report.costs == outputs.table
    artifact, files = open_ref(local_context.place(made.report), made.report, "report")
    markdown = read_object(files, artifact, "report.md").decode()
    assert f"| mobile | {cost.parameters:,} |" in markdown
    assert "the split of stripes changed" in markdown
    assert REPORT.find(local_context, asked_report) == made
    moved = made.report.model_copy(update={"digest": "0" * 32})
    with pytest.raises(DataError, match="0" * 32):
        read_report(local_context.place(moved), moved)


def test_a_model_that_cannot_be_measured_is_named(local_context: Context, world: World) -> None:
    gone = make_model(local_context, 1).model_copy(update={"digest": "0" * 32})
    inputs = asked(world, gone)
    with pytest.raises(ModelError, match="the cost of 'mobile' could not be measured: .*not the one"):
        COSTS.run(local_context, inputs)
    assert find_artifact(local_context.artifact_place("costs", COSTS.fingerprint(inputs))) is None


@pytest.mark.ray
def test_on_ray_costs_are_measured_alone_on_the_node(
    local_context: Context, ray_context: Context, tmp_path: Path
) -> None:
    world = make_world(local_context, tmp_path, rows=40)
    inputs = asked(world, make_model(local_context, 1))
    table = COSTS.run(ray_context, inputs).table
    assert table.host == host_description()
    assert table.costs[0].macs > 0
