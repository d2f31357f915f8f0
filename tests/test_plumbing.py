"""The files around the code agree with it: make targets, pins, deploy manifests, CI."""

import os
import re
import shlex
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).parent.parent
HELD = {"torch": "2.14.1", "torchvision": "0.29.1", "ray": "2.60.0"}
MANIFESTS = sorted((ROOT / "deploy" / "kuberay").glob("*.yaml"))


def test_every_make_target_has_a_help_line() -> None:
    makefile = (ROOT / "Makefile").read_text()
    targets = set(re.findall(r"^([a-z-]+):(?!=)", makefile, re.MULTILINE))
    helped = set(re.findall(r"^([a-z-]+):.*## \S", makefile, re.MULTILINE))
    phony = set(re.findall(r"^\.PHONY: (.*)$", makefile, re.MULTILINE)[0].split())
    assert targets == helped == phony
    assert {"setup", "demo", "test", "lint", "format", "bench", "constraints", "clean"} <= targets


def test_constraints_pin_every_direct_dependency_and_name_no_place() -> None:
    lines = (ROOT / "deploy" / "constraints.txt").read_text().splitlines()
    pins = dict(line.split("==") for line in lines if not line.startswith("#"))
    assert all(re.fullmatch(r"[a-z0-9-]+==[a-z0-9.]+", f"{name}=={pin}") for name, pin in pins.items())
    assert "/" not in "".join(lines)  # neither an index nor a path

    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    extras = [wanted for extra in project["optional-dependencies"].values() for wanted in extra]
    direct = {re.split(r"[\[<>=!~ ;]", wanted)[0] for wanted in [*project["dependencies"], *extras]}
    assert direct - {project["name"]} <= pins.keys()
    assert HELD.items() <= pins.items()
    held_in_makefile = re.findall(r"^HELD := (.*)$", (ROOT / "Makefile").read_text(), re.MULTILINE)[0]
    assert dict(pin.split("==") for pin in held_in_makefile.split()) == HELD


def test_ci_runs_make_test() -> None:
    script = ROOT / ".ci" / "run"
    assert os.access(script, os.X_OK)
    assert "set -euo pipefail\n" in script.read_text()
    assert "\nmake test\n" in script.read_text()


def test_dockerfile_copies_and_runs_what_exists() -> None:
    lines = (ROOT / "deploy" / "Dockerfile").read_text().splitlines()
    copied = [source for line in lines if line.startswith("COPY ") for source in line.split()[1:-1]]
    assert {"schemas", "stages", "pipeline", "crossdistill.py", "deploy/constraints.txt"} <= set(copied)
    assert [source for source in copied if not (ROOT / source).exists()] == []
    scripts = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["scripts"]
    assert f'ENTRYPOINT ["{next(iter(scripts))}"]' in lines
    assert "USER 1000" in lines


def values_of(node: Any, key: str) -> Iterator[Any]:
    """Every value under `key`, at any depth."""
    if isinstance(node, dict):
        if key in node:
            yield node[key]
        for value in node.values():
            yield from values_of(value, key)
    elif isinstance(node, list):
        for value in node:
            yield from values_of(value, key)


@pytest.mark.parametrize("path", MANIFESTS, ids=lambda path: path.stem)
def test_manifest_names_our_image_our_ray_and_token_authentication(path: Path) -> None:
    manifest = yaml.safe_load(path.read_text())
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert set(values_of(manifest, "image")) == {f"{project['name']}:{project['version']}"}
    assert set(values_of(manifest, "rayVersion")) == {HELD["ray"]}
    assert list(values_of(manifest, "authOptions")) == [{"mode": "token"}]
    assert set(values_of(manifest, "runAsUser")) == {1000}

    mounts = [mount["mountPath"] for mounts in values_of(manifest, "volumeMounts") for mount in mounts]
    for entrypoint in values_of(manifest, "entrypoint"):
        program, command, spec, *options = shlex.split(entrypoint)
        assert program in project["scripts"]
        assert command == "run"
        assert str(Path(spec).parent) in mounts
        assert options[0] == "--workspace"


def test_manifests_exist() -> None:
    assert {path.name for path in MANIFESTS} == {"raycluster.yaml", "rayjob.yaml"}
