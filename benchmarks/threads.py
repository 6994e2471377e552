"""Two trainings at once on one machine: seconds of each, by their number of threads and how these wait.

    python3 benchmarks/threads.py [--images 32] [--epochs 8]

Each row starts two `trainNet.py` of STPM at the same moment; the last two rows are a single training for comparison.
OpenMP's threads wait for each other at the end of every operation. If they wait actively, they use the core that the
other training needs; `trainNet.py` sets passive waiting (OMP_WAIT_POLICY) unless the environment already sets it.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

from datasets.demo import render
from utils.cores import allowed_cores

ROOT = Path(__file__).parents[1]
CORES = allowed_cores()

# Without it the script sets a short spin, which overrides the policy.
ACTIVE = {"OMP_WAIT_POLICY": "ACTIVE", "GOMP_SPINCOUNT": "infinity"}

# What a row sets: words for trainNet.py, the environment, how many trainings at once.
ROWS = {
    "each with all cores, waiting actively": ([f"threads={CORES}"], ACTIVE, 2),
    "each with all cores, waiting passively": ([f"threads={CORES}"], {}, 2),
    "threads=auto, the second one started 10 s later": (["threads=auto"], {}, 2),
    "one thread each": (["threads=1"], {}, 2),
    "a single training with all cores": ([f"threads={CORES}"], {}, 1),
    "a single training with all cores, waiting actively": ([f"threads={CORES}"], ACTIVE, 1),
}
LATER = 10  # seconds, in the row that has it in its name


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--images", type=int, default=32, help="training images")
    parser.add_argument("--epochs", type=int, default=8)
    args = parser.parse_args()
    print("| | seconds per training |\n|---|---|")
    with tempfile.TemporaryDirectory() as folder:
        render(folder, ["weave"], 256, train=args.images, good=2, per_defect=1)
        for name, (words, environment, count) in ROWS.items():
            later = LATER if "later" in name else 0
            seconds = trained(folder, args.epochs, words, environment, count, later)
            print(f"| {name} | {', '.join(f'{each:.0f}' for each in seconds)} |", flush=True)


def trained(
    folder: str, epochs: int, words: list[str], environment: dict[str, str], count: int, later: float
) -> list[float]:
    """Seconds that each of `count` trainings took, only the epochs; the second one starts `later` seconds later."""
    env = {
        key: value
        for key, value in os.environ.items()
        if key not in ("OMP_NUM_THREADS", "OMP_WAIT_POLICY", "GOMP_SPINCOUNT")
    }
    command = [sys.executable, "trainNet.py", f"data_path={folder}", "overwrite=true", *words]
    command += ["backbone=resnet18.tv_in1k", "weights=bundled"]
    command += [f"TrainingData.epochs={epochs}", "TrainingData.val_ratio=0"]
    with tempfile.TemporaryDirectory() as results:
        processes = []
        for k in range(count):
            time.sleep(k * later)
            own = [*command, f"save_path={results}/{k}"]
            with Path(results, f"{k}.log").open("w") as log:
                processes.append(subprocess.Popen(own, cwd=ROOT, env=env | environment, stdout=log, stderr=log))
        for k, process in enumerate(processes):
            if process.wait():
                sys.exit(f"{' '.join(command)} failed:\n{Path(results, f'{k}.log').read_text()}")
        reports = [Path(results, str(k), "st/weave/metrics.json").read_text(encoding="utf-8") for k in range(count)]
    return [json.loads(report)["durations"]["train_seconds"] for report in reports]


if __name__ == "__main__":
    main()
