"""Pictures of anything, without labels: what teachers are made from and what students must not imitate."""

import functools
import hashlib
import multiprocessing
import os
import shutil
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ProcessPoolExecutor, ThreadPoolExecutor
from pathlib import Path
from typing import Generic, TypeVar

import cv2
import numpy as np
from filelock import FileLock

from datasets.formula import FormulaImages
from datasets.images import fit_image, is_image, read_image
from utils.console import note, progress
from utils.errors import UserError
from utils.files import write_atomic

Made = TypeVar("Made")


class FolderImages:
    """The images of a folder and all below it, in the order of their paths: index -> [h,w,3] uint8 RGB.

    Resized to `img_size`, the aspect ratio not kept, then cropped to `crop_size`; an index beyond the last
    image starts over. In the place of a damaged file stands the next one, and a note names it: which of many files is
    drawn does not matter, and a training of days must not end at one of them. Raises UserError naming the key `key`
    for a folder without images, and the file if every one is damaged.
    """

    def __init__(self, key: str, folder: str, img_size: Sequence[int], crop_size: Sequence[int] | None = None):
        self.root, self.img_size, self.crop_size = Path(folder).expanduser(), img_size, crop_size or img_size
        self.damaged: set[Path] = set()
        self.paths = sorted(path for path in self.root.rglob("*") if is_image(path))
        if not self.root.is_dir():
            raise UserError(f"{key}: there is no folder {self.root}")
        if not self.paths:
            raise UserError(f"{key}: there are no images (png, jpg, bmp, tif, webp) in or below {self.root}")

    def __len__(self) -> int:
        return len(self.paths)

    def fingerprint(self) -> str:
        """How many, and a hash of their names below the folder: tells whether an index still means the same image."""
        names = "\n".join(str(path.relative_to(self.root)) for path in self.paths)
        return f"{len(self)} {hashlib.sha256(names.encode(errors='surrogateescape')).hexdigest()[:16]}"

    def __getitem__(self, index: int) -> np.ndarray:
        pixels = fit_image(self._first_readable(index), self.img_size, self.crop_size)
        if pixels.dtype == np.uint16:
            pixels = (pixels >> 8).astype(np.uint8)
        return np.ascontiguousarray(pixels.transpose(1, 2, 0))

    def _first_readable(self, index: int) -> np.ndarray:
        for k in range(len(self)):
            path = self.paths[(index + k) % len(self)]
            try:
                return read_image(path)
            except UserError as error:
                damaged = error
                if path not in self.damaged:
                    self.damaged.add(path)
                    note(f"{error}; the next file is taken in its place")
        raise damaged


class Ahead(Generic[Made]):
    """`make(step)` for steps that are asked for in order: the next few are made by threads in the meantime."""

    def __init__(self, make: Callable[[int], Made], last: int, depth: int = 4):
        self.make, self.last, self.depth = make, last, depth
        self.waiting: dict[int, Future[Made]] = {}
        self.pool = ThreadPoolExecutor(depth)

    def __call__(self, step: int) -> Made:
        for coming in range(step, step + self.depth):
            if coming not in self.waiting and (coming == step or coming <= self.last):
                self.waiting[coming] = self.pool.submit(self.make, coming)
        return self.waiting.pop(step).result()


def rendered(images: FormulaImages, count: int, path: Path) -> np.ndarray:
    """The first `count` images, [count,S,S,3] uint8, made by all cores and kept in the file `path` for later runs.

    A second process that wants the same file waits for it. Raises UserError where the disk has no room for it.
    """
    with FileLock(path.with_name(f".{path.name}.lock")):
        if not path.exists():
            needed, free = count * images.size**2 * 3, shutil.disk_usage(path.parent).free
            if needed > free:  # found out later, it would kill the drawing processes
                raise UserError(f"{path}: needs {needed / 1e9:.1f} GB, {free / 1e9:.1f} GB are free there")
            write_atomic(path, functools.partial(_render, images, count))
    return np.load(path, mmap_mode="r")


def _render(images: FormulaImages, count: int, path: Path) -> None:
    shape = (count, images.size, images.size, 3)
    np.lib.format.open_memmap(path, mode="w+", dtype=np.uint8, shape=shape).flush()
    parts = [range(start, min(start + 256, count)) for start in range(0, count, 256)]
    if len(parts) == 1:  # done before a process has started
        _render_part(images, path, parts[0])
        return
    # Not forked: the parent's threads (torch, OpenCV) would be missing in the copies, and locks held for ever.
    context = multiprocessing.get_context("spawn")
    one_thread = {"initializer": cv2.setNumThreads, "initargs": (1,)}  # every core has a process already
    with ProcessPoolExecutor(os.cpu_count(), context, **one_thread) as workers, progress(None, "drawing", count) as bar:
        for part in workers.map(functools.partial(_render_part, images, path), parts):
            bar.update(len(part))


def _render_part(images: FormulaImages, path: Path, part: range) -> range:
    store = np.load(path, mmap_mode="r+")
    for index in part:
        store[index] = images[index]
    store.flush()
    return part
