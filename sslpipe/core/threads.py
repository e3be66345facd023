"""Threads: how many, how they wait for each other, and work in them with results in order."""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable, Generator, Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

T = TypeVar("T")
R = TypeVar("R")


#: How often a thread of GNU OpenMP looks whether the others are ready before it sleeps; otherwise it spins for
#: milliseconds. OpenMP takes this itself where it has more threads than cores, but it cannot see other processes.
SPIN = "1000"


def yield_cores() -> None:
    """Let waiting threads of torch sleep soon, so that several processes can share cores.

    It is called before torch is loaded. An environment that says how threads wait is left as it is.
    """
    if "OMP_WAIT_POLICY" not in os.environ:
        os.environ.setdefault("GOMP_SPINCOUNT", SPIN)


def cores() -> int:
    """The cores this process may use, at most 16."""
    allowed = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return min(allowed, 16)


def ordered_map(function: Callable[[T], R], items: Iterable[T], *, threads: int, ahead: int) -> Generator[R]:
    """`map` by `threads` threads, at most `ahead` results beyond the one in hand.

    What the function raises is raised here, in its turn. Closing the iterator ends the threads.
    """
    pool = ThreadPoolExecutor(threads, thread_name_prefix="sslpipe")
    waiting: deque[Future[R]] = deque()
    try:
        for item in items:
            waiting.append(pool.submit(function, item))
            if len(waiting) > ahead:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
    finally:
        pool.shutdown(wait=True, cancel_futures=True)
