"""Every method on the same data with a small backbone: metrics and speed, as in the tables of docs/results.md.

    python3 benchmarks/methods.py [--data ../shared/data] [--save results/methods] [--sets weave] [--methods rd rdpp]
        [--teachers bundled lite0] [--seeds 3]

The methods are those of the files in configs/. Each run is `trainNet.py` with that file (images of 256 px, the
method's optimizer and batch), except for the backbone, the teacher's weights and the number of epochs, which is the
same for all methods on a set (EfficientAD counts steps: 2,000 of its 70,000). Teachers are the bundled ones, or the
EfficientNet-Lite0 with ImageNet weights (and `border: 1`), which EfficientAD cannot use. A cell is the mean over the
seeds and half of their spread. A finished run is not repeated, so an interrupted table continues; delete the folder of
--save to measure again, also after every change of the code. Other programs on the machine make the times wrong.
"""

import argparse
import csv
import itertools
import statistics
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

from engine.cells import finished, report_of
from utils.config_file import read_config

ROOT = Path(__file__).parents[1]
CONFIGS = ROOT / "configs"
# By set; the first two are drawn, the others are in --data.
DEMO = ("weave", "washer")
EPOCHS = {"weave": 40, "washer": 40, "paper_brown": 60, "paper_green": 60, "paper_grey": 60, "magnetic_tile": 4}
RESNET = ["backbone=resnet18.tv_in1k"]
# Words that a method needs besides its file to run with the bundled teachers: their ResNet-18 ends at layer3, and
# RNRD's memory 0 would need layer4.
WORDS = {
    "st": RESNET,
    "rd": RESNET,
    "rdpp": RESNET,
    "ead": ["TrainingData.steps=2000"],
    "dbfad": RESNET,
    "rnst": RESNET,
    "rnrd": [*RESNET, "TrainingData.memories=[1,2]"],
}
LITE0 = "tf_efficientnet_lite0.in1k"
METRICS = ("image_auroc", "pixel_auroc", "aupro")


def main() -> None:
    args = flags()
    for name in args.sets:
        print(f"\n{name}, {EPOCHS[name]} epochs, {args.seeds} seeds\n")
        print("| method | teacher | image AUROC | pixel AUROC | AUPRO@0.3 | seconds per epoch | ms per test image |")
        print("|---|---|---|---|---|---|---|")
        for method, teacher in itertools.product(args.methods, args.teachers):
            if (method, teacher) != ("ead", "lite0"):
                folders = [run(method, name, teacher, seed, args) for seed in range(args.seeds)]
                print(row(f"`{method}` | {teacher}", folders), flush=True)


def flags() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, default=ROOT / "../shared/data", help="folder of sets in MVTec layout")
    parser.add_argument("--save", type=Path, default=ROOT / "results/methods")
    parser.add_argument("--sets", nargs="+", choices=EPOCHS, default=list(EPOCHS))
    parser.add_argument("--methods", nargs="+", choices=list(files()), default=list(files()))
    parser.add_argument("--teachers", nargs="+", choices=["bundled", "lite0"], default=["bundled", "lite0"])
    parser.add_argument("--seeds", type=int, default=3)
    return parser.parse_args()


def files() -> dict[str, Path]:
    """The file with the recipe of each method, by `distillType`."""
    return {read_config(path)["distillType"]: path for path in sorted(CONFIGS.glob("*.yaml"))}


def teacher_words(method: str, teacher: str) -> list[str]:
    """The key=value words that choose a teacher for a method."""
    if teacher == "bundled":
        return [*WORDS.get(method, []), "weights=bundled"]
    backbone = f"[{LITE0},{LITE0}]" if method == "mixed" else LITE0
    return [f"backbone={backbone}", "weights=imagenet", "TrainingData.border=1"]


def run(method: str, name: str, teacher: str, seed: int, args: argparse.Namespace) -> Path:
    """The folder of the finished run; trains and tests if there is none yet."""
    config, folder = files()[method], args.save / method / f"{name}-{teacher}-{seed}"
    words = [*teacher_words(method, teacher), f"data_path={'demo_data' if name in DEMO else args.data.resolve()}"]
    words += [f"obj={name}", f"run={teacher}-{seed}", f"seed={seed}", f"save_path={args.save.resolve()}"]
    if "epochs" in read_config(config)["TrainingData"]:
        words.append(f"TrainingData.epochs={EPOCHS[name]}")
    if not finished(folder, read_config(config, words)):
        replace = ["overwrite=true"] if (folder / "metrics.json").exists() else []
        command = [sys.executable, "trainNet.py", "--config", config, *words, *replace]
        subprocess.run(command, cwd=ROOT, stdout=2, check=True)
    return folder


def row(name: str, folders: Sequence[Path]) -> str:
    """The metrics of runs that differ in their seeds, and the medians of their times."""
    reports = [report_of(folder) for folder in folders]
    cells = []
    for key in METRICS:
        values = [100 * report["metrics"][key] for report in reports]
        cells.append(f"{statistics.mean(values):.1f} ± {(max(values) - min(values)) / 2:.1f}")
    seconds = statistics.median(seconds for folder in folders for seconds in epochs_of(folder))
    milliseconds = 1000 / statistics.median(report["durations"]["test_images_per_second"] for report in reports)
    return f"| {name} | {' | '.join(cells)} | {seconds:.1f} | {milliseconds:.0f} |"


def epochs_of(folder: Path) -> list[float]:
    """Seconds of each epoch."""
    with (folder / "training.csv").open(newline="", encoding="utf-8") as file:
        return [float(line["seconds"]) for line in csv.DictReader(file)]


if __name__ == "__main__":
    main()
