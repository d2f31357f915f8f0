"""Each library's way to keep the rows and to read them in batches: the form that its documentation recommends.

Everything is uncompressed, in files of about 64 MB, read in this process and on one core (workers would help every
library alike). A library is imported only when it is used. Whatever it gives, a batch ends as numpy arrays, or as
torch tensors where the library's own loader makes them.

Shapes: N rows, B rows of a batch.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np

from tests.bench.store.rows import KEY, PIXELS, Batch, load

FILE_BYTES = 64 * 2**20
BUFFER = 16384
"""Rows of WebDataset's shuffle buffer."""


class Peer(ABC):
    """One library over one folder."""

    package = ""
    """What pip calls it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    @abstractmethod
    def write(self, source: Path) -> None:
        """Keep the rows of `rows.make`."""

    @abstractmethod
    def epoch(self, batch_size: int, seed: int | None) -> Iterator[Any]:
        """Batches by field, every row once: shuffled by a seed, or in order without one."""

    def open(self) -> None:  # noqa: B027 (most have nothing to do)
        """Whatever is done once."""


class Bare(Peer):
    """Numpy alone: a memory map an array, and one `take` each."""

    package = "numpy"

    def write(self, source: Path) -> None:
        self.folder.mkdir()
        for name, values in load(source).items():
            np.save(self.folder / f"{name}.npy", values)

    def open(self) -> None:
        self._rows = load(self.folder)

    def epoch(self, batch_size: int, seed: int | None) -> Iterator[Any]:
        for rows in batches(len(self._rows[KEY]), batch_size, seed):
            if seed is None:
                yield {name: np.array(values[rows[0] : rows[-1] + 1]) for name, values in self._rows.items()}
            else:
                yield {name: values.take(rows, axis=0) for name, values in self._rows.items()}


class Streaming(Peer):
    """MDS with arrays of fixed type and shape, through a torch DataLoader."""

    package = "mosaicml-streaming"

    def write(self, source: Path) -> None:
        streaming = import_module("streaming")
        rows = load(source)
        columns = {
            name: "int" if name == KEY else f"ndarray:{values.dtype.name}:{','.join(map(str, values.shape[1:]))}"
            for name, values in rows.items()
        }
        with streaming.MDSWriter(out=str(self.folder), columns=columns, size_limit=FILE_BYTES) as writer:
            for number in range(len(rows[KEY])):
                writer.write(
                    {name: int(values[number]) if name == KEY else values[number] for name, values in rows.items()}
                )

    def open(self) -> None:
        import_module("streaming.base.util").clean_stale_shared_memory()

    def epoch(self, batch_size: int, seed: int | None) -> Iterator[Any]:
        streaming, data = import_module("streaming"), import_module("torch.utils.data")
        dataset = streaming.StreamingDataset(
            local=str(self.folder), batch_size=batch_size, shuffle=seed is not None, shuffle_seed=seed or 0
        )
        yield from data.DataLoader(dataset, batch_size=batch_size)


class LitData(Peer):
    """Optimised chunks, through the library's own loader."""

    package = "litdata"

    def write(self, source: Path) -> None:
        import_module("litdata").optimize(
            fn=Row(source),
            inputs=list(range(len(load(source)[KEY]))),
            output_dir=str(self.folder),
            num_workers=1,
            chunk_bytes=FILE_BYTES,
        )

    def epoch(self, batch_size: int, seed: int | None) -> Iterator[Any]:
        litdata = import_module("litdata")
        dataset = litdata.StreamingDataset(str(self.folder), shuffle=seed is not None, seed=seed or 0)
        yield from litdata.StreamingDataLoader(dataset, batch_size=batch_size, num_workers=0)


class Row:
    """A row by its number, for a worker process."""

    def __init__(self, source: Path) -> None:
        self._source = source
        self._rows: Batch = {}

    def __call__(self, number: int) -> dict[str, Any]:
        self._rows = self._rows or load(self._source)
        return {name: int(v[number]) if name == KEY else np.array(v[number]) for name, v in self._rows.items()}


