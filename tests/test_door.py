"""The public door: its names, what it costs to open, and what happens when a foreign package stands in it."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

import crossdistill

ROOT = Path(crossdistill.__file__).parent
COMMAND = Path(sys.executable).parent / "crossdistill"


def command(*words: str, cwd: Path | None = None, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [str(COMMAND), *words], cwd=cwd, capture_output=True, text=True, check=False, env={**os.environ, **environment}
    )


def test_public_names_resolve_and_stand_in_the_readme() -> None:
    assert sorted(crossdistill.PUBLIC) == crossdistill.__all__
    readme = (ROOT / "README.md").read_text()
    for name in crossdistill.PUBLIC:
        assert getattr(crossdistill, name).__name__ == name
        assert f"`{name}`" in readme, f"README does not tell of {name}"
    with pytest.raises(AttributeError, match="no attribute 'rnu'"):
        crossdistill.rnu  # noqa: B018


@pytest.mark.parametrize("words", [["--help"], ["schema", "Spec"], ["stage", "labels", "--example"], ["init"]])
def test_light_commands_load_neither_torch_nor_ray(words: list[str]) -> None:
    code = (
        f"import sys, atexit; sys.argv = ['crossdistill', *{words!r}]; "
        "atexit.register(lambda: print('LOADED', sorted({'torch', 'ray', 'timm'} & set(sys.modules)))); "
        "import crossdistill; crossdistill.main()"
    )
    answer = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert answer.returncode == 0, answer.stderr
    assert answer.stdout.splitlines()[-1] == "LOADED []"


@pytest.mark.parametrize("name", ["schemas", "stages", "pipeline"])
def test_a_foreign_package_is_a_clear_error_at_start(tmp_path: Path, name: str) -> None:
    (tmp_path / name).mkdir()
    (tmp_path / name / "__init__.py").write_text("raise SystemExit('foreign code ran')\n")
    answer = command("schema", cwd=tmp_path, PYTHONPATH=str(tmp_path))
    assert answer.returncode == 2
    assert f"own package '{name}' is shadowed by {tmp_path / name}" in answer.stderr
    assert "Rename that folder" in answer.stderr
    assert len(answer.stderr.splitlines()) == 1


def test_a_folder_of_the_users_own_beside_the_spec_is_refused(tmp_path: Path) -> None:
    from tests.pipeline.world import write_world

    spec = write_world(tmp_path)
    (tmp_path / "stages").mkdir()
    (tmp_path / "stages/mine.py").touch()
    answer = command("plan", str(spec))
    assert answer.returncode == 2
    assert "shadows crossdistill's own package 'stages' in every worker" in answer.stderr


@pytest.mark.ray
def test_a_foreign_package_is_a_clear_error_in_a_worker(tmp_path: Path) -> None:
    """Where only the workers' import path has it; Ray is started anew, since this process's own path is fine."""
    (tmp_path / "pipeline").mkdir()
    (tmp_path / "pipeline/__init__.py").touch()
    code = (
        "from pathlib import Path; from schemas.spec import Resources; from stages import cluster\n"
        f"try: cluster.start(Resources(), Path({str(tmp_path)!r}))\n"
        "except Exception as error: print(type(error).__name__, error)\n"
        "cluster.stop()"
    )
    (tmp_path / "elsewhere").mkdir()
    answer = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=tmp_path / "elsewhere"
    )
    assert answer.stdout.startswith("PlaceError workers on ")
    assert f"'pipeline' is shadowed by {tmp_path}/pipeline/__init__.py" in answer.stdout
    assert "rename that folder" in answer.stdout
