"""Speed and memory of STPM training and testing, compared with a plain loop and with each option off, in one run.

    python3 benchmarks/train.py [--images 96] [--size 256] [--epochs 3] [--device auto] [--backbone resnet18]

The plain loop is what a straightforward script does: float32, NCHW, files decoded again in every epoch, the
teacher run on every batch; its test takes one image at a time. Every row runs in a process of its own on the
same pictures, and its test in another, so that peak memory is its own. The first epoch is a warm-up and is
not counted. `--backbone efficientnet_b0` shows why `auto` chooses the precision by the network: depthwise convolutions
gain nothing from bfloat16 on a CPU. Needs Linux or macOS.
"""

import argparse
import json
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.data import DataLoader

from datasets.demo import render
from engine.device import Compute
from engine.fit import train_epoch
from engine.loading import as_it_is, cache_teacher, training_batches
from engine.machine import keep_freed_memory
from engine.splits import test_dataset, train_datasets
from engine.state import TrainState
from engine.stream import Scoring
from models.detector import unit_range
from trainer import build_trainer
from trainer.base import BaseTrainer
from utils.progress import progress

PLAIN, OURS = "plain fp32 NCHW loop", "ours, everything on"
FP32, BF16 = "precision: fp32", "precision: bf16"
NCHW, NO_FEATURES, NOTHING_KEPT = "without channels_last", "without teacher features kept", "cache_mb: 0"
ONE_BY_ONE, NO_MEMORY = "without batches in the test", "without freed memory kept"
ROWS = (PLAIN, OURS, FP32, BF16, NCHW, NO_FEATURES, NOTHING_KEPT, ONE_BY_ONE, NO_MEMORY)


class ContiguousCompute(Compute):
    """Computes in NCHW, torch's default."""

    def place(self, net: nn.Module) -> nn.Module:
        return net.to(self.device, memory_format=torch.contiguous_format)

    def images(self, image: torch.Tensor) -> torch.Tensor:
        return unit_range(image.to(self.device))


