"""Example data sets, one file each: real data that ships in packages, fetched on first use, never vendored."""

from __future__ import annotations

from stages.domains.examples.base import Example
from stages.registry import Registry

EXAMPLES: Registry[Example] = Registry("example", "stages.domains.examples", "EXAMPLE", "crossdistill.examples")
