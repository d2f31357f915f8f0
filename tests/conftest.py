"""Shared by all tests: one Ray runtime for the session (starting one costs seconds), one thread, no colours."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("NO_COLOR", "1")

from hypothesis import settings

from schemas.spec import Resources
from stages.context import Context
from stages.places import Place

# The first example pays for imports, and the machine may be busy: no test is about a time limit per example.
settings.register_profile("house", deadline=None)
settings.load_profile("house")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """A file's tests run in one process, since they share what its fixtures made; all that need Ray share one."""
    for item in items:
        needs_ray = "ray_runtime" in getattr(item, "fixturenames", ())
        item.add_marker(pytest.mark.xdist_group("ray" if needs_ray else item.nodeid.partition("::")[0]))


@pytest.fixture(scope="session", autouse=True)
def _cache_of_the_tests(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Nothing of this machine's cache; what outlives a test has one of its own."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("CROSSDISTILL_CACHE", str(tmp_path_factory.mktemp("cache")))
        patch.delenv("CROSSDISTILL_CACHE_SIZE", raising=False)
        yield


@pytest.fixture(autouse=True)
def node_cache(_cache_of_the_tests: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache for the test, else one would read what another downloaded."""
    folder = tmp_path / "node cache"
    monkeypatch.setenv("CROSSDISTILL_CACHE", str(folder))
    return folder / "objects"


@pytest.fixture(scope="session")
def ray_runtime() -> Iterator[None]:
    """A Ray runtime on this machine with two CPUs' worth of workers."""
    from stages import cluster

    cluster.start(Resources(), user_code=Path(__file__).parent / "user_code")
    yield
    cluster.stop()


@pytest.fixture
def local_context(tmp_path: Path) -> Context:
    """A workspace in a temporary folder; stages run in this process."""
    return Context(workspace=Place(str(tmp_path / "workspace")), resources=Resources(mode="local"))


@pytest.fixture
def ray_context(tmp_path: Path, ray_runtime: None) -> Context:
    """A workspace in a temporary folder; stages run on the session's Ray."""
    return Context(workspace=Place(str(tmp_path / "workspace")), resources=Resources())
