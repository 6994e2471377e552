"""What a run says while it works: sentences and results, once however many processes there are.

`log_to` keeps them in a file of the run, too.
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
