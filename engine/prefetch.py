"""Prepare the next items in other threads."""

import math
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Generic, TypeVar

Made = TypeVar("Made")


class Prefetch(Generic[Made]):
    """`make(step)` for steps that are requested in order; threads prepare the next few in advance."""

    def __init__(self, make: Callable[[int], Made], last: float = math.inf, depth: int = 4):
        self.make, self.last, self.depth = make, last, depth
        self.waiting: dict[int, Future[Made]] = {}
        self.pool = ThreadPoolExecutor(depth)

    def __call__(self, step: int) -> Made:
        for coming in range(step, step + self.depth):
            if coming not in self.waiting and (coming == step or coming <= self.last):
                self.waiting[coming] = self.pool.submit(self.make, coming)
        return self.waiting.pop(step).result()


def prefetched(items: Iterable[Made]) -> Iterator[Made]:
    """The same items in the same order; a thread prepares the next one while this one is used."""
    iterator, end = iter(items), object()
    with ThreadPoolExecutor(1) as pool:
        coming = pool.submit(next, iterator, end)
        while (item := coming.result()) is not end:
            coming = pool.submit(next, iterator, end)
            yield item
