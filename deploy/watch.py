"""Judge image files in folders as they arrive."""

import contextlib
import os
import signal
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from types import FrameType
from typing import NamedTuple

from datasets.listing import DRAWN, SUFFIXES, TABLE
from deploy.judge import Judge, Prediction
from utils.console import note
from utils.errors import UserError

EVERY = 0.5  # seconds between two looks at the folders, at least
SHARE = 0.2  # of the time goes into looking at most, if folders are large or slow
TRIES = 4  # to read a file that is complete but cannot be read, before it is reported
REMEMBERED = 100_000  # files that are gone: if they come back unchanged, as after a lost connection, they are not new


class Signature(NamedTuple):
    """What tells a file from a later one of the same name."""

    size: int
    changed: int  # nanoseconds

    @classmethod
    def of(cls, status: os.stat_result) -> "Signature":
        return cls(status.st_size, status.st_mtime_ns)


def watch(
    judge: Judge, arrivals: "Arrivals", stopped: Callable[[], bool]
) -> Iterator[tuple[Path, Prediction | UserError]]:
    """Predictions of what arrives, until `stopped`, and the errors of files that cannot be read."""
    while not stopped():
        begin = time.monotonic()
        paths = arrivals.look()
        pause = max(EVERY, (time.monotonic() - begin) * (1 / SHARE - 1))
        for first in range(0, len(paths), judge.batch_size):
            for path, result in judge.stream(paths[first : first + judge.batch_size]):
                if arrivals.settled(path, not isinstance(result, UserError)):
                    yield path, result
            if stopped():
                return
        begin = time.monotonic()
        while not stopped() and time.monotonic() - begin < pause:
            time.sleep(EVERY / 5)


class Arrivals:
    """The image files that arrive in folders and their subfolders, without hidden ones.

    A file is complete when two looks find the same size and time of change. A file that is written again under the
    same name is a new one. Memory grows with the files that are there, not with those that were there.

    `done` has absolute paths of files that are not new. Left out: the folder `out`, and what earlier predictions drew.
    """

    def __init__(self, folders: Sequence[Path], done: Mapping[str, Signature] | None = None, out: Path | None = None):
        self.folders, self.out = folders, out and os.path.realpath(out)
        self.given = set(map(os.path.abspath, folders))  # one may be below another
        self.seen: dict[Path, Signature] = {}  # at the last look, and not finished
        self.finished: dict[Path, Signature] = {}
        self.tries: dict[tuple[Path, Signature], int] = {}
        self.not_readable: set[str] = set()  # folders
        for folder in folders:
            top = os.path.join(os.path.abspath(folder), "")
            below = {folder / name[len(top) :]: found for name, found in (done or {}).items() if name.startswith(top)}
            self.finished |= below

    def look(self) -> list[Path]:
        """Files that are complete and new, the oldest first."""
        readable = [folder for folder in self.folders if os.access(folder, os.R_OK | os.X_OK)]
        now = dict(found for folder in self.folders for found in self._images(str(folder)))
        new = {path: found for path, found in now.items() if self.finished.get(path) != found}
        complete = {path: found for path, found in new.items() if self.seen.get(path) == found}
        self.seen = new
        self.tries = {key: count for key, count in self.tries.items() if new.get(key[0]) == key[1]}
        gone = [path for path in self.finished if path not in now] if len(readable) == len(self.folders) else []
        for path in gone[: max(0, len(gone) - REMEMBERED)]:
            del self.finished[path]
        self.finished |= complete
        return sorted(complete, key=lambda path: (complete[path].changed, path))

    def settled(self, path: Path, readable: bool) -> bool:
        """Whether what was found in a file counts.

        Not if the file has changed since the look. What cannot be read counts after some tries, unless it is gone.
        """
        key = path, self.finished[path]
        now = _signature(path)
        if now == key[1] and not readable:
            self.tries[key] = self.tries.get(key, 0) + 1
        settled = readable if now is None else now == key[1] and (readable or self.tries[key] >= TRIES)
        if not settled:
            del self.finished[path]
        return settled

    def _images(self, folder: str) -> Iterator[tuple[Path, Signature]]:
        try:
            with os.scandir(folder) as entries:
                inside = [entry for entry in entries if not entry.name.startswith(".")]
        except OSError as error:
            self._complain(folder, error)
            return
        if any(entry.name == TABLE for entry in inside):
            inside = [entry for entry in inside if entry.name not in DRAWN]
        for entry in inside:
            with contextlib.suppress(OSError):  # it is gone
                if entry.is_dir(follow_symlinks=False):  # links could form a loop
                    if os.path.realpath(entry.path) != self.out and os.path.abspath(entry.path) not in self.given:
                        yield from self._images(entry.path)
                elif entry.name.lower().endswith(SUFFIXES) and entry.is_file():
                    yield Path(entry.path), Signature.of(entry.stat())

    def _complain(self, folder: str, error: OSError) -> None:
        if folder not in self.not_readable and not isinstance(error, FileNotFoundError | NotADirectoryError):
            self.not_readable.add(folder)
            note(f"{folder}: the folder cannot be read: {error.strerror}")


def _signature(path: Path) -> Signature | None:
    """None if there is no such file."""
    with contextlib.suppress(OSError):
        return Signature.of(path.stat())
    return None


@contextlib.contextmanager
def until_interrupted() -> Iterator[Callable[[], bool]]:
    """A function that says whether the process is asked to end (Ctrl-C, SIGTERM). The second time ends it at once."""
    asked = False

    def ask(signum: int, frame: FrameType | None) -> None:
        nonlocal asked
        asked = True
        restore()

    def restore() -> None:
        for each, handler in before.items():
            signal.signal(each, handler)

    before = {each: signal.signal(each, ask) for each in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield lambda: asked
    finally:
        restore()
