"""How fast finished runs judge: PyTorch, torch.compile, ONNX Runtime and OpenVINO, side by side in one process.

    python3 benchmarks/inference.py results/st/weave results/rd/weave [--seconds 3] [--paths pytorch-fp32 openvino-bf16]

For each run, path, number of threads and batch: milliseconds per image (median and 95 %) from images at crop_size, 8
bits, to their maps, of a run with tiles by all tiles; how many times as fast as PyTorch in float32 (both medians); and
the share of the machine's peak. This is the fastest large matrix product or convolution by PyTorch in the same
precision and with the same threads, just before; int8 has none here. An export that does not keep the run's scores is
refused by export.py, and its row says so. Nothing else should run on the machine. Exports take most of the time:
`--exports FOLDER` keeps them, and what was refused, for the next call; a run that is trained again is exported again.
"""

import argparse
import hashlib
import os
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from time import perf_counter
from typing import NamedTuple

sys.path.insert(0, str(Path(__file__).parents[1]))

import numpy as np
import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from datasets.images import unit_range
from datasets.tiles import Tiles, whole_maps
from deploy.export import Export
from deploy.export_check import Refused
from deploy.runtime.engines import engine_of
from engine.scoring import AnomalyMaps
from trainer import open_run
from utils.command import run
from utils.cores import allowed_cores
from utils.errors import UserError

Maps = Callable[[np.ndarray], np.ndarray]  # images, or tiles, [B,3,h,w] uint8 -> their maps [B,...,h,w]
PRECISIONS = {"fp32": torch.float32, "bf16": torch.bfloat16}
PYTORCH = {"pytorch-fp32": ("fp32", False), "pytorch-bf16": ("bf16", False), "compile-fp32": ("fp32", True)}
EXPORTS = {
    "onnx-fp32": ("onnx", "fp32"),
    "openvino-fp32": ("openvino", "fp32"),
    "openvino-bf16": ("openvino", "bf16"),
    "openvino-int8": ("openvino", "int8"),
}
COLUMNS = ["run", "path", "threads", "batch", "ms per image", "95 %", "times pytorch-fp32"]
COLUMNS += ["share of the peak", "peak, GFLOP/s"]
FIRST = "pytorch-fp32"  # what all others are compared with
BATCHES = (1, 8)
SIDE = 2048  # of the matrices of the product
CHANNELS = 256  # of the convolution beside it
CONVOLUTION = 2 * 9 * CHANNELS**2 * 64**2
REPEATED = 8
WARM_UP, LEAST = 2, 5


class Speed(NamedTuple):
    """Seconds per image."""

    median: float
    most: float  # 95 % are faster


def main() -> None:
    args = flags()
    counts = sorted({1, allowed_cores()})
    print(f"| {' | '.join(COLUMNS)} |")
    print("|---" * len(COLUMNS) + "|", flush=True)
    for folder in args.runs:
        print_run(folder, args, counts)


def flags() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("runs", nargs="+", type=Path, metavar="RUN", help="folders of finished runs")
    parser.add_argument("--seconds", type=float, default=3.0, help="for each figure")
    parser.add_argument("--exports", type=Path, metavar="FOLDER", help="where exports are kept, and taken from")
    parser.add_argument("--paths", nargs="+", choices=[*PYTORCH, *EXPORTS], default=[*PYTORCH, *EXPORTS])
    return parser.parse_args()


