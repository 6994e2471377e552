"""Write files completely or not at all, even if the process crashes."""

import contextlib
import csv
import io
import json
import os
import shutil
import tempfile
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

from utils.errors import UserError


def write_atomic(path: Path, write: Callable[[Path], None]) -> None:
    """Let `write` fill a temporary file beside `path`, then rename it into place.

    Raises UserError naming the file if it cannot be written.
    """
    # Always the same name, so the next run overwrites the file of a killed run. Shortened: names end at 255 bytes.
    temporary = path.with_name(f".{path.stem[:40]}.tmp{path.suffix}")
    try:
        write(temporary)
        os.replace(temporary, path)
    except OSError as error:
        raise UserError(f"cannot write {path}: {error.strerror or error}") from error
    finally:
        with contextlib.suppress(OSError):
            temporary.unlink()


def write_bytes(path: Path, content: bytes) -> None:
    write_atomic(path, lambda temporary: temporary.write_bytes(content))


def write_text(path: Path, text: str) -> None:
    write_bytes(path, text.encode(errors="surrogateescape"))  # file names need not be valid UTF-8 on Linux


def write_json(path: Path, value: Any) -> None:
    write_text(path, json.dumps(value, indent=2, ensure_ascii=False) + "\n")


def read_json(path: Path) -> Any:
    """What `write_json` has written. Raises OSError and ValueError."""
    return json.loads(path.read_text(encoding="utf-8", errors="surrogateescape"))


def write_csv(path: Path, header: list[str], rows: Iterable[Iterable[Any]]) -> None:
    """Write a table; floats are written with repr, so that reading them gives the same numbers."""
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    writer.writerow(header)
    writer.writerows([repr(cell) if isinstance(cell, float) else cell for cell in row] for row in rows)
    write_text(path, buffer.getvalue())


@contextlib.contextmanager
def replacing(folder: Path) -> Iterator[Path]:
    """A new folder to write into; it replaces `folder` at the end of the block, unless there was an error.

    Raises UserError naming the folder if it cannot be written.
    """
    fresh, stale = (folder.with_name(f".{folder.name}.{state}") for state in ("tmp", "old"))
    try:
        for left in (fresh, stale):  # by a kill, or where the folder was a link
            left.unlink() if left.is_symlink() else shutil.rmtree(left, ignore_errors=True)
        fresh.mkdir(parents=True)
        yield fresh
        if folder.exists():
            folder.rename(stale)
        fresh.rename(folder)
    except OSError as error:
        raise UserError(f"cannot write {folder}: {error.strerror or error}") from error
    finally:
        shutil.rmtree(fresh, ignore_errors=True)
        with contextlib.suppress(OSError):
            if not folder.exists():  # on Windows, other programs may hold the new one
                stale.rename(folder)
            shutil.rmtree(stale, ignore_errors=True)


@contextlib.contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Only one process at a time may use a folder; the lock is beside it. Raises UserError naming the other process."""
    from filelock import FileLock, Timeout  # an exported model runs without it

    owner = folder.with_name(f".{folder.name}.owner")
    lock = FileLock(folder.with_name(f".{folder.name}.lock"))
    try:
        lock.acquire(timeout=0)
    except Timeout:
        with contextlib.suppress(OSError):
            raise UserError(f"{folder}: process {owner.read_text(encoding='utf-8')} is working there") from None
        raise UserError(f"{folder}: another process is working there") from None
    try:
        owner.write_text(str(os.getpid()), encoding="utf-8")
        yield
    finally:
        owner.unlink(missing_ok=True)
        lock.release()


def check_writable(folder: Path, key: str = "save_path") -> None:
    """Create `folder` if needed and try to write there, before hours of computing are spent.

    Raises UserError naming the folder, and the key or flag that sets it.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        tempfile.TemporaryFile(dir=folder).close()
    except OSError as error:
        raise UserError(f"{key}: cannot write into {folder}: {error.strerror or error}") from None
