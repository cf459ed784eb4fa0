"""Work that is done while other work goes on: the next of a row in a thread, or some in a process beside this one."""

from __future__ import annotations

import functools
import multiprocessing
import os
import signal
import threading
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor, ThreadPoolExecutor
from multiprocessing import resource_tracker
from typing import TypeVar

Item = TypeVar("Item")
Result = TypeVar("Result")


def one_ahead(work: Callable[[Item], Result], items: Iterable[Item], thread: bool) -> Iterator[Result]:
    """work(item) of each, in their order. thread: the next one is made in a thread while this one is used, which pays
    where a GPU does either; a CPU has no time to spare."""
    if not thread:
        yield from map(work, items)
        return
    with ThreadPoolExecutor(1) as worker:
        following = None
        for item in items:
            current, following = following, worker.submit(work, item)
            if current is not None:
                yield current.result()
        if following is not None:
            yield following.result()


def in_background(work: Callable[..., Result], *inputs: object) -> Future[Result]:
    """work(*inputs), a function of a module, in a process that lives beside this one and ends with it.

    For work that holds Python's lock, which a thread would keep from this one. It has no part in a GPU, and Ctrl-C and
    SIGTERM are left to this process.
    """
    stops = {signal.SIGINT, signal.SIGTERM}
    resource_tracker.ensure_running()  # whose start would unblock them
    blocked = signal.pthread_sigmask(signal.SIG_BLOCK, stops)  # which a process inherits
    try:
        return _beside().submit(work, *inputs)
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, blocked)


@functools.cache
def _beside() -> ProcessPoolExecutor:
    return ProcessPoolExecutor(1, multiprocessing.get_context("spawn"), initializer=_end_with_parent)


def _end_with_parent() -> None:
    """However that ends: a killed one closes no queue."""

    def wait() -> None:
        multiprocessing.parent_process().join()
        os._exit(1)

    threading.Thread(target=wait, daemon=True).start()
