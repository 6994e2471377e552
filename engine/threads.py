"""How many CPU cores the networks use."""

import contextlib
import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Literal

import torch

from utils.cores import allowed_cores

ALL_THREADS = torch.get_num_threads()  # as the environment sets, or one per core


def use_threads(threads: int | Literal["auto"]) -> None:
    """Set how many CPU cores the networks use: a number that the machine has, or all that are allowed and not busy.

    Two trainings that each take all cores wait for each other most of the time (benchmarks/threads.py).
    """
    most = (ALL_THREADS, free_cores()) if threads == "auto" else (threads, os.cpu_count() or threads)
    torch.set_num_threads(min(most))


def take_threads(began: int | None) -> None:
    """Use as many threads as the training began with, if known: sums round differently with another number."""
    if began:
        torch.set_num_threads(min(began, os.cpu_count() or began))


@contextlib.contextmanager
def same_threads() -> Iterator[None]:
    """After the block, the networks use as many threads as before it."""
    before = torch.get_num_threads()
    try:
        yield
    finally:
        torch.set_num_threads(before)


def free_cores() -> int:
    """Cores that this process may use and that no running process keeps busy; at least 1."""
    return max(1, min(allowed_cores(), (os.cpu_count() or 1) - _busy_cores()))


def _busy_cores(looks: int = 5, between: float = 0.02) -> int:
    """Cores that other processes use now, the median of a few readings; 0 if the system does not tell."""
    running = []
    with contextlib.suppress(OSError, ValueError, IndexError):
        for _ in range(looks):
            running.append(int(Path("/proc/loadavg").read_text().split()[3].partition("/")[0]) - 1)  # without this one
            time.sleep(between)
    return sorted(running)[len(running) // 2] if running else 0
