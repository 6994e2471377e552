"""The effect of half precision, for every method: metrics of students trained and tested in it, and their scores.

    python3 benchmarks/precision.py [--epochs 20] [--steps 100] [--seeds 3] [--methods st rd]

Students are trained on the demo weave with the bundled teachers, once in float32 and once in bf16, and tested in the
same precision: mean and half the spread over the seeds, in percent. The last columns compare the scores of
one student, trained in float32, in bf16 with those in float32: the mean and the largest relative difference.
"""

import argparse
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

import numpy as np
import torch

from benchmark import checked
from datasets.demo import ensure_demo
from engine.cells import plan
from engine.device import Compute
from engine.run import scoring
from engine.study import read_study
from evaluation.score import image_score
from trainer import TRAINERS, build_trainer
from trainer.base import BaseTrainer

STUDY = str(Path(__file__).with_name("methods.yaml"))
METRICS = ("image_auroc", "pixel_auroc", "aupro")


def main() -> None:
    args = flags()
    print("| method | trained and tested in | image AUROC | pixel AUROC | AUPRO@0.3 | scores: mean | largest |")
    print("|---|---|---|---|---|---|---|")
    for method in args.methods:
        for precision in ("fp32", "bf16"):
            with tempfile.TemporaryDirectory() as folder:
                trainers = [trained(method, precision, seed, folder, args) for seed in range(args.seeds)]
                tested = [trainer.test() for trainer in trainers]
                metrics = np.array([[found[key] for key in METRICS] for found in tested])
                moved = differences(trainers[0]) if precision == "fp32" else ("", "")
            print(f"| `{method}` | {precision} | {' | '.join([*cells(metrics), *moved])} |", flush=True)


def flags() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--epochs", type=int, default=20)
    parser.add_argument("--steps", type=int, default=100, help="of ead, instead of epochs")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--methods", nargs="+", choices=TRAINERS, default=list(TRAINERS))
    return parser.parse_args()


def trained(method: str, precision: str, seed: int, folder: str, args: argparse.Namespace) -> BaseTrainer:
    flags = {"methods": [method], "teachers": ["bundled"], "seeds": args.seeds, "save_path": folder}
    study = read_study(STUDY, flags, ["device=cpu"])
    cell = plan(study, ["weave"], checked)[seed]
    words = [*cell.words, f"precision={precision}"]
    words += [f"TrainingData.steps={args.steps}" if method == "ead" else f"TrainingData.epochs={args.epochs}"]
    trainer = build_trainer(cell.file, words)
    ensure_demo(trainer.config)
    trainer.train()
    return trainer


def cells(metrics: np.ndarray) -> Sequence[str]:
    """Metrics [seeds, 3] as fractions -> one cell for each metric."""
    return [f"{100 * column.mean():.1f} ± {50 * np.ptp(column):.1f}" for column in metrics.T]


def differences(trainer: BaseTrainer) -> tuple[str, str]:
    """How much a student's bf16 scores differ from its float32 scores: mean and largest, relative."""
    true, half = (scores(trainer, Compute(trainer.device, dtype)) for dtype in (torch.float32, torch.bfloat16))
    relative = np.abs(half / true - 1)
    return f"{100 * relative.mean():.1f} %", f"{100 * relative.max():.1f} %"


def scores(trainer: BaseTrainer, compute: Compute) -> np.ndarray:
    results = scoring(trainer.detector, compute, trainer.config, trainer.test_set[0], "scores")
    return np.array([image_score(result.anomaly_map) for result in results])


if __name__ == "__main__":
    main()
