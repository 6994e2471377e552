"""Formula pictures drawn once and kept on disk."""

import functools
import multiprocessing
import shutil
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import cv2
import numpy as np
import torch
from filelock import FileLock

from pretraining.formula import FormulaImages
from pretraining.memory import check_fits
from utils.cores import allowed_cores
from utils.errors import UserError
from utils.files import write_atomic
from utils.progress import progress

PART = 256  # pictures that a process draws at once
BYTES = 3 * 4 * 4  # of memory per pixel at least while a picture is drawn: four float32 copies of it


def rendered(images: FormulaImages, count: int, path: Path) -> np.ndarray:
    """The first `count` images, [count,S,S,3] uint8, drawn by all cores and kept in the file `path` for later runs.

    A second process that wants the same file waits for it. Raises UserError if disk or memory have too little room.
    """
    with FileLock(path.with_name(f".{path.name}.lock")):
        if not path.exists():
            _check_room(images.size, count, path)
            write_atomic(path, functools.partial(_render, images, count))
    return np.load(path, mmap_mode="r")


def _check_room(size: int, count: int, path: Path) -> None:
    """Raises UserError early: without enough room the drawing processes would be killed."""
    needed, free = count * size**2 * 3, shutil.disk_usage(path.parent).free
    if needed > free:
        raise UserError(f"{path}: needs {needed / 1e9:,.1f} GB, {free / 1e9:.1f} GB are free there")
    drawers = min(allowed_cores(), -(-count // PART))
    what = f"drawing pictures of {size} px per side ({drawers} at once)"
    check_fits(drawers * size**2 * BYTES, torch.device("cpu"), what, "img_size")


def _render(images: FormulaImages, count: int, path: Path) -> None:
    shape = (count, images.size, images.size, 3)
    np.lib.format.open_memmap(path, mode="w+", dtype=np.uint8, shape=shape).flush()
    parts = [range(start, min(start + PART, count)) for start in range(0, count, PART)]
    if len(parts) == 1:  # faster than starting a process
        _render_part(images, path, parts[0])
        return
    # Not forked: the copies would lack the parent's threads (torch, OpenCV), and could wait for their locks forever.
    context = multiprocessing.get_context("spawn")
    one_thread = {"initializer": cv2.setNumThreads, "initargs": (1,)}  # every core has a process already
    with (
        ProcessPoolExecutor(allowed_cores(), context, **one_thread) as workers,
        progress(None, "drawing", count) as bar,
    ):
        for part in workers.map(functools.partial(_render_part, images, path), parts):
            bar.update(len(part))


def _render_part(images: FormulaImages, path: Path, part: range) -> range:
    store = np.load(path, mmap_mode="r+")
    for index in part:
        store[index] = images[index]
    store.flush()
    return part
