"""Making things in a thread while those before them are used."""

from __future__ import annotations

from collections import deque
from collections.abc import Generator, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

T = TypeVar("T")


def read_ahead(source: Generator[T, None, None], depth: int) -> Iterator[T]:
    """Yield what ``source`` yields, in order, with up to ``depth`` things made in advance by one thread.

    An error of the source comes where its thing would have come. The source is closed in the end, also where the
    iterator is closed before.
    """
    pending: deque[Future[T | None]] = deque()
    with ThreadPoolExecutor(1, thread_name_prefix="sparton-read-ahead") as pool:
        try:
            for _ in range(depth):
                pending.append(pool.submit(next, source, None))
            while (thing := pending.popleft().result()) is not None:
                pending.append(pool.submit(next, source, None))
                yield thing
        finally:
            for future in pending:
                future.cancel()
            pool.submit(source.close).result()
