"""How many cores this process may use."""

import contextlib
import os
from pathlib import Path


def allowed_cores() -> int:
    """Number of cores that the affinity and the cgroup's quota allow; at least 1."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    with contextlib.suppress(OSError, ValueError):  # "max 100000" or "150000 100000" on systems with cgroups
        quota, period = Path("/sys/fs/cgroup/cpu.max").read_text().split()
        cores = min(cores, int(quota) // int(period))
    return max(1, cores)
