"""Ingest, the driver's side: slices go out to be packed, and what needs the whole domain is settled here.

Slices are packed on Ray, a bounded number in flight, or in this process; both give the same bytes, and what a killed
ingest had packed is taken over. The driver keeps 36 bytes a row (content id, truth, hash of a given id) until the end.
"""

from __future__ import annotations

import json
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from itertools import islice
from typing import Any, TypeVar

import numpy as np

from schemas.artifacts import ObjectInfo, SamplesRef, TruthRef
from schemas.domains import DomainInputs, DomainManifest, DomainOutputs, ShardInfo
from schemas.errors import DataError
from stages.artifacts import Attempt
from stages.cluster import cores, own_error
from stages.context import Context
from stages.domains import ipc
from stages.domains.kept import PACKED, known_slices, pack_once
from stages.domains.pack import TRUTH_FILE, BadEntry, Job, PackedShard, occurrences, pack_row, renumber
from stages.domains.reader import MANIFEST, samples_digest, truth_digest
from stages.domains.sources import SourceReader, open_source
from stages.domains.sources.base import SAMPLE_ID
from stages.tasks.base import BadRow, Column, Task
from stages.truth import UNKNOWN, to_arrow

QUARANTINE = "quarantine.jsonl"
SHOWN = 5
"""Bad rows that a message shows."""
T = TypeVar("T")


def ingest(context: Context, inputs: DomainInputs, task: Task, prepare: Any, attempt: Attempt) -> DomainOutputs:
    """Pack a domain under `attempt` (not committed). Raises DataError for bad rows, doubled ids, no rows."""
    reader = open_source(inputs.source, inputs.columns, task.roles, task.files, task.optional, task.labels)
    columns = _first_columns(reader, task, prepare, inputs.shard_rows)
    kept = attempt.folder / PACKED
    given = task.vocabulary() or inputs.classes
    job = Job(task, prepare, attempt.folder / attempt.name, kept, known_slices(kept), given, columns)
    slices = ((job, number, *item) for number, item in enumerate(reader.slices(inputs.shard_rows)))
    packed: list[PackedShard] = []
    done, reporter = 0, context.reporter()
    for item in each(context, pack_once, slices):
        packed.append(item)
        done += item.rows + len(item.bad)
        reporter.progress(done, reader.rows, "rows")
    _check_rows(packed, inputs)
    shards = [item for item in packed if item.rows]
    _check_ids(job, shards)
    duplicates = _number_duplicates(context, job, shards)
    classes, truths = _truth(shards, given)
    infos = _write_truth(attempt, shards, truths)
    manifest = DomainManifest(
        rows=sum(item.rows for item in shards),
        columns={role: column.dump() for role, column in columns.items()},
        classes=classes,
        class_counts=None if truths is None or task.coded else _counts(truths, len(classes or ())),
        duplicates=duplicates,
        quarantined=_quarantine(attempt, packed),
        given_splits=reader.given_splits,
        statistics=_statistics(shards, columns),
        shards=infos,
    )
    if manifest.quarantined:
        context.tell(
            "warning",
            f"{manifest.quarantined:,} bad rows of {manifest.quarantined + manifest.rows:,} are set aside, with their "
            f"places, in {attempt.folder.uri}/{attempt.name}/{QUARANTINE}",
        )
    attempt.put(MANIFEST, manifest.to_json())
    uri, asked = attempt.folder.uri, attempt.fingerprint
    return DomainOutputs(
        samples=SamplesRef(uri=uri, fingerprint=asked, digest=samples_digest(manifest)),
        truth=None
        if truths is None
        else TruthRef(uri=uri, fingerprint=asked, digest=truth_digest(classes or (), truths)),
        rows=manifest.rows,
        shards=len(infos),
        classes=classes,
        duplicates=duplicates,
        quarantined=manifest.quarantined,
    )


def each(context: Context, work: Callable[..., T], arguments: Iterable[tuple[Any, ...]]) -> Iterator[T]:
    """`work(*arguments)` of each, in order: on Ray with a bounded number in flight, or in this process."""
    if context.local:
        for item in arguments:
            yield work(*item)
        return
    import ray
    from ray.exceptions import RayTaskError

    remote: Any = ray.remote(work)
    in_flight = 2 * max(1, cores())
    waiting: deque[Any] = deque()
    left = iter(arguments)
    try:
        while True:
            waiting.extend(remote.remote(*item) for item in islice(left, in_flight - len(waiting)))
            if not waiting:
                return
            result: T = ray.get(waiting.popleft())
            yield result
    except RayTaskError as error:
        if (ours := own_error(error)) is not None:
            raise ours from None
        raise
    finally:
        for unfinished in waiting:
            ray.cancel(unfinished)


def _first_columns(reader: SourceReader, task: Task, prepare: Any, rows: int) -> Mapping[str, Column]:
    """How the first good row is stored: the form that all rows of the domain have. Usually reads one row."""
    bad: list[BadEntry] = []
    for _, piece in reader.slices(rows):
        for place, row in piece.read():
            try:
                if isinstance(row, BadRow):
                    raise row
                return pack_row(task, prepare, row).columns
            except BadRow as error:
                bad.append(BadEntry(place, str(error)))
    if not bad:
        raise DataError("the source has no rows: a domain needs at least one")
    raise DataError(f"all {len(bad):,} rows of the source are bad (first: {_show(bad)})")


