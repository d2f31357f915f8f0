"""What is printed of a store that holds a damaged set."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from pipeline.labels.look import ls, show
from schemas.errors import SpecError, StoreError
from stages.places import Place
from tests.labels.fakes import FakeSamples, OracleTeacher, make_fake_set

MEND = "remove it, or make it again with --force labels"


def test_a_damaged_set_is_listed_and_shown_as_such(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    good, bad = (make_fake_set(Place(str(tmp_path)), FakeSamples(rows), OracleTeacher()) for rows in ((3,), (2,)))
    path = tmp_path / f"sets/{bad.fingerprint}/set.json"
    path.write_bytes(path.read_bytes()[:40])

    monkeypatch.setenv("COLUMNS", "160")
    ls(str(tmp_path))
    *table, last = capsys.readouterr().out.splitlines()
    assert good.fingerprint in table[-1]
    assert last.startswith(f"damaged: {path} is not JSON")
    assert last.endswith(MEND)

    ls(str(tmp_path), as_json=True)
    said = capsys.readouterr()
    assert [item["fingerprint"] for item in json.loads(said.out)] == [good.fingerprint]
    assert said.err == f"{last}\n"

    show(str(tmp_path), good.fingerprint, as_json=True)
    assert capsys.readouterr().err == ""
    with pytest.raises(StoreError, match=MEND):
        show(str(tmp_path), bad.fingerprint[:8])
    with pytest.raises(StoreError, match="0 sets begin with"):
        show(str(tmp_path), "0" * 8)
    with pytest.raises(StoreError, match="8 digits or more are needed"):
        show(str(tmp_path), good.fingerprint[:5])
    with pytest.raises(SpecError, match="is no label store"):
        ls(str(tmp_path / "elsewhere"))
