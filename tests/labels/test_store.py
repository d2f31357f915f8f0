"""The store's suite on a disk, in memory, and on a real S3 server."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from stages.places import Place
from tests.labels.suite import StoreSuite
from tests.s3 import Server, s3_server

__all__ = ["s3_server"]


class TestOnDisk(StoreSuite):
    @pytest.fixture
    def place(self, tmp_path: Path) -> Place:
        return Place(str(tmp_path / "store"))


class TestInMemory(StoreSuite):
    forks = False

    @pytest.fixture
    def place(self) -> Place:
        return Place(f"memory://suite/{os.urandom(8).hex()}")


class TestOnS3(StoreSuite):
    @pytest.fixture
    def place(self, s3_server: Server) -> Place:
        return s3_server.new_place()
