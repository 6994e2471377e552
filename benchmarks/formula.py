"""Pictures per second: drawn from formulas, compared with reading the JPEG files that they replace.

    python3 benchmarks/formula.py [--count 300] [--sizes 128 256 512]

One process on one core. The files are the same pictures at 512 px, read from the system's cache and resized to the
same size; ImageNet's are about as large. `pretrain.py` draws with all cores.
"""

import argparse
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

import cv2
import numpy as np
import torch

from datasets.folder import FolderImages
from pretraining.formula import FAMILIES, FormulaImages, picture


def main() -> None:
    args = flags()
    cv2.setNumThreads(1)
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        for index in range(100):
            cv2.imwrite(f"{folder}/{index}.jpg", FormulaImages(512)[index])
        print("| pixels per side | formulas, pictures per second | JPEG files, pictures per second |\n|---|---|---|")
        for size in args.sizes:
            drawn, read = FormulaImages(size), FolderImages("--", folder, (size, size))
            print(f"| {size} | {rate(drawn.__getitem__, args.count):.0f} | {rate(read.__getitem__, args.count):.0f} |")
    print("\n| family | ms, 128 px |\n|---|---|")
    for name in FAMILIES:
        seconds = 1 / rate(lambda k, name=name: picture(name, *np.random.default_rng(k).spawn(2), 128), args.count)
        print(f"| {name} | {1000 * seconds:.1f} |")


def flags() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--count", type=int, default=300, help="pictures to measure with")
    parser.add_argument("--sizes", type=int, nargs="+", default=[128, 256, 512])
    return parser.parse_args()


def rate(make: Callable[[int], np.ndarray], count: int) -> float:
    make(0)  # not timed: it also makes tables that are kept
    begin = time.perf_counter()
    for index in range(count):
        make(index)
    return count / (time.perf_counter() - begin)


if __name__ == "__main__":
    main()
