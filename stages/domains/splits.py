"""Splits: a seeded hash of `content_id` ranks the distinct contents, and the shares cut the ranking.

N rows. Without duplicates each split has its share of N to the nearest row (cut at rounded cumulative shares);
with them, each cut is as near as whole groups of duplicates allow. Truth has no say.
"""

from __future__ import annotations

import hashlib

import numpy as np
import pyarrow as pa

from schemas.artifacts import SplitRef
from schemas.domains import SplitInputs, SplitOutputs
from schemas.spec import Split
from stages.artifacts import Attempt
from stages.context import Context
from stages.domains import ipc
from stages.domains.reader import SPLIT_FILE, TEST, TRAIN, VALIDATION, Samples, split_digest


def make_split(context: Context, inputs: SplitInputs, attempt: Attempt) -> SplitOutputs:
    """The overlay under `attempt` (not committed). Reads ids only, a microsecond or two a row."""
    samples = Samples.open(context.place(inputs.samples), inputs.samples)
    content_ids = samples.all_content_ids()
    if inputs.split is not None:
        codes = draw_split(content_ids, inputs.split)
    else:
        codes, moved = join_duplicates(content_ids, samples.given_split())
        if moved:
            context.tell(
                "warning",
                f"{moved:,} rows stand in another split of the source too; each went to the first of train, "
                "validation, test that holds its content",
            )
    attempt.put(SPLIT_FILE, ipc.encode({"split": pa.array(codes)}))
    train, validation, test = (int((codes == code).sum()) for code in (TRAIN, VALIDATION, TEST))
    ref = SplitRef(uri=attempt.folder.uri, fingerprint=attempt.fingerprint, digest=split_digest(codes))
    return SplitOutputs(split=ref, train=train, validation=validation, test=test)


def draw_split(content_ids: np.ndarray, split: Split) -> np.ndarray:
    """Split code of each row, int8 (rows,), for content ids uint8 (rows, 16)."""
    distinct, group, sizes = groups(content_ids)
    order = np.argsort(ranks(distinct, f"split {split.seed}"), kind="stable")
    rows_before = np.r_[0, np.cumsum(sizes[order])]
    rows = len(content_ids)
    shares = (split.train, 1.0 - split.test if split.test else 1.0)
    if not split.validation:
        shares = (shares[1], shares[1])
    first, second = (_nearest(rows_before, share * rows) for share in shares)
    codes = np.empty(len(distinct), np.int8)
    codes[order[:first]], codes[order[first:second]], codes[order[second:]] = TRAIN, VALIDATION, TEST
    return codes.take(group)


def join_duplicates(content_ids: np.ndarray, given: np.ndarray) -> tuple[np.ndarray, int]:
    """Given split codes, with each content's rows moved to the first split that holds it, and how many moved.

    So nothing that is trained on is tested on; what is trained on stays as it was given.
    """
    distinct, group, _ = groups(content_ids)
    first = np.full(len(distinct), TEST, np.int8)
    np.minimum.at(first, group, given)
    codes = first[group]
    return codes, int((codes != given).sum())


def groups(content_ids: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(distinct ids (G, 16), group of each row (rows,), rows of each group (G,)), distinct ids in their own order."""
    distinct, group, sizes = np.unique(content_ids, axis=0, return_inverse=True, return_counts=True)
    return distinct, group.reshape(-1), sizes


def ranks(content_ids: np.ndarray, draw: str) -> np.ndarray:
    """Keyed hash of each id, uint64 (rows,): independent between draws of another name."""
    key = hashlib.blake2b(draw.encode(), digest_size=32).digest()
    hashes = (hashlib.blake2b(row.tobytes(), key=key, digest_size=8).digest() for row in content_ids)
    return np.frombuffer(b"".join(hashes), "<u8")


def _nearest(rows_before: np.ndarray, wanted: float) -> int:
    """Number of groups whose rows together are nearest to `wanted`; the smaller of two."""
    return int(np.abs(rows_before - wanted).argmin())