def print_run(folder: Path, args: argparse.Namespace, counts: list[int]) -> None:
    trainer = open_run(folder, ["device=cpu", "compile=false"])
    size, tiles = trainer.options.crop_size, Tiles.of(trainer.options)
    with FlopCounterMode(display=False) as counter:
        trainer.detector.eval()(torch.zeros(1, 3, *trainer.options.input_size))
    operations = counter.get_total_flops() * (len(tiles) if tiles else 1)
    slow = {}
    with tempfile.TemporaryDirectory() as temporary:
        space = Path(args.exports or temporary, name_of(folder))
        for path in [FIRST, *(path for path in args.paths if path != FIRST)]:
            try:
                for threads, maps_of in functions(folder, path, counts, space / path):
                    most = peak(PRECISIONS[path[-4:]], threads) if path[-4:] in PRECISIONS else np.nan
                    for batch in BATCHES:
                        speed = measured(maps_of, tiles, batch, size, args.seconds)
                        slow.setdefault((threads, batch), speed.median)
                        share = operations / speed.median / most
                        print(
                            f"| {folder} | {path} | {threads} | {batch} | {1000 * speed.median:.1f} "
                            f"| {1000 * speed.most:.1f} | {slow[threads, batch] / speed.median:.1f} "
                            f"| {f'{share:.0%} | {most / 1e9:.0f}' if share == share else ' | '} |",
                            flush=True,
                        )
            except UserError as error:
                print(f"| {folder} | {path} | {error} | | | | | | |", flush=True)


def name_of(folder: Path) -> str:
    """The last two parts of a run's folder, and the start of its student's SHA-256: another for each training."""
    method, category = Path(os.path.abspath(folder)).parts[-2:]
    return f"{method}/{category}-{hashlib.sha256((folder / 'student.safetensors').read_bytes()).hexdigest()[:8]}"


def functions(folder: Path, path: str, counts: list[int], space: Path) -> Iterator[tuple[int, Maps]]:
    """For each number of threads, what computes maps. Raises UserError for an export that is refused."""
    if path in EXPORTS:
        export_once(folder, path, space)
    for threads in counts:
        if path in EXPORTS:
            engine = engine_of(space, threads)
            yield threads, lambda images, engine=engine: engine(unit_range(images))
        else:
            precision, compiled = PYTORCH[path]
            torch._dynamo.reset()  # it compiles a function only for a few shapes of networks, then no more
            words = ["device=cpu", f"precision={precision}", f"compile={'true' if compiled else 'false'}"]
            trainer = open_run(folder, words)
            maps = AnomalyMaps(trainer.detector, trainer.compute)
            torch.set_num_threads(threads)  # now: a run takes the number that it was trained with
            yield threads, lambda images, maps=maps: maps(torch.from_numpy(images))


def export_once(run_folder: Path, path: str, space: Path) -> None:
    """Raises Refused where the check refused the export, now or in an earlier call, and UserError as `Export`."""
    refused = space.with_suffix(".refused")
    if refused.exists():
        raise Refused(refused.read_text())
    if not space.exists():
        try:
            Export(run_folder, *EXPORTS[path], None, ["device=cpu"]).write(space)
        except Refused as error:
            space.parent.mkdir(parents=True, exist_ok=True)
            refused.write_text(str(error))
            raise


def measured(maps_of: Maps, tiles: Tiles | None, batch: int, size: tuple[int, int], seconds: float) -> Speed:
    """`size` (height, width) is that of whole images."""
    images = np.random.default_rng(0).integers(0, 256, (batch, 3, *size), dtype=np.uint8)
    for _ in range(WARM_UP):
        whole_maps(images, maps_of, tiles, np.stack)
    times = []
    while len(times) < LEAST or sum(times) < seconds:
        begin = perf_counter()
        whole_maps(images, maps_of, tiles, np.stack)
        times.append(perf_counter() - begin)
    return Speed(*(np.quantile(times, [0.5, 0.95]) / batch))


def peak(dtype: torch.dtype, threads: int) -> float:
    """Operations per second of a large matrix product or convolution, whichever is faster; a * b + c is two.

    PyTorch computes the two with different libraries: on an AMD processor the convolution was twice as fast.
    """
    torch.set_num_threads(threads)
    left, right = (torch.randn(SIDE, SIDE).to(dtype) for _ in range(2))
    image, weight = torch.randn(1, CHANNELS, 66, 66).to(dtype), torch.randn(CHANNELS, CHANNELS, 3, 3).to(dtype)
    works = {2 * SIDE**3: lambda: left @ right, CONVOLUTION: lambda: nn.functional.conv2d(image, weight)}
    found = []
    for operations, work in [*works.items()] * REPEATED:
        begin = perf_counter()
        work()
        found.append(operations / (perf_counter() - begin))
    return max(found)


if __name__ == "__main__":
    run(main)
