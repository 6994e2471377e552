"""What a finished run costs at work: the latency of one image, values and operations."""

import copy
from pathlib import Path

import torch

from deploy.card import amounts
from deploy.predictor import Predictor
from deploy.runtime.measure import latency
from utils.cores import allowed_cores


def cost_of(run: Path) -> dict[str, float]:
    """Milliseconds of one image on the run's device with all cores (p50_ms, p95_ms), millions of values, 10^9 MACs.

    Nothing else should run on the machine. Raises UserError as `Predictor`.
    """
    predictor = Predictor(run)
    torch.set_num_threads(allowed_cores())  # a run takes the number that it was trained with
    measured = latency(predictor)
    tiles, size = predictor.tiles, predictor.trainer.options.input_size
    counted = amounts(copy.deepcopy(predictor.trainer.detector).cpu(), size, len(tiles) if tiles else 1)
    return {
        "p50_ms": measured["p50_ms"],
        "p95_ms": measured["p95_ms"],
        "parameters_m": sum(counted["parameters"].values()) / 1e6,
        "macs_g": counted["macs"] / 1e9,
    }
