"""How fast an exported model is and how much memory it needs, in a process of its own.

`python3 -m deploy.runtime.measure FOLDER THREADS` prints JSON. It takes a second or two.
"""

import contextlib
import json
import re
import sys
from pathlib import Path
from time import perf_counter

import numpy as np

from datasets.tiles import whole_maps
from deploy.judge import Judge
from deploy.runtime.model import ExportedModel

WARM_UP, LEAST, MOST, SECONDS = 3, 10, 100, 1.5


def measured(folder: Path, threads: int) -> dict[str, float | int]:
    """The latency of an exported model, and the process's highest memory in MB."""
    return {"threads": threads} | latency(ExportedModel(folder, threads=threads)) | _peak_memory()


def latency(judge: Judge) -> dict[str, float | int]:
    """Milliseconds of one image, from its pixels at crop_size to its map: median, and what 95 % of the runs keep."""
    image = np.random.default_rng(0).integers(0, 256, (3, *judge.fit.crop_size), dtype=np.uint8)
    times: list[float] = []
    for _ in range(WARM_UP):
        whole_maps([image], judge.maps_of, judge.tiles)
    while len(times) < LEAST or (len(times) < MOST and sum(times) < SECONDS):
        begin = perf_counter()
        whole_maps([image], judge.maps_of, judge.tiles)
        times.append(perf_counter() - begin)
    p50, p95 = (round(1000 * float(value), 3) for value in np.quantile(times, [0.5, 0.95]))
    return {"p50_ms": p50, "p95_ms": p95, "runs": len(times)}


def _peak_memory() -> dict[str, float]:
    """Only on Linux. `resource.getrusage` would also count the process that started this one."""
    with contextlib.suppress(OSError):
        found = re.search(r"VmHWM:\s*(\d+) kB", Path("/proc/self/status").read_text())
        return {"peak_memory_mb": round(int(found[1]) / 1024, 1)} if found else {}
    return {}


if __name__ == "__main__":
    print(json.dumps(measured(Path(sys.argv[1]), int(sys.argv[2]))))
