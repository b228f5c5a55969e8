"""Work on all cores, for functions that let go of the interpreter most of the time."""

import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

T = TypeVar("T")
R = TypeVar("R")

MAX_THREADS = 32  # more would wait for the interpreter


def cores() -> int:
    """Returns the number of cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def map_in_threads(function: Callable[[T], R], items: Iterable[T]) -> Iterator[R]:
    """Yields `function` of every item, in order. It is computed in threads, a few items ahead."""
    count = min(cores(), MAX_THREADS)
    pending: deque[Future[R]] = deque()
    with ThreadPoolExecutor(count) as threads:
        for item in items:
            pending.append(threads.submit(function, item))
            if len(pending) > 2 * count:
                yield pending.popleft().result()
        while pending:
            yield pending.popleft().result()
