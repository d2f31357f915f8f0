"""Packed slices that outlive a kill: what one ingest finished, the next one takes over.

    packed/00003.json            put-if-absent: which attempt packed slice 3, and what came of it
    packed/00003/ATTEMPT/...     its samples and its truth

Below the folder of the domain's artifact, until that exists: then its samples have a second name in it (a hard link on
a disk, a copy by the server elsewhere), and the folder goes. What is damaged is packed again.
"""

from __future__ import annotations

from dataclasses import replace

import pyarrow as pa

from schemas.artifacts import ObjectInfo
from schemas.domains import PackedSlice
from schemas.errors import ContractError, StoreError
from stages.artifacts import read_document
from stages.domains import ipc
from stages.domains.pack import TRUTH_FILE, BadEntry, Job, PackedShard, hashed, pack_slice
from stages.domains.sources.base import SAMPLE_ID, RowSlice
from stages.places import Place, checksum, new_attempt
from stages.truth import from_arrow, to_arrow

PACKED = "packed"
"""Folder of the slices, below that of the artifact."""


def known_slices(kept: Place) -> frozenset[int]:
    """Slices that an earlier ingest packed. One listing."""
    names = (name.removesuffix(".json") for name in kept.names() if name.endswith(".json"))
    return frozenset(int(name) for name in names if name.isdecimal())


def pack_once(job: Job, number: int, split: int | None, piece: RowSlice) -> PackedShard:
    """Take over a slice that is packed already, else pack it and keep it. One small write more than packing."""
    if number in job.known and (found := _take(job, number)) is not None:
        return found
    where = f"{number:05d}/{new_attempt()}"
    packed = replace(pack_slice(replace(job, folder=job.kept / where), number, split, piece), where=where)
    _keep(job, packed)
    return packed


def _keep(job: Job, packed: PackedShard) -> None:
    """Say that a slice is packed. Another's word may stand there by now: it is of the same bytes."""
    truth = None
    if packed.rows:
        name, data = TRUTH_FILE.format(packed.number), ipc.encode({"truth": to_arrow(packed.truth)})
        job.kept.put(f"{packed.where}/{name}", data)
        truth = ObjectInfo(name=name, size=len(data), checksum=checksum(data))
    known = PackedSlice(
        where=packed.where,
        samples=packed.samples,
        truth=truth,
        digest=packed.digest or None,
        bad=tuple((entry.place, entry.problem) for entry in packed.bad),
        classes=packed.classes,
        given_ids=packed.id_hashes is not None,
        sums=packed.sums,
    )
    job.kept.put_new(_receipt(packed.number), known.to_json())


def _take(job: Job, number: int) -> PackedShard | None:
    """A packed slice with all that the driver must know of it; None, and forgotten, where it is damaged or gone."""
    try:
        known = read_document(job.kept, _receipt(number), PackedSlice, "domains")
    except (ContractError, StoreError):
        known = None
    if known is not None:
        packed = PackedShard(number, bad=[BadEntry(*entry) for entry in known.bad], classes=known.classes)
        if known.samples is None or known.truth is None:
            return packed
        samples, truth = (_read(job.kept / known.where, part) for part in (known.samples, known.truth))
        if samples is not None and truth is not None:
            return replace(
                packed,
                rows=samples.num_rows,
                samples=known.samples,
                digest=known.digest or "",
                content_ids=ipc.fixed_bytes(samples.column("content_id")).copy(),
                id_hashes=hashed(samples.column(SAMPLE_ID).to_pylist()) if known.given_ids else None,
                truth=from_arrow(truth.column("truth")).copy(),
                sums=known.sums,
                where=known.where,
            )
    job.kept.remove(_receipt(number))
    return None


def _read(folder: Place, info: ObjectInfo) -> pa.RecordBatch | None:
    """A whole file; None where it is not."""
    data = folder.read_or_none(info.name)
    return ipc.decode(data) if data is not None and checksum(data) == info.checksum else None


def _receipt(number: int) -> str:
    return f"{number:05d}.json"
