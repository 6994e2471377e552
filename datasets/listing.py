"""Which files and folders belong to a data set; notes name what is left out."""

import errno
import os
import stat
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

from utils.console import note
from utils.errors import UserError

SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".tif", ".tiff", ".webp")
OTHERS = f"file(s) that are not {'/'.join(SUFFIXES)}"
TABLE = "predictions.csv"  # what predict.py writes
DRAWN = ("overlays", "maps", "masks", "raw_maps")  # folders beside it
SYSTEM_FILES = {"Thumbs.db", "desktop.ini"}  # written by file browsers
NOTHING = {errno.ENOENT, errno.ENOTDIR, errno.ELOOP}
NOTHING_ON_WINDOWS = {21, 123, 1921}  # no disk in the drive; no possible name, such as a pattern *.png; links in a loop


class Contents(NamedTuple):
    """What is directly in a folder, each list sorted by name, without hidden files and folders."""

    images: list[Path]
    folders: list[Path]
    others: list[Path]
    broken: list[Path]  # links to nothing


def contents(folder: Path) -> Contents:
    """Empty if there is no such folder. Raises UserError naming a folder or file that cannot be accessed."""
    found = Contents([], [], [], [])
    for path in sorted(_children(folder)):
        if path.name.startswith(".") or path.name in SYSTEM_FILES:
            continue
        mode = _mode(path)
        if stat.S_ISDIR(mode):
            found.folders.append(path)
        elif not mode:
            found.broken.append(path)
        elif stat.S_ISREG(mode) and path.suffix.lower() in SUFFIXES:
            found.images.append(path)
        else:
            found.others.append(path)
    return found


def list_images(folder: Path) -> list[Path]:
    """The image files of a folder, sorted by name, with suffixes in any case; none if there is no folder.

    Notes name everything else in it, except hidden files and folders. Raises as `contents`.
    """
    found = contents(folder)
    say_left_out(folder, OTHERS, found.others)
    say_left_out(folder, "broken link(s)", found.broken)
    say_left_out(folder, "subfolder(s), with the images in them", found.folders)
    return found.images


def list_images_below(folder: Path) -> list[Path]:
    """The image files of a folder and its subfolders, sorted by path, without hidden ones. Raises as `contents`.

    Links to folders are not followed: they could form a loop. What earlier predictions drew is no picture of a part: it
    is left out, and a note says so.
    """
    images = []
    for found, drawn in _visited(folder):
        images += found.images
        if drawn:
            say_left_out(drawn[0].parent, "folder(s) that earlier predictions drew", drawn)
    return sorted(images)


def list_given_images(folder: Path) -> list[Path]:
    """`list_images_below` of a folder that a user gives; notes name all that is not read. Raises as `contents`."""
    others, broken, linked = [], [], []
    for found, _ in _visited(folder):
        others += found.others
        broken += found.broken
        linked += [path for path in found.folders if path.is_symlink()]
    for what, paths in (
        (OTHERS, others),
        ("broken link(s)", broken),
        ("link(s) to folders (give the folders themselves)", linked),
    ):
        say_left_out(folder, what, paths)
    return list_images_below(folder)


def _visited(folder: Path) -> Iterator[tuple[Contents, list[Path]]]:
    """The contents of a folder and its subfolders, and which folders in each were left out: those of predictions."""
    found = contents(folder)
    drawn = [path for path in found.folders if path.name in DRAWN] if folder / TABLE in found.others else []
    found = found._replace(folders=[path for path in found.folders if path not in drawn])
    yield found, drawn
    for path in found.folders:
        if not path.is_symlink():
            yield from _visited(path)


def say_left_out(folder: Path, what: str, paths: Iterable[Path]) -> None:
    names = [path.name for path in paths]
    if names:
        more = ", ..." if len(names) > 5 else ""
        note(f"{folder}: left out {len(names)} {what}: {', '.join(names[:5])}{more}")


def is_folder(path: Path) -> bool:
    """Raises UserError if access is denied or the path is too long."""
    return stat.S_ISDIR(_mode(path))


def printable(path: Path) -> str:
    """The path as valid text; a file name on Linux may have bytes that are not."""
    return os.fsencode(path).decode(errors="backslashreplace")


def _children(folder: Path) -> list[Path]:
    if not is_folder(folder):
        return []
    try:
        return [folder / name for name in os.listdir(folder)]
    except OSError as error:
        raise UserError(f"{folder}: the folder cannot be read: {error.strerror}") from None


def _mode(path: Path) -> int:
    """The file type of the path, as `st_mode`; 0 if there is nothing, such as at a broken link."""
    try:
        return path.stat().st_mode
    except OSError as error:
        if error.errno in NOTHING or getattr(error, "winerror", None) in NOTHING_ON_WINDOWS:
            return 0
        raise UserError(f"{path}: cannot be read: {error.strerror}") from None
    except ValueError:  # a NUL in the path
        return 0
