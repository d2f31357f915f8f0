"""Digests of source: layout and docstrings do not count, meaning does, and the user's own modules are followed."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from schemas.errors import ModelError
from stages import code
from stages.code import _collect, code_digest


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.syspath_prepend(str(tmp_path))
    return tmp_path


def write(folder: Path, name: str, text: str) -> None:
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    code._parse.cache_clear()


def test_comments_docstrings_and_layout_do_not_count(folder: Path) -> None:
    write(folder, "mine_a.py", 'def f(x):\n    """Old words."""\n    return x+1\n')
    before = code_digest("mine_a:f")
    write(folder, "mine_a.py", '"""Module."""\n# a comment\ndef f( x ):\n    """New words."""\n\n    return x + 1\n')
    assert code_digest("mine_a:f") == before
    write(folder, "mine_a.py", "def f(x):\n    return x+2\n")
    assert code_digest("mine_a:f") != before


def test_own_modules_are_followed_and_installed_ones_count_by_version(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(folder, "mine_b.py", "import numpy as np\nimport os\nfrom mypackage.layers import block\n")
    write(folder, "mypackage/__init__.py", "")
    write(folder, "mypackage/layers.py", "from .deep import width\ndef block(): return width\n")
    write(folder, "mypackage/deep.py", "width = 8\n")
    before = code_digest("mine_b:f")
    write(folder, "mypackage/deep.py", "width = 9\n")
    after = code_digest("mine_b:f")
    assert after != before
    monkeypatch.setattr(code, "_installed_version", lambda root: "numpy==0.0" if root == "numpy" else None)
    assert code_digest("mine_b:f") != after


def test_nothing_is_imported(folder: Path) -> None:
    write(folder, "mine_c.py", "raise SystemExit('imported')\n")
    code_digest("mine_c:f")
    assert "mine_c" not in sys.modules


def test_what_is_not_there_or_no_python_is_told(folder: Path) -> None:
    with pytest.raises(ModelError, match="no Python source of a module 'mine_none'.*PYTHONPATH"):
        code_digest("mine_none:f")
    write(folder, "mine_d.py", "def f(:\n")
    with pytest.raises(ModelError, match=r"mine_d\.py, line 1: not valid Python"):
        code_digest("mine_d:f")


def test_modules_that_import_each_other(folder: Path) -> None:
    write(folder, "mine_e.py", "import mine_f\n")
    write(folder, "mine_f.py", "import mine_e\nx = 1\n")
    before = code_digest("mine_e:f")
    write(folder, "mine_f.py", "import mine_e\nx = 2\n")
    assert code_digest("mine_e:f") != before


def test_plug_ins_that_a_plug_in_is_made_of_count_with_their_helpers() -> None:
    """What all plug-ins share (`base`) counts by the stages' versions."""
    seen: dict[str, object] = {}
    _collect("stages.tasks.image_questions", "stages.tasks.image_questions:TASK", seen)
    ours = {name.removeprefix("stages.tasks.") for name in seen if name.startswith("stages")}
    assert {"image_questions", "_questions", "image_classification", "_networks"} <= ours
    assert "base" not in ours
    assert "text_classification" not in ours