def _check_rows(packed: list[PackedShard], inputs: DomainInputs) -> None:
    bad = [entry for item in packed for entry in item.bad]
    rows = sum(item.rows for item in packed)
    if bad and not rows:
        raise DataError(f"all {len(bad):,} rows of the source are bad (first: {_show(bad)})")
    if bad and inputs.on_bad_row == "refuse":
        raise DataError(
            f"{len(bad):,} of {len(bad) + rows:,} rows of the source are bad (first: {_show(bad)}): "
            "mend them, or set `on_bad_row: quarantine` to set them aside"
        )


def _show(bad: list[BadEntry]) -> str:
    return "; ".join(f"{entry.place}: {entry.problem}" for entry in bad[:SHOWN])


def _check_ids(job: Job, shards: list[PackedShard]) -> None:
    """Given ids stand once. Raises DataError that counts and shows."""
    given = [item for item in shards if item.id_hashes is not None]
    hashes = [item.id_hashes for item in given if item.id_hashes is not None]
    if not hashes:
        return
    doubled = occurrences(np.concatenate(hashes)) > 0
    if not doubled.any():
        return
    shown: list[str] = []
    start = 0
    for item in given:
        rows = np.flatnonzero(doubled[start : start + item.rows])
        start += item.rows
        if len(rows) and len(shown) < SHOWN:
            ids = job.read(item).column(SAMPLE_ID)
            shown += [ids[int(row)].as_py() for row in rows[: SHOWN - len(shown)]]
    raise DataError(
        f"{int(doubled.sum()):,} rows have a sample_id that stands in an earlier row (first: {', '.join(shown)}): "
        "give each row an id of its own, or leave the column out"
    )


def _number_duplicates(context: Context, job: Job, shards: list[PackedShard]) -> int:
    """Count duplicates over the domain, and write shards with made ids again whose counts go on from earlier ones."""
    occurrence = occurrences(np.concatenate([item.content_ids for item in shards]))
    bounds = np.cumsum([item.rows for item in shards])[:-1]
    again = {}
    for index, (item, own) in enumerate(zip(shards, np.split(occurrence, bounds), strict=True)):
        if item.id_hashes is None and (own != occurrences(item.content_ids)).any():
            again[index] = (job, item, own)
    for index, item in zip(again, each(context, renumber, again.values()), strict=True):
        shards[index] = item
    return int((occurrence > 0).sum())


def _truth(
    shards: list[PackedShard], given: tuple[str, ...] | None
) -> tuple[tuple[str, ...] | None, list[np.ndarray] | None]:
    """Class names in order, and the truth by shard, int32 numbers of these or bytes; none where no row has a label."""
    if not any((item.truth != UNKNOWN).any() for item in shards):
        return given, None
    if given is not None:
        return given, [item.truth for item in shards]
    names = {name for item in shards for name in item.classes}
    whole = all(name.isascii() and name.isdecimal() for name in names)
    classes = tuple(sorted(names, key=lambda name: (int(name), name)) if whole else sorted(names))
    number = {name: index for index, name in enumerate(classes)}
    truths = []
    for item in shards:
        mapped = np.array([*(number[name] for name in item.classes), UNKNOWN], np.int32)
        truths.append(mapped[item.truth])  # UNKNOWN is -1, which is the last entry
    return classes, truths


def _write_truth(attempt: Attempt, shards: list[PackedShard], truths: list[np.ndarray] | None) -> tuple[ShardInfo, ...]:
    infos = []
    for index, item in enumerate(shards):
        samples = item.samples
        if samples is None:
            raise RuntimeError(f"shard {item.number} has rows and no file")
        if item.where:
            attempt.take(samples, f"{PACKED}/{item.where}")
        else:
            attempt.add(samples)
        truth: ObjectInfo | None = None
        if truths is not None:
            truth = attempt.put(TRUTH_FILE.format(item.number), ipc.encode({"truth": to_arrow(truths[index])}))
        infos.append(ShardInfo(name=samples.name, rows=item.rows, digest=item.digest, samples=samples, truth=truth))
    return tuple(infos)


def _quarantine(attempt: Attempt, packed: list[PackedShard]) -> int:
    """Write the bad rows' places, if there are any; their number."""
    bad = [entry for item in packed for entry in item.bad]
    if bad:
        lines = (json.dumps({"place": entry.place, "problem": entry.problem}) + "\n" for entry in bad)
        attempt.put(QUARANTINE, "".join(lines).encode())
    return len(bad)


def _counts(truths: list[np.ndarray], classes: int) -> tuple[int, ...]:
    values = np.concatenate(truths)
    return tuple(np.bincount(values[values != UNKNOWN], minlength=classes).tolist())


def _statistics(shards: list[PackedShard], columns: Mapping[str, Column]) -> dict[str, float]:
    """`ROLE.mean` of all values of a raw column, `ROLE.bytes` a row of an encoded one."""
    rows = sum(item.rows for item in shards)
    found = {}
    for role, column in columns.items():
        total = sum(item.sums[role] for item in shards)
        if column.storage == "raw":
            found[f"{role}.mean"] = total / (rows * int(np.prod(column.shape or (), dtype=np.int64)))
        else:
            found[f"{role}.bytes"] = total / rows
    return found
