"""The commands `crossdistill labels …`, one file per kind of work. Like the rest of the command line: no torch."""

from __future__ import annotations

from pipeline.labels import derive, exchange, look, share, trust
from pipeline.labels.app import labels_app

__all__ = ["derive", "exchange", "labels_app", "look", "share", "trust"]
