"""Faults between client and server while labels are made and read: retried, or a clear end with nothing lost."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import cycle, product
from typing import Any

import numpy as np
import pytest

from schemas.errors import PlaceError
from schemas.spec import Storage
from stages.labels.reader import LabelSet
from stages.places import Place
from tests.faults.proxy import Fault, Gate, Kind, gate
from tests.labels.fakes import FakeSamples, OracleTeacher, make_fake_set
from tests.s3 import Server, s3_server

__all__ = ["s3_server"]

ROWS = (3, 2)
MOMENTS = {
    "store": ("PUT", "/store.json"),
    "plan": ("PUT", "/plan.json"),
    "data": ("PUT", "/logits/c/0/0"),
    "receipt": ("PUT", "/receipt.json"),
    "receipt read back": ("GET", "/receipt.json"),
    "index": ("PUT", ".parquet"),
    "set": ("PUT", "/set.json"),
    "set read back": ("GET", "/set.json"),
}
"""Requests of labelling: method, and end of the path."""
TRANSIENT: tuple[Kind, ...] = ("reset", "500", "503", "slow", "dropped-answer")


@pytest.fixture(scope="module")
def wire(s3_server: Server) -> Iterator[Gate]:
    with gate(str(s3_server.storage.endpoint_url)) as opened:
        yield opened


@pytest.fixture
def place(s3_server: Server, wire: Gate) -> Place:
    """An empty prefix, reached through the gate."""
    return Place(s3_server.new_place().uri, Storage(endpoint_url=wire.url, region=s3_server.storage.region))


@pytest.fixture(scope="module")
def digest() -> str:
    """Root digest of the set that nothing disturbed."""
    return make_fake_set(Place("memory://on-the-wire"), FakeSamples(ROWS), OracleTeacher()).digest


def at(moment: str, kind: Kind, times: int = 1) -> Fault:
    method, end = MOMENTS[moment]
    return Fault(kind, lambda found, path: found == method and path.endswith(end), times)


def some(every: Iterable[tuple[str, Kind]], chosen: Iterable[tuple[str, Kind]]) -> list[Any]:
    """Parameters: all cases, of which those that are not chosen are left to the long suite."""
    now = set(chosen)
    return [pytest.param(*case, marks=() if case in now else pytest.mark.long) for case in every]


@pytest.mark.parametrize(
    ("moment", "kind"), some(product(MOMENTS, TRANSIENT), zip(MOMENTS, cycle(TRANSIENT), strict=False))
)
def test_a_passing_fault_is_not_noticed(wire: Gate, place: Place, digest: str, moment: str, kind: Kind) -> None:
    fault = at(moment, kind)
    with wire.spoiling(fault):
        assert make_fake_set(place, FakeSamples(ROWS), OracleTeacher()).digest == digest
    assert len(fault.spoilt) == 1
    for unit in LabelSet.open(place).units:
        assert place.names(f"units/{unit.receipt.key}") == sorted([unit.receipt.attempt, "receipt.json"])


@pytest.mark.parametrize(
    ("moment", "kind"),
    some(product(("data", "receipt", "set"), ("503", "expired")), [("data", "expired"), ("set", "expired")]),
)
def test_a_lasting_fault_ends_clearly_and_the_next_run_goes_on(
    wire: Gate, place: Place, digest: str, moment: str, kind: Kind
) -> None:
    fault = at(moment, kind, times=1000)
    with wire.spoiling(fault):
        with pytest.raises(PlaceError) as told:
            make_fake_set(place, FakeSamples(ROWS), OracleTeacher())
    assert len(told.value.problems) == 1
    assert "\n" not in str(told.value)
    teacher = OracleTeacher()
    assert make_fake_set(place, FakeSamples(ROWS), teacher).digest == digest
    assert teacher.rows == {"data": 5, "receipt": 5, "set": 0}[moment]


READS = ("/set.json", ".parquet", "/logits/zarr.json", "/logits/c/0/0")
SPOILT: tuple[Kind, ...] = ("truncated", "reset", "500", "503", "slow")


@pytest.mark.parametrize(("end", "kind"), some(product(READS, SPOILT), zip(cycle(READS), SPOILT, strict=False)))
def test_reading_through_a_passing_fault(wire: Gate, place: Place, end: str, kind: Kind) -> None:
    samples = FakeSamples(ROWS)
    make_fake_set(place, samples, OracleTeacher())
    fault = Fault(kind, lambda method, path: method == "GET" and path.endswith(end))
    with wire.spoiling(fault):
        found = LabelSet.open(place).logits(np.arange(5))
    assert len(fault.spoilt) == 1
    assert np.allclose(found, np.concatenate([samples.read(0)["x"], samples.read(1)["x"]]), atol=0.01)


def test_a_body_that_is_always_cut_is_told_and_never_taken_for_whole(wire: Gate, place: Place) -> None:
    make_fake_set(place, FakeSamples(ROWS), OracleTeacher())
    fault = Fault("truncated", lambda method, path: method == "GET" and path.endswith("/logits/c/0/0"), 1000)
    with wire.spoiling(fault):
        with pytest.raises(PlaceError, match="cannot be used"):
            LabelSet.open(place).logits(np.arange(5))
    assert LabelSet.open(place).logits(np.arange(5)).shape == (5, 4)
