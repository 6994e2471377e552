"""What a run says while it works: sentences, results and progress, once however many processes there are.

On a screen progress is a bar. Where the screen is a file, as in `python3 trainNet.py 2> out.txt`, it is a line now and
then. `log_to` keeps sentences and results in a file of the run.
"""

import contextlib
import sys
import time
from collections import deque
from collections.abc import Iterable, Iterator
from datetime import datetime
from pathlib import Path
from typing import Any, Generic, TypeVar

from tqdm import tqdm

from utils.errors import UserError
from utils.ranks import is_main

Item = TypeVar("Item")

EVERY = 30  # seconds between two lines of progress in a file

_log: "_Log | None" = None
_before_the_log: deque[str] = deque(maxlen=200)  # what was said while none was open


def note(sentence: str) -> None:
    """Something to know that does not stop the run, on stderr."""
    if is_main():
        tqdm.write(f"note: {sentence}", file=sys.stderr)
        remember(f"note: {sentence}")


def say(text: str) -> None:
    """A result, on stdout."""
    if is_main():
        print(text)
        remember(text)


def remember(text: str) -> None:
    """Say it to the log alone."""
    _before_the_log.append(f"{datetime.now():%Y-%m-%d %H:%M:%S}  {text}\n")
    if _log is not None:
        _log.write()


@contextlib.contextmanager
def log_to(path: Path) -> Iterator[None]:
    """Append to the file `path` what is said inside, what was said before while no log was open, and how it ended.

    A UserError before anything is said inside leaves the file as it is: a refused run changes nothing. Raises
    UserError naming the file when the disk refuses it.
    """
    global _log
    outer, _log = _log, _Log(path) if is_main() else None
    try:
        yield
        if _log is not None:
            _log.write()
    except UserError as error:
        if _log is not None and _log.used:
            remember(f"error: {error}")
        raise
    except BaseException as error:
        remember(f"ended by {type(error).__name__}: {error}".rstrip(": "))
        raise
    finally:
        _log = outer


class _Log:
    def __init__(self, path: Path):
        self.path, self.used = path, False

    def write(self) -> None:
        """All that has been said since the last time."""
        self.used = True
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)  # somebody may have removed it meanwhile
            with self.path.open("a", encoding="utf-8", errors="surrogateescape") as file:
                file.writelines(_before_the_log)
        except OSError as error:
            raise UserError(f"cannot write {self.path}: {error.strerror or error}") from None
        _before_the_log.clear()


class Lines(Generic[Item]):
    """What tqdm's bar is on a screen, for a file: a line every half minute, and one at the end if there was any."""

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
        """As tqdm's; `refresh` is for a bar, a line waits for its time."""
        self.words = "".join(f", {key} {value}" for key, value in ((ordered or {}) | words).items())

    def _write(self) -> None:
        self.last = time.monotonic()
        of = "" if self.total is None else f" of {self.total}"
        elapsed = tqdm.format_interval(self.last - self.begin)
        print(f"{self.what}: {self.done}{of}, {elapsed}{self.words}", file=sys.stderr, flush=True)


def progress(
    items: Iterable[Item] | None, what: str, total: int | None = None, keep: bool = False
) -> "tqdm[Item] | Lines[Item]":
    """Around `items`, or with `update` by hand; `keep` leaves its last state on the screen."""
    if is_main() and not sys.stderr.isatty():
        return Lines(items, what, total, keep)
    return tqdm(items, what, total, leave=keep, disable=not is_main(), dynamic_ncols=True)
