"""The command line as a person types it: answers, exit codes, one clear sentence and no traceback."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import yaml

from tests.pipeline.world import write_world
from tests.test_door import COMMAND, ROOT, command


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_world(tmp_path_factory.mktemp("cli"))


def test_help_names_every_command() -> None:
    answer = command("--help")
    assert answer.returncode == 0
    for word in ("init", "plan", "run", "stage", "report", "schema", "labels"):
        assert word in answer.stdout
    readme = (ROOT / "README.md").read_text()
    for word in ("init", "plan", "run", "stage", "report", "schema", "labels ls", "labels show"):
        assert f"crossdistill {word}" in readme


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["plan", "none.yaml"], "there is no spec at"),
        (["rnu", "x"], "Did you mean 'run'?"),
        (["run"], "Missing argument 'SPEC'"),
        (["stage", "lables", "x.json"], "did you mean 'labels'"),
        (["stage", "labels"], "see one: crossdistill stage labels --example"),
        (["stage", "labels", "none.json"], "there is no inputs file none.json"),
        (["schema", "Specc"], "did you mean 'Spec'"),
        (["init", "image-clasification"], "did you mean 'image-classification'"),
        (["labels", "ls", "/nowhere"], "is no label store"),
        (["run", "x.yaml", "--ony", "labels"], "No such option"),
    ],
)
def test_what_the_user_can_mend_is_one_sentence_and_exit_code_2(tmp_path: Path, words: list[str], said: str) -> None:
    answer = command(*words, cwd=tmp_path)
    assert answer.returncode == 2
    assert said in answer.stderr
    assert "Traceback" not in answer.stderr
    assert len(answer.stderr.strip().splitlines()) == 1
    assert answer.stdout == ""
    assert list(tmp_path.iterdir()) == []


def test_every_fault_of_a_spec_is_told_at_once(tmp_path: Path) -> None:
    spec = write_world(tmp_path)
    value = yaml.safe_load(spec.read_text())
    value["teachers"]["big"]["domains"] = ["sorce"]
    value["teachers"]["big"]["weights"] = None
    value["teachers"]["fit"]["from"] = "bgi"
    value["labels"]["said"]["domain"] = "tarjet"
    value["students"]["small"]["method"] = {"name": "sofd"}
    value["students"]["sharp"]["method"]["temprature"] = 3
    value["students"]["sharp"]["training"] = {"augmentation": {"rotat": 3}}
    value["students"]["sharp"]["model"] = "mobil-tiny"
    value["evaluation"]["metrics"] = ["acuracy"]
    value["store"] = "s3://key:secret@bucket/store"
    spec.write_text(yaml.safe_dump(value))
    answer = command("plan", str(spec), "--workspace", str(spec / "below"))
    assert answer.returncode == 2
    for word in (
        "no domain is called 'sorce'; did you mean 'source'?",
        "no teacher is called 'bgi'; did you mean 'big'?",
        "no domain is called 'tarjet'; did you mean 'target'?",
        "no method is called 'sofd'; did you mean 'soft'?",
        "unknown field 'temprature'; did you mean 'temperature'?",
        "unknown field 'rotat'; did you mean 'rotate'?",
        "store carries a secret",
        "cannot be a folder",
    ):
        assert word in answer.stderr
    assert "Traceback" not in answer.stderr
    assert not spec.with_suffix(".workspace").exists()


SEVEN = "torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(64, 7))"
BAD_MODELS = {
    "mine:breaks": "def breaks(num_classes): raise RuntimeError('no such file')\n",
    "mine:shape": f"import torch\ndef shape(num_classes): return {SEVEN}\n",
    "mine:dies": "import os\ndef dies(num_classes): os._exit(0)\n",
    "nothing_here:factory": "",
    "timm/resnet81": "",
}


@pytest.mark.parametrize("name", BAD_MODELS)
def test_a_model_that_does_not_fit_is_found_before_the_work(tmp_path: Path, name: str) -> None:
    spec = write_world(tmp_path)
    (tmp_path / "mine.py").write_text(BAD_MODELS[name])
    answer = command("run", str(spec), "--set", f"students.small.model={name}")
    assert answer.returncode == 2
    assert "students.small.model" in answer.stderr
    assert "Traceback" not in answer.stderr
    assert not (spec.with_suffix(".workspace") / "artifacts").exists()


def test_class_sets_that_do_not_match_are_found_in_the_plan_where_they_are_named(tmp_path: Path) -> None:
    spec = write_world(tmp_path)
    value = yaml.safe_load(spec.read_text())
    value["domains"]["source"]["classes"] = ["across", "down", "slope"]
    value["domains"]["target"]["classes"] = ["down", "across", "slope"]
    spec.write_text(yaml.safe_dump(value))
    assert "have the same classes in another order: they are read by their names" in command("plan", str(spec)).stdout
    value["domains"]["target"]["classes"] = ["across", "down", "steep"]
    spec.write_text(yaml.safe_dump(value))
    assert "only the first: slope; only the second: steep" in command("plan", str(spec)).stderr


def test_the_whole_way_as_a_person_types_it(world: Path) -> None:
    """Plan, run, run again, report, labels, stage alone, in a few commands without Ray."""
    where = world.with_suffix(".workspace")
    planned = command("plan", str(world))
    assert planned.returncode == 0
    assert "known once teachers.big exists" in planned.stdout
    ran = command("run", str(world), "--set", "students.small.seeds=1", "--set", "students.sharp.seeds=1")
    assert ran.returncode == 0, ran.stderr
    assert "best baseline" in ran.stdout or "baseline" in ran.stdout
    assert "done  teachers.big in" in ran.stderr
    again = command("run", str(world), "--set", "students.small.seeds=1", "--set", "students.sharp.seeds=1", "--json")
    assert json.loads(again.stdout)["made"] == []
    report = command("report", str(world), "--set", "students.small.seeds=1", "--set", "students.sharp.seeds=1")
    assert report.returncode == 0
    assert report.stdout.strip() in ran.stdout
    missing = command("report", str(world))
    assert missing.returncode == 2
    assert "there is no report yet" in missing.stderr

    listed = json.loads(command("labels", "ls", str(where), "--json").stdout)
    assert [item["rows"] for item in listed] == [150]
    card = command("labels", "show", str(where), listed[0]["fingerprint"][:8])
    assert card.returncode == 0
    assert "150" in card.stdout

    outputs = json.loads(again.stdout)["outputs"]
    plan = command("plan", str(world), "--set", "students.small.seeds=1", "--set", "students.sharp.seeds=1", "--json")
    steps = {step["step"]: step for step in json.loads(plan.stdout)["steps"]}
    inputs = world.parent / "inputs.json"
    for name in ("splits.target", "labels.said", "students.small", "evaluation.small"):
        inputs.write_text(json.dumps(steps[name]["inputs"]))
        alone = command("stage", steps[name]["stage"], str(inputs), "--workspace", str(where), "--local")
        assert alone.returncode == 0, alone.stderr
        assert json.loads(alone.stdout) == outputs[name]


def test_one_stage_alone_in_a_workspace_of_its_own(world: Path, tmp_path: Path) -> None:
    """Another team starts from somebody's artifacts: same inputs, another place, the same content."""
    steps = {step["step"]: step for step in json.loads(command("plan", str(world), "--json").stdout)["steps"]}
    if steps["labels.said"]["inputs"] is None:
        command("run", str(world), "--only", "domains", "--only", "splits", "--only", "budgets", "--only", "teachers")
        steps = {step["step"]: step for step in json.loads(command("plan", str(world), "--json").stdout)["steps"]}
    digests = []
    for workspace in ("one", "other"):
        answer = subprocess.run(
            [str(COMMAND), "stage", "labels", "-", "--workspace", str(tmp_path / workspace), "--local"],
            input=json.dumps(steps["labels.said"]["inputs"]),
            capture_output=True,
            text=True,
            check=True,
        )
        digests.append(json.loads(answer.stdout)["labels"]["digest"])
    assert digests[0] == digests[1]


