"""Messages and results of a run; only the first of several processes prints them.

`log_to` also writes them to a file of the run.
"""

import contextlib
import sys
from collections import deque
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path

from tqdm import tqdm

from utils.errors import UserError
from utils.ranks import is_main

_log: "_Log | None" = None
_before_the_log: deque[str] = deque(maxlen=200)  # messages while no log was open


def note(sentence: str) -> None:
    """Print a message that does not stop the run, on stderr."""
    if is_main():
        tqdm.write(f"note: {sentence}", file=sys.stderr)
        remember(f"note: {sentence}")


def say(text: str) -> None:
    """Print a result on stdout."""
    if is_main():
        print(text)
        remember(text)


def remember(text: str) -> None:
    """Write it only to the log."""
    _before_the_log.append(f"{datetime.now():%Y-%m-%d %H:%M:%S}  {text}\n")
    if _log is not None:
        _log.write()


@contextlib.contextmanager
def log_to(path: Path) -> Iterator[None]:
    """Append to the file `path` all messages of the block, earlier ones that have no log yet, and how it ended.

    A UserError before the first message of the block leaves the file unchanged: a refused run changes nothing.
    Raises UserError naming the file if it cannot be written.
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
        """Write all messages since the last time."""
        self.used = True
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)  # it may have been deleted
            with self.path.open("a", encoding="utf-8", errors="surrogateescape") as file:
                file.writelines(_before_the_log)
        except OSError as error:
            raise UserError(f"cannot write {self.path}: {error.strerror or error}") from None
        _before_the_log.clear()
