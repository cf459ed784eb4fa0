"""Work that is done while what came before it is used."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
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
