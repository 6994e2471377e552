"""Progress: a bar on a screen, or a line every half minute in a file, as with `python3 trainNet.py 2> out.txt`."""

import sys
import time
from collections.abc import Iterable, Iterator
from typing import Any, Generic, TypeVar

from tqdm import tqdm

from utils.ranks import is_main

Item = TypeVar("Item")
EVERY = 30  # seconds between two lines of progress in a file


class Lines(Generic[Item]):
    """Progress lines for a file, in place of tqdm's bar: every half minute, and at the end if there was one before."""

    def __init__(self, items: Iterable[Item] | None, what: str, total: int | None, keep: bool):
        self.items, self.what, self.keep = items, what, keep
        self.total = len(items) if total is None and hasattr(items, "__len__") else total
        self.done, self.words = 0, ""
        self.begin = self.last = time.monotonic()

    def __iter__(self) -> Iterator[Item]:
        with self:
            for item in self.items:
                yield item
                self.update()

    def __enter__(self) -> "Lines[Item]":
        return self

    def __exit__(self, *error: object) -> None:
        if self.keep or self.last > self.begin:
            self._write()

    def update(self, n: int = 1) -> None:
        self.done += n
        if time.monotonic() - self.last >= EVERY:
            self._write()

    def set_postfix(self, ordered: dict[str, Any] | None = None, refresh: bool = True, **words: Any) -> None:
        """Like tqdm's; `refresh` is ignored, since lines are written at fixed times."""
        self.words = "".join(f", {key} {value}" for key, value in ((ordered or {}) | words).items())

    def _write(self) -> None:
        self.last = time.monotonic()
        of = "" if self.total is None else f" of {self.total}"
        elapsed = tqdm.format_interval(self.last - self.begin)
        print(f"{self.what}: {self.done}{of}, {elapsed}{self.words}", file=sys.stderr, flush=True)


def progress(
    items: Iterable[Item] | None, what: str, total: int | None = None, keep: bool = False
) -> "tqdm[Item] | Lines[Item]":
    """Progress over `items`, or advanced with `update`; with `keep` the last state stays on the screen."""
    if is_main() and not sys.stderr.isatty():
        return Lines(items, what, total, keep)
    return tqdm(items, what, total, leave=keep, disable=not is_main(), dynamic_ncols=True)
