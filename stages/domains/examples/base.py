"""What an example data set is."""

from __future__ import annotations

import gzip
import hashlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from stages.domains.fetch import Member, fetch

if TYPE_CHECKING:
    import numpy as np


@dataclass(frozen=True)
class Example:
    """Data that ships in packages, known by the hash of its bytes."""

    name: str
    licence: str
    """Licence and origin, for people."""
    members: tuple[Member, ...]
    """Where its bytes are."""
    parse: Callable[..., Mapping[str, np.ndarray]]
    """The bytes of each member as columns, row for row."""
    columns: tuple[str, ...] = ()
    """Their names, as far as they are to be known before anything is fetched."""

    @property
    def sha256(self) -> str:
        """The pinned hash, or the hash of all: stands for the data in every fingerprint."""
        pinned = [member.sha256 for member in self.members]
        return pinned[0] if len(pinned) == 1 else hashlib.sha256("".join(pinned).encode()).hexdigest()

    def rows(self) -> Mapping[str, np.ndarray]:
        """The columns; fetched on first use. Raises DataError if that fails."""
        return self.parse(*(fetch(member, self._beside(member)).read_bytes() for member in self.members))

    def _beside(self, member: Member) -> list[Member]:
        """The others of its archive."""
        return [other for other in self.members if other != member and other.requirement == member.requirement]


def digit_images(data: bytes, side: int) -> dict[str, np.ndarray]:
    """Gzipped CSV of side*side pixels and a digit a line, as `image` (rows, side, side, 1) uint8 and `label`."""
    import numpy as np
    import pyarrow as pa
    from pyarrow import csv

    options = csv.ReadOptions(autogenerate_column_names=True, use_threads=False)
    table = csv.read_csv(pa.BufferReader(gzip.decompress(data)), read_options=options)
    values = np.column_stack([column.to_numpy() for column in table.columns]).astype(np.uint8)
    return {"image": values[:, :-1].reshape(-1, side, side, 1), "label": values[:, -1].astype(np.str_)}