def main() -> None:
    args = flags()
    if args.row:
        print(json.dumps(measure(args)))
        return
    with tempfile.TemporaryDirectory() as folder:
        render(folder, ["weave"], args.size, train=args.images, good=args.images // 2, per_defect=0)
        command = [sys.executable, __file__, "--data", folder]
        command += [f"--{key}={getattr(args, key)}" for key in ("images", "size", "epochs", "device", "backbone")]
        print(f"{'':36}{'train':>20}{'peak':>8}{'test':>20}{'peak':>8}")
        print(f"{'':36}{'images/s':>12}{'plain':>8}{'MiB':>8}{'images/s':>12}{'plain':>8}{'MiB':>8}")
        plain = {}
        for row in ROWS:
            line = f"{row:36}"
            for part in ("train", "test"):
                child = [*command, f"--row={row}", f"--part={part}"]
                output = subprocess.run(child, stdout=subprocess.PIPE, text=True, check=True).stdout
                speed, memory = json.loads(output.splitlines()[-1])
                line += f"{speed:12.1f}{speed / plain.setdefault(part, speed):7.1f}x{memory:8.0f}"
            print(line, flush=True)


def flags() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--images", type=int, default=96, help="training images; half as many are tested")
    parser.add_argument("--size", type=int, default=256)
    parser.add_argument("--epochs", type=int, default=3, help="counted epochs")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--backbone", default="resnet18")
    parser.add_argument("--row", help=argparse.SUPPRESS)  # the parent starts one child process for each row
    parser.add_argument("--part", help=argparse.SUPPRESS)
    parser.add_argument("--data", help=argparse.SUPPRESS)
    return parser.parse_args()


def measure(args: argparse.Namespace) -> tuple[float, float]:
    """Images per second and peak memory in MiB of one row's training or test."""
    image_mb = args.images * args.size**2 * 4 // 2**20 + 1  # pixels and mask
    trainer = build_trainer(
        {
            "data_path": args.data,
            "obj": "weave",
            "distillType": "st",
            "backbone": args.backbone,
            "weights": "random",
            "device": args.device,
            "precision": {PLAIN: "fp32", FP32: "fp32", BF16: "bf16"}.get(args.row, "auto"),
            "cache_mb": {NO_FEATURES: image_mb, NOTHING_KEPT: 0, PLAIN: 0}.get(args.row, 65536),
            "TrainingData": {"img_size": args.size, "val_ratio": 0.0, "epochs": 1},
        }
    )
    if args.row not in (PLAIN, NO_MEMORY):
        keep_freed_memory()
    compute = trainer.compute
    if args.row in (PLAIN, NCHW):
        compute = ContiguousCompute(*compute)
        compute.place(trainer.detector)
    train, test = (plain_epoch, plain_test) if args.row == PLAIN else (our_epoch, our_test)
    if args.part == "train":
        epoch = train(trainer, compute)
        epoch()
        return timed(lambda: [epoch() for _ in range(args.epochs)], args.epochs * args.images, trainer.device)
    size = 1 if args.row == ONE_BY_ONE else trainer.options.batch_size
    trainer.anomaly_map(torch.zeros(size, 3, args.size, args.size))
    return timed(lambda: test(trainer, compute, size), args.images // 2, trainer.device)


def our_epoch(trainer: BaseTrainer, compute: Compute) -> Callable[[], float]:
    train, val, _ = training_batches(trainer.config, trainer.teacher, compute)
    cache_teacher(trainer.config, train, val)
    state = TrainState(trainer.student, *trainer.build_optimizer(1), compute.dtype == torch.float16)
    return lambda: train_epoch(trainer, compute, trainer.loss, train, state, 0, len(train), progress(None, ""))


def our_test(trainer: BaseTrainer, compute: Compute, batch_size: int) -> None:
    dataset, _ = test_dataset(trainer.config)
    for _ in Scoring(trainer.detector, compute, DataLoader(dataset, batch_size, collate_fn=as_it_is), ""):
        pass


def plain_epoch(trainer: BaseTrainer, compute: Compute) -> Callable[[], None]:
    """As in a simple script for the paper: nothing kept, nothing fused, torch's defaults."""
    dataset, _, _ = train_datasets(trainer.config)
    teacher, student = trainer.teacher, trainer.student
    optimizer, _ = trainer.build_optimizer(1)

    def epoch() -> None:
        student.train()
        for batch in DataLoader(dataset, trainer.options.batch_size, shuffle=True, collate_fn=as_it_is):
            image = teacher.normalise(compute.images(batch["image"]))
            with torch.no_grad():
                targets = teacher.net(image)
            loss = 0
            for target, output in zip(targets, student(image), strict=True):
                difference = F.normalize(target, dim=1) - F.normalize(output, dim=1)
                loss = loss + difference.square().sum(dim=1).mean()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()

    return epoch


@torch.no_grad()
def plain_test(trainer: BaseTrainer, compute: Compute, batch_size: int) -> None:
    dataset, _ = test_dataset(trainer.config)
    trainer.student.eval()
    for batch in DataLoader(dataset, 1, collate_fn=as_it_is):
        image, product = trainer.teacher.normalise(compute.images(batch["image"])), 1
        for target, output in zip(trainer.teacher.net(image), trainer.student(image), strict=True):
            difference = F.normalize(target, dim=1) - F.normalize(output, dim=1)
            level = difference.square().sum(dim=1, keepdim=True)
            product = product * F.interpolate(level, size=image.shape[-2:], mode="bilinear")
        product.cpu()


def timed(work: Callable, images: int, device: torch.device) -> tuple[float, float]:
    """(images per second, peak memory in MiB so far: of the process on a CPU, of the allocator on a GPU)."""
    synchronise = torch.cuda.synchronize if device.type == "cuda" else lambda: None
    synchronise()
    begin = time.perf_counter()
    work()
    synchronise()
    seconds = time.perf_counter() - begin
    if device.type == "cuda":
        return images / seconds, torch.cuda.max_memory_allocated() / 2**20
    unit = 2**20 if sys.platform == "darwin" else 2**10  # ru_maxrss is in bytes there, in KiB on Linux
    return images / seconds, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / unit


if __name__ == "__main__":
    main()