def test_what_the_users_code_prints_is_not_our_answer(tmp_path: Path) -> None:
    spec = write_world(tmp_path)
    text = "import torch\nprint('imported')\n"
    text += "def net(num_classes):\n    print('built')\n"
    text += "    return torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(64, num_classes))\n"
    (tmp_path / "mine.py").write_text(text)
    answer = command(
        "run", str(spec), "--json", "--set", "students.small.model=mine:net", "--set", "students.sharp.seeds=1"
    )
    assert answer.returncode == 0, answer.stderr
    assert "evaluation.small" in json.loads(answer.stdout)["made"]
    assert "built" in answer.stderr


def test_a_student_that_diverges_is_told_and_harms_nobody(tmp_path: Path) -> None:
    spec = write_world(tmp_path)
    answer = command("run", str(spec), "--set", "students.sharp.training.learning_rate=1.0e+30")
    assert answer.returncode == 2
    assert "trainings failed (sharp; the reasons stand above and in the report)" in answer.stderr
    assert "sharp (distilled, seed 0) failed: " in answer.stderr
    assert "learning_rate" in answer.stderr
    assert "small: " in answer.stdout
    states = {step["step"]: step["state"] for step in json.loads(command("plan", str(spec), "--json").stdout)["steps"]}
    assert states["students.small"] == states["evaluation.small"] == "present"


