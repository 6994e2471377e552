"""The machine that a process runs on: its memory allocator, and its description in a report."""

import contextlib
import ctypes
import os
import platform
import sys
from datetime import datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch

from engine.device import Compute

GPU_PEAK = "gpu_peak_memory_mib"


def keep_freed_memory() -> None:
    """Let this process reuse large buffers instead of returning them to the system after every operation.

    By default glibc maps new memory for each large tensor and the kernel clears it: a tenth of a training step on
    a CPU. This affects the whole process, so only scripts should call it. Without glibc it does nothing.
    """
    if not sys.platform.startswith("linux"):
        return
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        trim_threshold, top_pad, mmap_threshold = -1, -2, -3  # names in malloc.h
        mallopt(mmap_threshold, 2**25)  # the maximum
        mallopt(trim_threshold, 2**31 - 1)
        mallopt(top_pad, 2**28)


def hardware(device: torch.device) -> str:
    """One line for the report: processor, cores, and the GPU in use."""
    cpu = platform.processor() or platform.machine()
    with contextlib.suppress(OSError, StopIteration):
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        cpu = next(line.split(":", 1)[1].strip() for line in lines if line.startswith("model name"))
    gpu = f", {torch.cuda.get_device_name(device)}" if device.type == "cuda" else ""
    return f"{cpu}, {os.cpu_count()} cores{gpu}"


def versions(*packages: str) -> dict[str, str]:
    """Of Python, and of those packages that are installed."""
    found = {"python": platform.python_version()}
    for name in packages:
        with contextlib.suppress(PackageNotFoundError):  # such as OpenCV from a Linux distribution
            found[name] = version(name)
    return found


def forget_gpu_peak(device: torch.device) -> None:
    """Let `gpu_peak` be of what follows: a process may have had other runs before."""
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)


def gpu_peak(device: torch.device) -> dict[str, float]:
    """The most memory that tensors had on the GPU at once, in MiB; nothing on a CPU."""
    return {GPU_PEAK: torch.cuda.max_memory_allocated(device) / 2**20} if device.type == "cuda" else {}


def environment(compute: Compute, trained: float | None = None) -> dict[str, Any]:
    """Machine and package versions for the report; the GPU's peak is the highest of this test and the training's."""
    return {
        "hardware": hardware(compute.device),
        **{key: max(peak, trained or 0) for key, peak in gpu_peak(compute.device).items()},
        "threads": torch.get_num_threads(),
        "precision": str(compute.dtype).removeprefix("torch."),
        "versions": versions("torch", "timm", "numpy", "opencv-python-headless", "pillow"),
        "date": datetime.now().astimezone().isoformat(timespec="seconds"),
    }
