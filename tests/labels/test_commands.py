"""`crossdistill labels …` as a person types it: shared, named, checked, tidied; and what goes wrong in one sentence."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from stages.places import Place
from tests.labels.fakes import FakeSamples, OracleTeacher, make_fake_set
from tests.test_door import command


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder: Path = tmp_path_factory.mktemp("work") / "store"
    make_fake_set(Place(str(folder)), FakeSamples((3, 2)), OracleTeacher())
    return folder


def said(*words: str) -> str:
    answer = command("labels", *words)
    assert answer.returncode == 0, answer.stderr
    return answer.stdout


def refused(*words: str) -> str:
    answer = command("labels", *words)
    assert (answer.returncode, answer.stdout) == (2, ""), answer.stdout
    assert len(answer.stderr.splitlines()) == 1, answer.stderr
    return answer.stderr


def test_a_set_goes_round(store: Path, tmp_path: Path) -> None:
    """Team A publishes with a name; team B looks, checks, pulls, names and tidies."""
    (item,) = json.loads(said("ls", str(store.parent), "--json"))
    fingerprint, digest = item["fingerprint"], item["digest"]
    shared, own = str(tmp_path / "shared"), str(tmp_path / "own")
    words = ["--to", shared, "--tag", "digits", "--licence", "CC BY 4.0", "--quality", "accuracy on target=0.958"]
    published = said("publish", str(store), fingerprint[:10], *words)
    assert f"root digest  {digest}" in published
    assert "digits@v1" in published
    listed = said("ls", shared)
    assert "digits@v1" in listed
    card = said("show", shared, "digits")
    assert "licence: CC BY 4.0; accuracy on target: 0.958" in card
    assert f"{digest}" in card
    assert "is whole" in said("verify", shared, "digits@v1", "--deep", "--root", digest)
    pulled = json.loads(said("pull", shared, "digits", "--to", own, "--json"))
    assert pulled["root digest"] == digest
    assert "second@v1" in said("tag", own, fingerprint, "second", "--notes", "of B\x1b[2J")
    assert said("tag", own, "second").startswith(f"second@v1  {fingerprint}  of B\\x1b[2J")
    assert "0 attempts and 0 units" in said("gc", own, "--dry-run")
    assert "is tagged second" in refused("rm", own, fingerprint)
    assert f"{fingerprint} is removed" in said("rm", str(store), fingerprint)
    assert "2 units" in said("gc", str(store), "--unreachable")
    said("pull", shared, "digits", "--to", str(store))


def test_what_goes_wrong_is_one_sentence(store: Path, tmp_path: Path) -> None:
    where = str(store)
    (item,) = json.loads(said("ls", where, "--json"))
    name = item["fingerprint"]
    assert "is no label store" in refused("verify", str(tmp_path), name)
    assert "has no tag 'digits'" in refused("show", where, "digits")
    assert "0 sets begin with '00000000'" in refused("verify", where, "0" * 8)
    assert f"has root digest {item['digest']}, not 0000" in refused("verify", where, name, "--root", "0" * 32)
    assert "cannot be a tag" in refused("publish", where, name, "--to", str(tmp_path / "x"), "--tag", "a/b")
    assert not (tmp_path / "x").exists()
    assert "give it as NAME=FIGURE" in refused("tag", where, name, "n", "--quality", "accuracy")
    path = next(store.glob("units/*/*/logits/c/0/0"))
    data = path.read_bytes()
    path.write_bytes(data[:-1])
    assert f"{path} has {len(data) - 1} bytes, its receipt says {len(data)}" in refused("verify", where, name)
    assert "is damaged" in refused("publish", where, name, "--to", str(tmp_path / "y"))
    path.write_bytes(data)
