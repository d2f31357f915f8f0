"""What is printed of a store that holds a damaged set."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from pipeline.show import print_sets
from schemas.errors import SpecError, StoreError
from stages.places import Place
from tests.labels.fakes import FakeSamples, OracleTeacher, make_fake_set

MEND = "remove it, or make it again with --force labels"


def test_a_damaged_set_is_listed_and_shown_as_such(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    good, bad = (make_fake_set(Place(str(tmp_path)), FakeSamples(rows), OracleTeacher()) for rows in ((3,), (2,)))
    path = tmp_path / f"sets/{bad.fingerprint}/set.json"
    path.write_bytes(path.read_bytes()[:40])

    print_sets(str(tmp_path), None, as_json=False)
    *table, last = capsys.readouterr().out.splitlines()
    assert good.fingerprint in table[-1]
    assert last.startswith(f"damaged: {path} is not JSON")
    assert last.endswith(MEND)

    print_sets(str(tmp_path), None, as_json=True)
    said = capsys.readouterr()
    assert [item["fingerprint"] for item in json.loads(said.out)] == [good.fingerprint]
    assert said.err == f"{last}\n"

    print_sets(str(tmp_path), good.fingerprint, as_json=True)
    assert capsys.readouterr().err == ""
    with pytest.raises(StoreError, match=MEND):
        print_sets(str(tmp_path), bad.fingerprint[:8], as_json=False)
    with pytest.raises(SpecError, match="0 sets begin with"):
        print_sets(str(tmp_path), "0" * 8, as_json=False)
