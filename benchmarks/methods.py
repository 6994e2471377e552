"""Every method on the same data with a small backbone: metrics and speed, as in the tables of docs/results.md.

    python3 benchmarks/methods.py [--data ../shared/data] [--save results/methods] [--sets weave] [--methods rd rdpp]

The methods are those of the files in configs/. Each run is `trainNet.py` with that file (images of 256 px, the
method's optimizer and batch), except for the backbone, the teacher's weights and the number of epochs, which is the
same for all methods on a set (EfficientAD counts steps: 2,000 of its 70,000). A finished run is not repeated, so an
interrupted table continues; delete the folder of --save to measure again, also after every change of the code. Other
programs on the machine make the times wrong.
"""

import argparse
import csv
import json
import statistics
import subprocess
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

from utils.config_file import read_config

ROOT = Path(__file__).parents[1]
CONFIGS = ROOT / "configs"
EPOCHS = {"weave": 40, "paper_brown": 60, "magnetic_tile": 4}  # by set; weave is drawn, the others are in --data
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
METRICS = ("image_auroc", "pixel_auroc", "aupro")


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
    parser.add_argument("--methods", nargs="+", choices=list(files()), default=list(files()))
    parser.add_argument("--weights", default="bundled")
    return parser.parse_args()


def files() -> dict[str, Path]:
    """The file with the recipe of each method, by `distillType`."""
    return {read_config(path)["distillType"]: path for path in sorted(CONFIGS.glob("*.yaml"))}


def run(method: str, name: str, args: argparse.Namespace) -> Path:
    """The folder of the finished run; trains and tests if there is none yet."""
    config, folder = files()[method], args.save / method / name
    words = [*WORDS.get(method, []), f"data_path={'demo_data' if name == 'weave' else args.data.resolve()}"]
    words += [f"obj={name}", f"weights={args.weights}", f"save_path={args.save.resolve()}"]
    if "epochs" in read_config(config)["TrainingData"]:
        words.append(f"TrainingData.epochs={EPOCHS[name]}")
    if not finished(folder, read_config(config, words)):
        replace = ["overwrite=true"] if (folder / "metrics.json").exists() else []
        command = [sys.executable, "trainNet.py", "--config", config, *words, *replace]
        subprocess.run(command, cwd=ROOT, stdout=2, check=True)
    return folder


def finished(folder: Path, wanted: dict) -> bool:
    """Whether the folder has a tested run of this configuration."""
    if not (folder / "metrics.json").is_file():
        return False
    done = report_of(folder)["config"]
    same = {key: done.get(key) == value for key, value in wanted.items() if key not in ("TrainingData", "phase")}
    return all(same.values()) and wanted["TrainingData"].items() <= done["TrainingData"].items()


def report_of(folder: Path) -> dict:
    return json.loads((folder / "metrics.json").read_text(encoding="utf-8"))


def row(method: str, folder: Path) -> str:
    report = report_of(folder)
    with (folder / "training.csv").open(newline="", encoding="utf-8") as file:
        seconds = statistics.median(float(line["seconds"]) for line in csv.DictReader(file))
    metrics = [f"{100 * report['metrics'][key]:.1f}" for key in METRICS]
    milliseconds = 1000 / report["durations"]["test_images_per_second"]
    return f"| `{method}` | {' | '.join(metrics)} | {seconds:.1f} | {milliseconds:.0f} |"


if __name__ == "__main__":
    main()
