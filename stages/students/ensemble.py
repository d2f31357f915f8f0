"""Several label sets read as one: the mean of what they say, each weighed by what it is worth on validation labels.

The weights belong to a student and its budget, so they are found, and the sets mixed, when labels are read: what is
stored stays raw. Costs one gather of the validation rows a set before the first step, and then one of each set that has
a weight in a step, for all students of one budget together.

Shapes: P sets, B rows, C classes.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from schemas.encodings import Dense
from schemas.labels import LabelSchema, Space
from stages.labels.decoded import DenseLabels
from stages.labels.encodings import label_schema
from stages.labels.mixture import label_weights, mixed

if TYPE_CHECKING:
    from stages.students.feed import LabelReader


class EnsembleLabels:
    """A reader of labels whose every label is the mean of those of others, in one order of the classes."""

    def __init__(
        self,
        sets: Sequence[tuple[LabelReader, NDArray[np.int64] | None]],
        weights: Sequence[float],
        classes: Sequence[str],
        space: Space,
    ) -> None:
        """`sets`: each with the place of each of `classes` among its own, none for the same. One of weight 0 is not
        read."""
        self._speaking = [(labels, columns, weight) for (labels, columns), weight in zip(sets, weights, strict=True)]
        self._speaking = [item for item in self._speaking if item[2] > 0]
        self.classes, self._space = tuple(classes), space

    @property
    def schema(self) -> LabelSchema:
        """A number for every class, and nothing beside it."""
        return label_schema(self.classes, Dense(dtype="float32"))

    def gather(
        self, positions: NDArray[np.int64], view: NDArray[np.int64], *, extras: Collection[str]
    ) -> dict[str, NDArray[Any]]:
        """What each set stores of some rows, under its number."""
        return {
            f"{number}/{name}": values
            for number, (labels, _, _) in enumerate(self._speaking)
            for name, values in labels.gather(positions, view, extras=extras).items()
        }

    def decode(self, stored: Mapping[str, NDArray[Any]]) -> DenseLabels:
        """The mean of what they say at temperature 1."""
        said = []
        for number, (labels, columns, _) in enumerate(self._speaking):
            head = f"{number}/"
            own = {name.removeprefix(head): values for name, values in stored.items() if name.startswith(head)}
            logp = labels.decode(own).log_probabilities(1.0)
            said.append(logp if columns is None else logp[:, columns])
        logp_PBC = np.stack(said)
        weights = tuple(weight for _, _, weight in self._speaking)
        weights_PB = label_weights(weights, logp_PBC, np.ones(logp_PBC.shape[:2], bool))
        return DenseLabels(mixed(logp_PBC, weights_PB, self._space))
