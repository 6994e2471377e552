"""Which files and folders of a data set count; what is left out is said."""

import errno
import os
import stat
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

from utils.console import note
from utils.errors import UserError

SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".tif", ".tiff", ".webp")
SYSTEM_FILES = {"Thumbs.db", "desktop.ini"}  # written by file browsers, nobody's picture


class Contents(NamedTuple):
    """What lies directly in a folder, each sorted by name; hidden files and folders are nowhere in it."""

    images: list[Path]
    folders: list[Path]
    others: list[Path]
    broken: list[Path]  # links to nothing


def contents(folder: Path) -> Contents:
    """Empty where there is no such folder. Raises UserError naming the folder or file that cannot be looked into."""
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
    """The image files of a folder, sorted by name, whatever the case of their suffix; none if there is no folder.

    What else lies there is left out and named, hidden files and folders apart. Raises as `contents`.
    """
    found = contents(folder)
    say_left_out(folder, f"file(s) that are not {'/'.join(SUFFIXES)}", found.others)
    say_left_out(folder, "broken link(s)", found.broken)
    say_left_out(folder, "subfolder(s), with the images in them", found.folders)
    return found.images


def list_images_below(folder: Path) -> list[Path]:
    """The image files of a folder and of all below it, sorted by path, hidden ones apart. Raises as `contents`.

    Links to folders are not followed: they may lead back.
    """
    found = contents(folder)
    below = (list_images_below(path) for path in found.folders if not path.is_symlink())
    return sorted([*found.images, *(image for images in below for image in images)])


def say_left_out(folder: Path, what: str, paths: Iterable[Path]) -> None:
    names = [path.name for path in paths]
    if names:
        more = ", ..." if len(names) > 5 else ""
        note(f"{folder}: left out {len(names)} {what}: {', '.join(names[:5])}{more}")


def is_folder(path: Path) -> bool:
    """Raises UserError where the system does not let us see, or the path is too long."""
    return stat.S_ISDIR(_mode(path))


def printable(path: Path) -> str:
    """The path as text that can be written anywhere; a file name on Linux need not be."""
    return os.fsencode(path).decode(errors="backslashreplace")


def _children(folder: Path) -> list[Path]:
    if not is_folder(folder):
        return []
    try:
        return [folder / name for name in os.listdir(folder)]
    except OSError as error:
        raise UserError(f"{folder}: the folder cannot be read: {error.strerror}") from None


def _mode(path: Path) -> int:
    """What kind of thing the path leads to, as `stat` says it; 0 for nothing, as behind a broken link."""
    try:
        return path.stat().st_mode
    except OSError as error:
        if error.errno in (errno.ENOENT, errno.ENOTDIR, errno.ELOOP):
            return 0
        raise UserError(f"{path}: cannot be read: {error.strerror}") from None
    except ValueError:  # a NUL in the path
        return 0
