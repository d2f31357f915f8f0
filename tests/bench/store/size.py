"""Size: bytes of a label against what is lost, on a real teacher; our encodings and the formats of others.

What is lost is the mean KL over all classes from the teacher's float32 outputs at T = 2, on rows of users that
neither the teacher nor a basis saw. Bytes are those of the labels alone, as the label schema counts them; ids (and, in
a set, the exact rows) stand beside them in every encoding. Costs about three minutes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from schemas.encodings import Dense, Encoding, LowRank, TopK
from stages.labels.decoded import DenseLabels
from stages.labels.encodings import Basis, codec_of
from stages.labels.encodings.low_rank import fit_basis
from stages.labels.statistics import fidelity
from stages.random import counters
from tests.bench.store import formats
from tests.bench.store.speed import row
from tests.bench.store.teacher import Said, said

TAU = 2.0
AIMS = ((64, 1e-2), (160, 1e-3))
"""(bytes at most, full KL at most)."""
KEPT = (4, 8, 16, 32, 64, 128)
CHUNK = 1024


def bench(quick: bool, folder: Path, python: Path) -> list[dict[str, Any]]:
    """Rows of the table."""
    teacher = said(4 if quick else 60)
    table = [
        row("teacher on MovieLens 1M: classes", teacher.rows.shape[1], "classes"),
        row("teacher on MovieLens 1M: rows measured", len(teacher.rows), "rows"),
        row("teacher on MovieLens 1M: recall at 50 on unseen users", teacher.recall, "share"),
    ]
    found = [*ours(teacher), *theirs(teacher)]
    for name, size, lost, unit in sorted(found, key=lambda item: (item[1], item[2])):
        met = [f"{most} bytes at {bound:g}" for most, bound in AIMS if size <= most and lost <= bound]
        suits = f"; meets {' and '.join(met)}" if met and unit == KL else ""
        table.append(row(f"{size:>5} bytes, {name}{suits}", lost, unit) | {"bytes": size})
    for most, bound in AIMS:
        for who in ("ours: ", "others: "):
            fits = [item for item in found if item[1] <= most and item[0].startswith(who) and item[3] == KL]
            name, size, lost, _ = min(fits, key=lambda item: item[2])
            aim = bound if who == "ours: " else None
            table.append(row(f"best in {most} bytes: {name} ({size} bytes)", lost, KL, aim, most=True))
    return table


KL = "nats, KL(teacher || decoded)"
BACK = "nats, KL(decoded || teacher); the other is infinite"


def ours(teacher: Said) -> Iterator[tuple[str, int, float, str]]:
    """(name, bytes, loss, its unit) of our encodings."""
    classes = teacher.rows.shape[1]
    encodings: list[Encoding] = [Dense(), Dense(dtype="bfloat16")]
    encodings += [TopK(kind="top-k", k=k, values=values) for k in KEPT for values in ("float16", "uint8")]
    encodings += [LowRank(kind="low-rank", rank=rank, dtype="int8") for rank in (14, 30, 46, 62, 64, 96, 128)]
    encodings += [LowRank(kind="low-rank", rank=rank, dtype="float16") for rank in (16, 32, 48, 64, 80)]
    whole = fit_basis(teacher.basis, 128)
    for encoding in encodings:
        basis = None
        if isinstance(encoding, LowRank):
            basis = Basis(whole.mean, whole.components[: encoding.rank])
        size = sum(field.bytes_per_row for field in codec_of(encoding, classes, basis).fields())
        yield f"ours: {shown(encoding)}", size, loss(teacher.rows, encoding, basis), KL


def loss(logits_NC: np.ndarray, encoding: Encoding, basis: Basis | None) -> float:
    """Mean full KL at T = 2 in nats, as a set's fidelity measures it."""
    codec = codec_of(encoding, logits_NC.shape[1], basis)
    total = 0.0
    for start in range(0, len(logits_NC), CHUNK):
        part = np.ascontiguousarray(logits_NC[start : start + CHUNK])
        decoded = codec.decode(codec.encode(part, counters(np.zeros((len(part), 16), np.uint8))))
        total += fidelity(part, decoded).full_kl_sums[f"{TAU:g}"]
    return total / len(logits_NC)


def theirs(teacher: Said) -> Iterator[tuple[str, int, float, str]]:
    """The same of the formats of others."""
    logp = DenseLabels(teacher.rows).log_probabilities()
    softened = formats.tempered(logp, TAU)
    makers: list[Callable[[np.ndarray], formats.Format]] = [formats.half_dense]
    for k in KEPT:
        makers += [partial(formats.renormalised, k=k), partial(formats.uniform_rest, k=k)]
        if k > 8:
            makers.append(partial(formats.polynomial, k=k))
    for make in makers:
        item = make(logp)
        found = formats.tempered(item.logp, TAU)
        lost, unit = formats.divergence(softened, found), KL
        if not np.isfinite(lost):
            lost, unit = formats.divergence(found, softened), BACK
        yield f"others: {item.name}", item.bytes_per_row, lost, unit


def shown(encoding: Encoding) -> str:
    """An encoding in a few words."""
    match encoding:
        case TopK():
            return f"top-k, k = {encoding.k}, {encoding.values}"
        case LowRank():
            return f"low-rank, r = {encoding.rank}, {encoding.dtype}"
        case Dense():
            return f"dense, {encoding.dtype}"
        case _:
            return encoding.kind
