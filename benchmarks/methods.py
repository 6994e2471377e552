"""Every method on the same data with a small backbone: figures and speed, as the tables of the README.

    python3 benchmarks/methods.py [--data ../shared/data] [--save results/methods] [--sets weave] [--methods rd rdpp]

Each run is `trainNet.py` with the recipe of the method's file in configs/ (images of 256 px, its optimizer and batch),
but for the backbone, the teacher's weights and the number of epochs, which is the same for all methods on a set
(EfficientAD counts steps: 2,000 of its 70,000). A finished run is not repeated, so an interrupted table goes on;
delete --save to measure anew, and after every change of the code. Whatever else runs on the machine spoils the times.
"""

import argparse
import csv
import json
import statistics
import subprocess
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

from utils.config import read_config

ROOT = Path(__file__).parents[1]
EPOCHS = {"weave": 40, "paper_brown": 60, "magnetic_tile": 4}  # by set; weave is drawn, the others are below --data
RESNET = ["backbone=resnet18.tv_in1k"]
# What the bundled teachers need: the ResNet-18 ends at layer3, where RNRD's memory 0 would want layer4.
METHODS = {
    "st": ("STPM", RESNET),
    "rd": ("RD", RESNET),
    "rdpp": ("RDPP", RESNET),
    "ead": ("EAD", ["TrainingData.steps=2000"]),
    "dbfad": ("DBFAD", RESNET),
    "mixed": ("Mixed", []),
    "rnst": ("RNST", RESNET),
    "rnrd": ("RNRD", [*RESNET, "TrainingData.memories=[1,2]"]),
}
FIGURES = ("image_auroc", "pixel_auroc", "aupro")


def main() -> None:
    args = flags()
    for name in args.sets:
        print(f"\n{name}, {EPOCHS[name]} epochs, teacher: weights={args.weights}\n")
        print("| method | image AUROC | pixel AUROC | AUPRO@0.3 | seconds per epoch | ms per test image |")
        print("|---|---|---|---|---|---|")
        for method in args.methods:
            print(row(method, run(method, name, args)), flush=True)


def flags() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, default=ROOT / "../shared/data", help="folder of sets in MVTec layout")
    parser.add_argument("--save", type=Path, default=ROOT / "results/methods")
    parser.add_argument("--sets", nargs="+", choices=EPOCHS, default=list(EPOCHS))
    parser.add_argument("--methods", nargs="+", choices=METHODS, default=list(METHODS))
    parser.add_argument("--weights", default="bundled")
    return parser.parse_args()


def run(method: str, name: str, args: argparse.Namespace) -> Path:
    """The folder of the finished run; trains and tests if there is none yet."""
    config, words = METHODS[method]
    config = ROOT / f"configs/config{config}.yaml"
    words = [*words, f"data_path={'demo_data' if name == 'weave' else args.data.resolve()}", f"obj={name}"]
    words += [f"weights={args.weights}", f"save_path={args.save.resolve()}"]
    if method != "ead":
        words.append(f"TrainingData.epochs={EPOCHS[name]}")
    folder = args.save / method / name
    if not finished(folder, read_config(config, words)):
        subprocess.run([sys.executable, "trainNet.py", "--config", config, *words], cwd=ROOT, stdout=2, check=True)
    return folder


def finished(folder: Path, wanted: dict) -> bool:
    """Whether the folder holds a tested run of this configuration."""
    if not (folder / "metrics.json").is_file():
        return False
    done = json.loads((folder / "metrics.json").read_text())["config"]
    same = {key: done.get(key) == value for key, value in wanted.items() if key not in ("TrainingData", "phase")}
    return all(same.values()) and wanted["TrainingData"].items() <= done["TrainingData"].items()


def row(method: str, folder: Path) -> str:
    report = json.loads((folder / "metrics.json").read_text())
    with (folder / "training.csv").open(newline="") as file:
        seconds = statistics.median(float(line["seconds"]) for line in csv.DictReader(file))
    figures = [f"{100 * report['metrics'][key]:.1f}" for key in FIGURES]
    milliseconds = 1000 / report["durations"]["test_images_per_second"]
    return f"| `{method}` | {' | '.join(figures)} | {seconds:.1f} | {milliseconds:.0f} |"


if __name__ == "__main__":
    main()