def test_the_starting_spec_of_every_task_can_be_planned(tmp_path: Path) -> None:
    tasks = command("init").stdout.split()
    assert "image-classification" in tasks
    for task in tasks:
        written = command("init", task, cwd=tmp_path)
        assert written.returncode == 0
        planned = command("plan", f"{task}.yaml", cwd=tmp_path)
        assert planned.returncode == 0, planned.stderr
        again = command("init", task, cwd=tmp_path)
        assert again.returncode == 2
        assert "exists already" in again.stderr


def test_a_second_run_in_a_busy_workspace_is_refused_by_name(tmp_path: Path) -> None:
    from pipeline.workspace import held_lease
    from stages.places import Place

    spec = write_world(tmp_path)
    with held_lease(Place(str(spec.with_suffix(".workspace"))), "crossdistill run first.yaml"):
        answer = command("run", str(spec))
    assert answer.returncode == 2
    assert "another run works in" in answer.stderr
    assert "`crossdistill run first.yaml`" in answer.stderr


def test_interrupted_says_what_is_kept_and_the_next_run_goes_on(tmp_path: Path) -> None:
    spec = write_world(tmp_path)
    long = ["--set", "teachers.big.training.epochs=2000"]
    process = subprocess.Popen(
        [str(COMMAND), "run", str(spec), *long],
        stderr=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # a shell's background job ignores it
    )
    checkpoints = spec.with_suffix(".workspace") / "artifacts/teachers"
    deadline = time.monotonic() + 90
    while not list(checkpoints.rglob("checkpoints/*")) and time.monotonic() < deadline:
        time.sleep(0.2)
    process.send_signal(signal.SIGINT)
    started = time.monotonic()
    _, said = process.communicate(timeout=30)
    assert time.monotonic() - started < 10
    assert process.returncode == 130
    assert "Interrupted. 7 of 20 steps are finished and kept; teachers.big goes on from its last checkpoint" in said
    assert f"crossdistill run {spec}" in said
    assert "Traceback" not in said
    planned = command("plan", str(spec), *long, "--json")
    states = {step["step"]: step["state"] for step in json.loads(planned.stdout)["steps"]}
    assert states["domains.source"] == states["budgets.target.seed0"] == "present"
    assert states["teachers.big"] == "missing"


def test_help_in_every_command() -> None:
    for words in (["plan"], ["run"], ["stage"], ["report"], ["schema"], ["labels", "ls"], ["labels", "show"], ["init"]):
        answer = command(*words, "--help")
        assert answer.returncode == 0, sys.executable
        assert "Usage: crossdistill" in answer.stdout
