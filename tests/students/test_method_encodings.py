"""Every method over every encoding of labels that it claims, made by the encodings' own code; and what it refuses."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from schemas.encodings import Dense, Encoding, Hard, LowRank, Sampled, TopK
from schemas.errors import StoreError
from stages.labels.encodings import codec_of
from stages.labels.encodings.low_rank import fit_basis
from stages.random import counters
from stages.students.methods import METHODS
from stages.students.methods.base import SharedRows
from stages.students.teacher import TeacherRows, teacher_rows
from tests.students.toy import CLASSES, GAMES, ROWS, Toy, learners_of, method

CPU = torch.device("cpu")
LOGITS = (np.random.default_rng(8).normal(size=(ROWS, CLASSES)) * 3).astype("f4")
LOGITS[np.arange(ROWS), LOGITS.argmax(axis=1)] += 1.0  # no two classes are equally likely
ENCODINGS: dict[str, Encoding] = {
    "dense": Dense(),
    "low-rank": LowRank(kind="low-rank", rank=CLASSES - 1),
    "top-3": TopK(kind="top-k", k=3),
    "one step": TopK(kind="top-k", k=3, values="uint8"),
    "all": TopK(kind="top-k", k=CLASSES),
    "mass": TopK(kind="top-k", k=None, mass=0.8),
    "sampled": Sampled(kind="sampled", draws=200),
    "sampled at 2": Sampled(kind="sampled", draws=200, temperature=2.0),
    "hard": Hard(kind="hard"),
}


def said(encoding: Encoding) -> TeacherRows:
    basis = fit_basis(LOGITS, encoding.rank) if isinstance(encoding, LowRank) else None
    codec = codec_of(encoding, CLASSES, basis)
    drawn = counters(np.random.default_rng(0).integers(0, 255, (ROWS, 16)).astype("u1"))
    return teacher_rows(codec.decode(codec.encode(LOGITS, drawn)), None, CPU)


@pytest.mark.parametrize("encoding", ENCODINGS)
@pytest.mark.parametrize("name", [name for name in METHODS.names() if method(name).needs.labels])
def test_a_method_learns_from_the_encodings_that_it_claims(name: str, encoding: str) -> None:
    """Its loss falls and stays finite; from others it is refused."""
    teaching = method(name)
    fields = ("features", "entropy", "margin", "said", "views")
    try:
        teaching.needs.check_labels(ENCODINGS[encoding], fields)
    except StoreError:
        assert encoding not in ("dense", "low-rank"), "full logits serve every method"
        assert ENCODINGS[encoding].kind not in teaching.needs.encodings or "sampled" in encoding
        return
    toy = Toy(teacher=said(ENCODINGS[encoding]), seed=3)
    learners, losses = learners_of(teaching, train=name not in GAMES), []
    optimizer = torch.optim.SGD(toy.leaves.values(), lr=0.3)
    for _ in range(20):
        loss = teaching.teacher_term(toy.shared(teaching))
        losses.append(loss.item())
        optimizer.zero_grad()
        learners.zero_grad()
        loss.backward()
        optimizer.step()
        if name not in GAMES:
            learners.step(0.05)
    assert losses[-1] < losses[0]
    assert np.isfinite(losses).all()


@pytest.mark.parametrize(
    "name", ["soft", "hard", "margin", "dkd", "adaptive-attention", "graph-attention", "hard-examples", "confident"]
)
@pytest.mark.parametrize("encoding", ["top-3", "mass", "hard"])
def test_a_student_of_sparse_labels_comes_to_agree(name: str, encoding: str) -> None:
    """Logits that start at 0 end with the teacher's most likely class first, in every row."""
    settings: dict[str, dict[str, object]] = {
        "hard-examples": {"select": "weight"},
        "confident": {"threshold": 0.0},
    }
    teaching, teacher = method(name, **settings.get(name, {})), said(ENCODINGS[encoding])
    if ENCODINGS[encoding].kind not in teaching.needs.encodings:
        return
    student = torch.zeros(ROWS, CLASSES, requires_grad=True)
    optimizer = torch.optim.SGD([student], lr=1.0)
    for _ in range(60):
        optimizer.zero_grad()
        teaching.teacher_term(SharedRows(student, teacher, torch.ones(ROWS))).backward()
        optimizer.step()
    assert torch.equal(student.argmax(dim=1), teacher.top1())


@pytest.mark.parametrize("name", [name for name in METHODS.names() if "top-k" in method(name).needs.encodings])
def test_with_every_class_kept_sparse_labels_are_dense_ones(name: str) -> None:
    """Top-k of all classes, in float16 on both sides: the same loss, up to float32."""
    teaching = method(name)
    learners_of(teaching, train=False)
    dense, whole = (Toy(teacher=said(ENCODINGS[encoding])).loss(teaching).item() for encoding in ("dense", "all"))
    assert whole == pytest.approx(dense, rel=1e-4, abs=1e-6)
