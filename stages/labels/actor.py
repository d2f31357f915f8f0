"""Labelling, spread out: here with threads, or by Ray Data over a pool of actors that each hold the teacher
once.
 What crosses to an actor is a job and unit plans, what comes back are unit results: labels never pass through
the object store. A pool of one starts in about 3 s; each further unit costs 14 to 30 ms beside its work.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np

from schemas import errors
from schemas.artifacts import ModelRef, SamplesRef
from schemas.errors import CrossdistillError, InternalError
from schemas.labels import UnitPlan, UnitResult
from schemas.spec import Resources
from stages.cluster import causes, gpus_per_worker
from stages.labels.builder import How
from stages.labels.labeller import UNITS_AT_ONCE, Labeller
from stages.labels.store import Store, fidelity_threshold
from stages.places import Place
from stages.progress import Reporter


@dataclass(frozen=True)
class LabelJob:
    """All that a labelling process must know; crosses to actors, so it holds places and plain values."""

    store: Place
    teacher_place: Place
    teacher: ModelRef
    samples_place: Place
    samples: SamplesRef
    how: How
    reporter: Reporter | None
    """Told the rows done so far by the one process that labels; none where several do."""
    rows_done: int
    """Rows that were labelled before."""
    rows_total: int
    """Rows of the set."""

    def labeller(self, device: str) -> Labeller:
        """Load teacher and samples, once per process."""
        from stages.domains.reader import Samples
        from stages.training.models import load_model

        done = self.rows_done

        def told(rows: int) -> None:
            nonlocal done
            done += rows
            if self.reporter is not None:
                self.reporter.progress(done, self.rows_total, "rows")

        teacher = load_model(self.teacher_place, self.teacher)
        told(0)  # from here on its pace counts
        return Labeller(
            Store(self.store),
            Samples.open(self.samples_place, self.samples).only(teacher.task.reads(teacher.preprocessing)),
            teacher.for_inference(),
            self.how,
            device,
            told,
        )


def label_units(labeller: Labeller, units: Sequence[UnitPlan]) -> Iterator[UnitResult]:
    """Label units in this process, in order; `UNITS_AT_ONCE` are in work. On any error the rest is dropped."""
    with ThreadPoolExecutor(UNITS_AT_ONCE, "unit") as pool:
        results = [pool.submit(labeller.label, unit) for unit in units]
        try:
            for result in results:
                yield result.result()
        finally:
            pool.shutdown(wait=False, cancel_futures=True)
            labeller.close()


def label_units_here(job: LabelJob, units: Sequence[UnitPlan]) -> Iterator[UnitResult]:
    """`label_units` with the job's own teacher, on this process's accelerator if it has one."""
    from stages.training.launch import device

    yield from label_units(job.labeller(str(device())), units)


def basis_here(job: LabelJob, key: str, rank: int) -> str:
    """Digest of the basis of a key in the job's store, made by its teacher if there is none."""
    from stages.labels.bases import basis_rows, make_basis
    from stages.training.launch import device

    def logits() -> np.ndarray:
        labeller = job.labeller(str(device()))
        try:
            return labeller.outputs(fidelity_threshold(job.rows_total, basis_rows(rank)))
        finally:
            labeller.close()

    return make_basis(job.store, key, rank, logits).digest


def features_here(job: LabelJob) -> int:
    """Width of the penultimate features of the job's teacher. Raises ModelError if it has none."""
    from stages.training.models import load_model

    return load_model(job.teacher_place, job.teacher).penultimate().width


class LabelActor:
    """Body of an actor: two calls run at once, so that one unit is written while the next is inferred."""

    def __init__(self, job: LabelJob, threads: int, gpu: bool) -> None:
        import torch

        torch.set_num_threads(threads)
        self._labeller: Labeller | CrossdistillError
        try:
            self._labeller = job.labeller("cuda" if gpu else "cpu")
        except CrossdistillError as error:
            self._labeller = error

    def __call__(self, batch: dict[str, Any]) -> dict[str, Any]:
        """Unit plans as JSON in; out come unit results as JSON, or the class and problems of a failure.

        A failure is answered, not raised, since Ray Data rewrites the messages of what is raised.
        """
        answers = [self._answer(UnitPlan.model_validate_json(text)) for text in batch["unit"]]
        results, failures = zip(*answers, strict=True)
        return {"result": np.array(results), "failure": np.array(failures)}

    def _answer(self, unit: UnitPlan) -> tuple[str, str]:
        try:
            if isinstance(self._labeller, CrossdistillError):
                raise self._labeller
            return self._labeller.label(unit).model_dump_json(), ""
        except CrossdistillError as error:
            return "", json.dumps([type(error).__name__, *error.problems])


def label_units_on_ray(job: LabelJob, units: Sequence[UnitPlan], resources: Resources) -> Iterator[UnitResult]:
    """Label units on the running cluster, in whatever order they finish; `resources.workers` teachers at
    most.

    Raises what an actor raised if it is a CrossdistillError, else InternalError with the cause.
    """
    import ray.data

    gpus = gpus_per_worker(resources)
    units_in = ray.data.from_items([{"unit": unit.model_dump_json()} for unit in units], override_num_blocks=len(units))
    units_in.context.enable_progress_bars = False
    units_in.context.print_on_execution_start = False
    units_in.context.raise_original_map_exception = True  # so that an error of ours shows its own message
    logging.getLogger("ray.data").setLevel(logging.CRITICAL)  # what failed is raised, and told once
    results = units_in.map_batches(
        LabelActor,
        fn_constructor_args=(job, max(1, int(resources.cpus_per_worker)), bool(gpus)),
        batch_size=1,
        compute=ray.data.ActorPoolStrategy(
            size=min(resources.workers, len(units)),
            max_tasks_in_flight_per_actor=UNITS_AT_ONCE,
            max_concurrent_calls_per_actor=UNITS_AT_ONCE,
            enable_true_multi_threading=True,
        ),
        num_cpus=resources.cpus_per_worker,
        num_gpus=gpus,
    )
    try:
        for row in results.iter_rows():
            if row["failure"]:
                kind, *problems = json.loads(row["failure"])
                raise getattr(errors, kind)(*problems)
            yield UnitResult.model_validate_json(row["result"])
    except CrossdistillError:
        raise
    except Exception as error:
        cause = causes(error)[-1]
        told = str(cause).partition("\n")[0]
        raise InternalError(f"labelling: {type(cause).__name__}: {told}") from error