class WebDataset(Peer):
    """Tar files in which a row is one tensor file (`.ten`), shuffled in a buffer."""

    package = "webdataset"

    def write(self, source: Path) -> None:
        wds, rows = import_module("webdataset"), load(source)
        self.folder.mkdir()
        names = [name for name in rows if name != KEY]
        with wds.ShardWriter(str(self.folder / "%06d.tar"), maxsize=FILE_BYTES, maxcount=2**30, verbose=0) as writer:
            for number in range(len(rows[KEY])):
                writer.write({"__key__": f"{number:09d}", "ten": [np.array(rows[name][number]) for name in names]})
        (self.folder / "names.txt").write_text("\n".join(names))

    def epoch(self, batch_size: int, seed: int | None) -> Iterator[Any]:
        wds = import_module("webdataset")
        names = (self.folder / "names.txt").read_text().split()
        tars = sorted(map(str, self.folder.glob("*.tar")))
        stream = wds.WebDataset(tars, shardshuffle=len(tars) if seed is not None else False, seed=seed)
        if seed is not None:
            stream = stream.shuffle(BUFFER, initial=BUFFER, seed=seed)
        for keys, rows in stream.decode().to_tuple("__key__", "ten").batched(batch_size, collation_fn=columns):
            yield {name: np.stack(values) for name, values in zip(names, zip(*rows, strict=True), strict=True)} | {
                KEY: np.array([int(key) for key in keys])
            }


def columns(samples: list[Any]) -> tuple[Any, ...]:
    """Tuples of a batch, field by field."""
    return tuple(zip(*samples, strict=True))


class Lance(Peer):
    """Fixed-size lists, `take` by row numbers; scanned where rows come in order."""

    package = "pylance"

    def write(self, source: Path) -> None:
        lance = import_module("lance")
        lance.write_dataset(arrow_table(load(source)), str(self.folder))

    def open(self) -> None:
        self._dataset = import_module("lance").dataset(str(self.folder))

    def epoch(self, batch_size: int, seed: int | None) -> Iterator[Any]:
        if seed is None:
            found = self._dataset.to_batches(batch_size=batch_size)
        else:
            rows = batches(self._dataset.count_rows(), batch_size, seed)
            found = (self._dataset.take(item).combine_chunks().to_batches()[0] for item in rows)
        for batch in found:
            yield {name: numpy_of(column) for name, column in zip(batch.schema.names, batch.columns, strict=True)}


class Datasets(Peer):
    """An Arrow table of fixed-size lists on disk, mapped, with the numpy format."""

    package = "datasets"

    def write(self, source: Path) -> None:
        datasets = import_module("datasets")
        datasets.disable_progress_bars()
        table = arrow_table(load(source))
        datasets.Dataset(table).save_to_disk(str(self.folder), max_shard_size=FILE_BYTES)

    def open(self) -> None:
        datasets = import_module("datasets")
        datasets.disable_caching()
        self._dataset = datasets.load_from_disk(str(self.folder)).with_format("numpy")

    def epoch(self, batch_size: int, seed: int | None) -> Iterator[Any]:
        if seed is None:
            found = self._dataset.iter(batch_size)
        else:
            found = (self._dataset[rows] for rows in batches(len(self._dataset), batch_size, seed))
        for batch in found:
            if "pixels" in batch:
                batch["pixels"] = batch["pixels"].reshape(-1, *PIXELS)
            yield batch


def batches(rows: int, batch_size: int, seed: int | None) -> Iterator[np.ndarray]:
    """Row numbers of each batch: permuted, or in order."""
    order = np.arange(rows) if seed is None else np.random.default_rng(seed).permutation(rows)
    for start in range(0, rows, batch_size):
        yield order[start : start + batch_size]


def arrow_table(rows: Batch) -> Any:
    """The rows as an Arrow table: numbers, and lists of fixed size (pixels flat)."""
    pa = import_module("pyarrow")
    return pa.table(
        {
            name: pa.array(values)
            if values.ndim == 1
            else pa.FixedSizeListArray.from_arrays(pa.array(np.ascontiguousarray(values).reshape(-1)), values[0].size)
            for name, values in rows.items()
        }
    )


def numpy_of(column: Any) -> np.ndarray:
    """A column of `arrow_table` as an array."""
    values = getattr(column, "flatten", lambda: column)()
    flat: np.ndarray = values.to_numpy(zero_copy_only=False)
    shape = flat.size // max(1, len(column))
    if shape == 1:
        return flat
    return flat.reshape(-1, *(PIXELS if shape == np.prod(PIXELS) else (shape,)))
