"""The cost of each method in configs/ with the paper's backbone: learned and frozen values, operations per image.

    python3 benchmarks/cost.py

Counted, not timed: the networks have random weights, and one image of the file's size goes through `anomaly_map`.
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from trainer import build_trainer
from utils.wording import joined

CONFIGS = Path(__file__).parents[1] / "configs"


def main() -> None:
    print("| method | backbone | learned, M | frozen, M | GFLOP per test image |")
    print("|---|---|---|---|---|")
    for path in sorted(CONFIGS.glob("*.yaml")):
        trainer = build_trainer(path, ["weights=random", "device=cpu", "precision=fp32"])
        backbone = joined(trainer.config.backbone)
        columns = f"{millions(trainer.student):.1f} | {millions(trainer.teacher):.1f} | {gigaflops(trainer):.1f}"
        print(f"| `{trainer.config.distillType}` | {backbone} | {columns} |", flush=True)


def millions(net: nn.Module) -> float:
    return sum(parameter.numel() for parameter in net.parameters()) / 1e6


def gigaflops(trainer) -> float:
    """A multiplication and an addition count as two operations."""
    with FlopCounterMode(display=False) as counter:
        trainer.anomaly_map(torch.zeros(1, 3, *trainer.options.crop_size))
    return counter.get_total_flops() / 1e9


if __name__ == "__main__":
    main()
