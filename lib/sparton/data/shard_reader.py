"""Petastorm's batch reader over an explicit list of shards: in order, each exactly once.

Nothing of Petastorm's own sharding or shuffling is used. Its thread pool keeps the order with a single worker only. It
may end before the last shards arrive, because it asks for outstanding work and for the end of the list at different
moments; so arrivals are counted and a new reader goes on at the first shard that is missing.
"""

from __future__ import annotations

import logging
import warnings
from collections.abc import Generator, Iterator, Sequence
from contextlib import ExitStack, closing
from typing import IO, Any

import pyarrow as pa
import pyarrow.parquet as pq

from sparton import storage
from sparton.data.manifest import Shard
from sparton.errors import DataError

READER_SHARDS = 256
"""Shards that one Petastorm reader gets: it reads all their footers before the first row."""

RESULTS_QUEUE = 2
"""Results that a reader holds ready; each is a shard or the note that one is done."""

READERS = 2
"""Shards of one list that are decoded at the same time; one column of a shard keeps one core busy."""


def _of_interest(record: logging.LogRecord) -> bool:
    """Leave out that a data set was not made by Petastorm: none is, and each reader would say so."""
    return not str(record.msg).startswith("Failed loading Unischema from metadata in")


def read_shards(
    folder: str, shards: Sequence[Shard], columns: Sequence[str], n_readers: int = READERS
) -> Iterator[pa.Table]:
    """Yield the columns of each shard as an Arrow table, in order and none left out.

    Shards are dealt to ``n_readers`` readers in turn, which work side by side.

    Raises
    ------
    DataError
        Naming the shard that cannot be read, or has other rows than the manifest says.
    """
    with ExitStack() as stack:
        readers = [
            stack.enter_context(closing(_read_in_order(folder, shards[first::n_readers], columns)))
            for first in range(n_readers)
        ]
        for index in range(len(shards)):
            yield next(readers[index % n_readers])


def _read_in_order(folder: str, shards: Sequence[Shard], columns: Sequence[str]) -> Generator[pa.Table, None, None]:
    """Yield the shards of one reader."""
    position = 0
    while position < len(shards):
        first = position
        try:
            with _open_reader(folder, shards[first : first + READER_SHARDS], columns) as reader:
                for table in reader:
                    _check_rows(folder, shards[position], table.num_rows)
                    yield table
                    position += 1
        except DataError:
            raise
        except Exception as error:
            culprit = _unreadable(folder, shards[first : first + READER_SHARDS]) or shards[position]
            reason = " ".join(str(error).split()) or type(error).__name__
            path = storage.join(folder, culprit.path)
            raise DataError(f"{path}: cannot be read ({reason}); restore the file or prepare the set again") from error
        if position == first:
            raise DataError(f"{storage.join(folder, shards[position].path)}: the reader returned no rows")


def _unreadable(folder: str, shards: Sequence[Shard]) -> Shard | None:
    """Return the first shard whose footer cannot be read: Petastorm reads all of them but does not say which failed."""
    for shard in shards:
        try:
            with storage.open_file(storage.join(folder, shard.path)) as stream:
                pq.read_metadata(stream)
        except Exception:
            return shard
    return None


def _check_rows(folder: str, shard: Shard, found: int) -> None:
    if found != shard.rows:
        path = storage.join(folder, shard.path)
        raise DataError(f"{path}: {found} rows, the manifest says {shard.rows}; prepare the set again")


def _open_reader(folder: str, shards: Sequence[Shard], columns: Sequence[str]) -> Any:
    # Both libraries announce the end of interfaces that the pinned versions still have.
    for module in ("petastorm", "pyarrow"):
        warnings.filterwarnings("ignore", category=FutureWarning, module=module)
    from petastorm import make_batch_reader

    logging.getLogger("petastorm.etl.dataset_metadata").addFilter(_of_interest)  # once, however often it is called
    reader = make_batch_reader(
        [f"file:///{index}" for index in range(len(shards))],
        schema_fields=list(columns),
        reader_pool_type="thread",
        workers_count=1,
        results_queue_size=RESULTS_QUEUE,
        shuffle_row_groups=False,
        num_epochs=1,
        filesystem=_numbered_files([storage.join(folder, shard.path) for shard in shards]),
    )
    reader._results_queue_reader = _ArrowResults()
    return reader


class _ArrowResults:
    """Hands out tables as they were read: Petastorm's own results make a Python object of every tensor."""

    batched_output = True

    def read_next(self, pool: Any, schema: Any, ngram: Any) -> pa.Table:
        """Return the next table; its arguments are those of Petastorm's interface."""
        from petastorm.workers_pool import EmptyResultError

        try:
            return pool.get_results()
        except EmptyResultError:
            raise StopIteration from None


def _numbered_files(paths: Sequence[str]) -> Any:
    """Return a file system, of the kind that Petastorm takes, in which ``/i`` is the file at ``paths[i]``.

    Petastorm would parse paths as URLs, which loses names with ``#`` or ``?``, and would open remote files by its own
    means. The files have been checked to exist.
    """
    from pyarrow.filesystem import FileSystem

    class NumberedFiles(FileSystem):  # type: ignore[misc, unused-ignore]
        def open(self, path: str, mode: str = "rb") -> IO[Any] | pa.NativeFile:
            found = paths[int(path.rsplit("/", 1)[-1])]
            if storage.is_local(found):
                return pa.memory_map(storage.local_path(found))
            return storage.open_file(found, mode)

        def isfile(self, path: str) -> bool:
            return True

        def isdir(self, path: str) -> bool:
            return False

        def exists(self, path: str) -> bool:
            return True

        def _isfilestore(self) -> bool:
            return False

    return NumberedFiles()
