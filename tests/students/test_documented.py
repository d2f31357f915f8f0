"""What README and `crossdistill schema` tell of methods is what there is."""

from __future__ import annotations

import importlib
import re
from pathlib import Path

import pytest

from pipeline.show import schema_names, schema_of
from schemas.base import fields_of
from stages.students.methods import METHODS
from tests.students.toy import method

README = Path(__file__).parent.parent.parent / "README.md"
ROW = re.compile(r"^\| `([a-z-]+)` \| (.*?) \| (.*?) \| (.*?) \|$", re.MULTILINE)


def document(name: str) -> str:
    """The docstring of a method's module."""
    return importlib.import_module(METHODS.target(name).partition(":")[0]).__doc__ or ""


def reads(name: str) -> str:
    """What a method reads beside logits, with its own defaults."""
    needs = method(name).needs
    return ", ".join([*(sorted(needs.fields)), *(["source rows"] if needs.source else [])])


def test_the_table_in_readme_is_the_registry() -> None:
    rows = {name: row for name, *row in ROW.findall(README.read_text())}
    assert list(rows) == METHODS.names()
    for name, (what, read, source) in rows.items():
        first, *_ = document(name).split("\n\n")
        assert what == " ".join(first.split()).partition(": ")[2].rstrip("."), name
        assert read == reads(name), name
        for word in re.findall(r"[A-Z][a-z]+|\d{4}", source):
            assert word in document(name), f"{name} does not name {word}"


@pytest.mark.parametrize("name", METHODS.names())
def test_every_method_tells_its_formula_and_its_settings(name: str) -> None:
    plugin = METHODS.get(name)
    assert plugin.__doc__
    assert [field for field, told in fields_of(plugin.Config) if not told] == []
    assert f"method:{name}" in schema_names()
    assert schema_of(f"method:{name}")["title"] == plugin.Config.__name__
