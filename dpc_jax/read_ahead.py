"""Reading while computing: a thread makes the next item while one is used."""

from collections.abc import Generator, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

T = TypeVar('T')


def read_ahead(items: Iterator[T]) -> Generator[T]:
    """The same items; while one is used, a thread makes the next. No item may be None."""
    with ThreadPoolExecutor(1) as thread:
        coming = thread.submit(next, items, None)
        while (made := coming.result()) is not None:
            coming = thread.submit(next, items, None)
            yield made
