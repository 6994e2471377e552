"""Every method's values before and after a change of the code: losses, maps, metrics and parameter counts.

    python3 benchmarks/values.py --record before.npz     # in a checkout of the code before the change
    python3 benchmarks/values.py --compare before.npz    # in the changed code, on the same machine

Each case trains three steps on eight drawn pictures in float32 on the CPU with fixed seeds and tests the student.
Exits with 1 if a value differs by more than 1e-5 of the largest value of its kind in the case.
"""

import argparse
import csv
import subprocess
import sys
import tempfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

import cv2
import numpy as np
import torch

from trainer import build_trainer

ROOT = Path(__file__).parents[1]
TOLERANCE = 1e-5
RESNET = {"backbone": "resnet18.tv_in1k"}
PAIRS = {"backbone": ["resnet18.tv_in1k", "efficientnet_b0.ra_in1k"], "out_indice": [[1, 2], [3]]}
DBFAD = RESNET | {"out_indice": [0, 1, 2, 3]}

# Adam's first steps have the size of the learning rate for every gradient that is not exactly zero, so they amplify
# rounding: one unit in the last place of the images changes DBFAD's maps by 0.7 % at its own learning rate. With this
# learning rate, a change of the code that only rounds differently stays within the tolerance.
GENTLY = {"lr": 1e-7}

# Case: method, keys at the top, keys under TrainingData.
CASES = {
    "st": ("st", RESNET, {"lr": 0.4}),
    "st, norm false": ("st", RESNET, {"lr": 1e-4, "norm": False, "sigma": 2.0}),
    "rd": ("rd", RESNET, {}),
    "rd, sspcab": ("rd", RESNET, GENTLY | {"sspcab": True}),
    "rdpp": ("rdpp", RESNET, GENTLY | {"projection_lr": 1e-7, "accumulate": 1}),
    "rdpp, transport": ("rdpp", RESNET, GENTLY | {"projection_lr": 1e-7, "accumulate": 2, "transport": True}),
    "ead": ("ead", {"backbone": "small"}, GENTLY | {"img_size": 256, "crop_size": 256}),
    "dbfad": ("dbfad", DBFAD, GENTLY),
    "dbfad, sspcab": ("dbfad", DBFAD, GENTLY | {"sspcab_weight": 0.1, "residual": False}),
    "mixed": ("mixed", PAIRS, {}),
    "mixed, product": ("mixed", PAIRS, {"fusion": "product"}),
    "rnst": ("rnst", RESNET, {"lr": 0.01}),
    "rnrd": ("rnrd", RESNET, {"memories": [1, 2], "layer_weight": "1/hw"}),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    task = parser.add_mutually_exclusive_group(required=True)
    task.add_argument("--record", type=Path, metavar="FILE", help="write the values to this .npz file")
    task.add_argument("--compare", type=Path, metavar="FILE", help="compare the values with those of this file")
    parser.add_argument("--cases", nargs="+", choices=CASES, default=list(CASES), metavar="CASE")
    args = parser.parse_args()
    found = {}
    with tempfile.TemporaryDirectory() as folder:
        draw(folder)
        for case in args.cases:
            found |= {f"{case}/{key}": value for key, value in values(folder, case, *CASES[case]).items()}
            print(f"measured: {case}", flush=True)
    if args.record:
        np.savez(args.record, **found)
    else:
        sys.exit(compare(dict(np.load(args.compare)), found))


def draw(folder: str) -> None:
    words = ["--categories", "weave", "--size", "256", "--train", "10", "--good", "4", "--per_defect", "2"]
    subprocess.run([sys.executable, ROOT / "makeDemo.py", "--root", folder, *words], check=True, cwd=ROOT)


def values(folder: str, case: str, method: str, top: dict, training: dict) -> dict[str, np.ndarray]:
    length = {"steps": 3, "batch_size": 1} if method == "ead" else {"epochs": 3, "batch_size": 8}
    section = {"img_size": 128, "val_ratio": 0.2} | length | training
    where = {"data_path": folder, "obj": "weave", "save_path": f"{folder}/{case}"}
    exact = {"device": "cpu", "precision": "fp32", "weights": "bundled", "resume": False}
    trainer = build_trainer({"distillType": method, **top, **where, **exact, "TrainingData": section})
    torch.set_num_threads(2)  # sums round differently with another number, and `auto` depends on other processes
    trainer.train()
    figures = trainer.test()
    with (trainer.run_dir / "training.csv").open(newline="", encoding="utf-8") as file:
        losses = [float(row["train_loss"]) for row in csv.DictReader(file)]
    return {
        "losses": np.array(losses),
        "maps": trainer.anomaly_map(pictures(folder, trainer)).numpy(),
        "figures": np.array([figures[key] for key in sorted(figures)]),
        "parameters": np.array([parameters(trainer.teacher), parameters(trainer.student)]),
    }


def parameters(net: torch.nn.Module) -> int:
    return sum(parameter.numel() for parameter in net.parameters())


def pictures(folder: str, trainer) -> torch.Tensor:
    """Two good and two defective test pictures: [4,3,h,w]."""
    size = trainer.options.crop_size
    paths = [f"{folder}/weave/test/{name}.png" for name in ("good/000", "good/001", "hole/000", "thread/000")]
    shrunk = [cv2.resize(cv2.imread(path)[..., ::-1], size[::-1], interpolation=cv2.INTER_AREA) for path in paths]
    return torch.from_numpy(np.ascontiguousarray(np.stack(shrunk).transpose(0, 3, 1, 2)))


def compare(before: dict[str, np.ndarray], now: dict[str, np.ndarray]) -> int:
    """Prints a line for each value; returns the exit code."""
    worst = 0.0
    for key, value in now.items():
        if value.shape != before[key].shape:
            print(f"{key:32} other shape: {before[key].shape}, now {value.shape}")
            worst = np.inf
            continue
        off = float(np.abs(value - before[key]).max() / max(np.abs(before[key]).max(), 1e-30))
        print(f"{key:32} {'bit for bit' if np.array_equal(value, before[key]) else f'{off:.1e}'}")
        worst = float(np.maximum(worst, off))  # not a number, if that is
    print(f"largest relative difference: {worst:.1e}")
    return int(not worst <= TOLERANCE)


if __name__ == "__main__":
    main()
