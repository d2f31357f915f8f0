"""Truth of domains that name the same classes in another order counts in the teacher's own."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from schemas.errors import ModelError
from schemas.spec import Storage
from stages.context import Context
from stages.teachers.rows import LabelledRows
from tests.teachers.world import CLASSES, Domain


def test_rows_count_in_the_models_classes(local_context: Context, tmp_path: Path) -> None:
    one, other = Domain(local_context, tmp_path, 40, 1), Domain(local_context, tmp_path, 30, 2)
    order = ("right", "left", "middle")
    plain, moved = (LabelledRows([one.labelled, other.labelled], names, Storage()) for names in (CLASSES, order))
    for theirs, ours in (
        (moved.truth(moved.train), plain.truth(plain.train)),
        (moved.validation_truth, plain.validation_truth),
    ):
        assert [order[n] for n in theirs] == [CLASSES[n] for n in ours]
    assert np.array_equal(moved.train, plain.train)
    with pytest.raises(ModelError, match="give both the same `classes`"):
        LabelledRows([one.labelled], ("left", "middle", "top"), Storage())
