"""Large pictures with and without tiles: what a short STPM training finds, and the memory that it needs.

    python3 benchmarks/tiles.py [--data ../shared/data] [--seeds 3] [--steps 300] [--cases strip part]
        [--ways squeezed whole tiles]

Three sets of large pictures are put together from pictures of 256 x 256 pixels: a strip of 4096 x 256 pixels from 16
pictures of `magnetic_tile` in --data, one from 16 of `paper_brown`, and a part of 4096 x 4096 from 256 pictures of
the demo weave. A defective one has one defective picture among them. The teacher is EfficientNet-Lite0 with ImageNet
weights. "squeezed" resizes all to 256 x 256, "whole" gives the pictures to the networks as they are (not the part,
because training would need about 100 GB), and "tiles" does so in tiles of 256 x 256. All see about as many pixels in
training: --steps of 8 x 256 x 256, or a whole epoch. AUPRO and image AUROC are those of maps in the size of the
pictures: mean over the seeds and half of their spread. "AUROC of 256 px" takes each of the small pictures as an
image, with the highest value of its part of the map: how hard the data is, before one defective place must exceed the
highest value of all good ones. Each run is a process of its own, so that peak memory is its own. Needs Linux or
macOS.
"""

import argparse
import json
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

import cv2
import numpy as np

from datasets.demo import CATEGORIES, picture
from datasets.images import read_image, read_mask
from datasets.listing import list_images_below
from datasets.tiles import Tiles
from deploy.predictor import Predictor
from evaluation.metrics import PixelMetrics, detection
from trainer import build_trainer

SIDE = 256  # pixels of the pictures that are put together
BATCH = 8
LAYOUTS = {"strip": (16, 1), "paper": (16, 1), "part": (16, 16)}
SOURCES = {"strip": "magnetic_tile", "paper": "paper_brown"}  # in --data
COUNTS = {"strip": (20, 12, 24), "paper": (20, 12, 24), "part": (5, 4, 8)}  # to train, to test: good and defective
WAYS = {case: ("squeezed", "whole", "tiles") for case in SOURCES} | {"part": ("squeezed", "tiles")}
QUALITY = ("image_auroc", "aupro", "small_auroc")
Pool = list[tuple[np.ndarray, np.ndarray]]  # pictures [256,256,3] uint8 and masks [256,256] bool


def main() -> None:
    args = flags()
    if args.run:
        print(json.dumps(measure(*args.run, args.steps)))
        return
    print(
        "| pictures | way | image AUROC | AUPRO@0.3 | AUROC of 256 px | memory: training | prediction | s per picture |"
    )
    print("|---|---|---|---|---|---|---|---|")
    with tempfile.TemporaryDirectory() as folder:
        for case in args.cases:
            write(Path(folder) / case, case, args.data)
            for way in [way for way in WAYS[case] if way in args.ways]:
                runs = [measured_apart(folder, case, way, seed, args.steps) for seed in range(args.seeds)]
                quality = [cell([100 * run[key] for run in runs]) for key in QUALITY]
                memory = [f"{max(run[key] for run in runs):.1f} GB" for key in ("train_gb", "predict_gb")]
                seconds = f"{np.mean([run['seconds'] for run in runs]):.1f}"
                print(f"| {case} | {way} | {' | '.join([*quality, *memory, seconds])} |", flush=True)


def flags() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, default=Path("../shared/data"))
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=300)
    parser.add_argument("--cases", nargs="+", choices=LAYOUTS, default=list(LAYOUTS))
    parser.add_argument("--ways", nargs="+", choices=WAYS["strip"], default=list(WAYS["strip"]))
    parser.add_argument("--run", nargs=5, help=argparse.SUPPRESS)  # a row of the table in a process of its own
    return parser.parse_args()


def cell(values: list[float]) -> str:
    return f"{np.mean(values):.1f} ± {np.ptp(values) / 2:.1f}"


def write(root: Path, case: str, data: Path) -> None:
    """A category `large` in MVTec layout."""
    rng, layout = np.random.default_rng(0), LAYOUTS[case]
    pools = tiles_of(data / SOURCES[case]) if case in SOURCES else weaves()
    train, good, bad = COUNTS[case]
    for name, count in (("train/good", train), ("test/good", good), ("test/defect", bad)):
        pool = pools["train" if name == "train/good" else "good"]
        for k in range(count):
            cells = [pool[i] for i in rng.integers(len(pool), size=layout[0] * layout[1])]
            if name == "test/defect":
                cells[rng.integers(len(cells))] = pools["defective"][k]
            image, mask = (joined([each[j] for each in cells], layout) for j in (0, 1))
            save(root / "large" / name / f"{k:03}.png", image[..., ::-1])
            if name == "test/defect":
                save(root / "large/ground_truth/defect" / f"{k:03}_mask.png", mask * np.uint8(255))


def tiles_of(folder: Path) -> dict[str, Pool]:
    """Of the real pictures: all that are used, resized, in an order that does not depend on their names."""
    pools = {"train": list_images_below(folder / "train"), "good": list_images_below(folder / "test/good")}
    defective = [path for path in list_images_below(folder / "test") if path.parent.name != "good"]
    rng = np.random.default_rng(0)
    chosen = [defective[i] for i in rng.permutation(len(defective))[: COUNTS["strip"][2]]]  # as for "paper"
    return {name: [resized(path) for path in paths] for name, paths in (pools | {"defective": chosen}).items()}


def resized(path: Path) -> tuple[np.ndarray, np.ndarray]:
    mask = path.parents[2] / "ground_truth" / path.parent.name / f"{path.stem}_mask.png"
    image = read_image(path)
    marked = read_mask(mask) if mask.is_file() else np.zeros(image.shape[:2], bool)
    return cv2.resize(image, (SIDE, SIDE), interpolation=cv2.INTER_AREA), cv2.resize(
        marked.astype(np.uint8), (SIDE, SIDE), interpolation=cv2.INTER_NEAREST
    ).astype(bool)


def weaves() -> dict[str, Pool]:
    def drawn(split: str, defect_type: str, count: int) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        for k in range(count):
            image, _, mask = picture("weave", split, defect_type, k, SIDE)
            yield image, mask

    types = list(CATEGORIES["weave"].DEFECTS)
    defective = [list(drawn("test", name, COUNTS["part"][2])) for name in types]
    return {
        "train": list(drawn("train", "good", 300)),
        "good": list(drawn("test", "good", 200)),
        "defective": [defective[k % len(types)][k] for k in range(COUNTS["part"][2])],
    }


def joined(cells: list[np.ndarray], layout: tuple[int, int]) -> np.ndarray:
    rows = [np.concatenate(cells[k * layout[1] : (k + 1) * layout[1]], axis=1) for k in range(layout[0])]
    return np.concatenate(rows)


def save(path: Path, image: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    assert cv2.imwrite(str(path), image)


def measured_apart(folder: str, case: str, way: str, seed: int, steps: int) -> dict[str, float]:
    """Training and prediction, each in a process of its own."""
    found: dict[str, float] = {}
    for what in ("train", "predict"):
        words = [sys.executable, __file__, "--steps", str(steps), "--run", what, folder, case, way, str(seed)]
        done = subprocess.run(words, stdout=subprocess.PIPE, text=True, check=True)
        found |= json.loads(done.stdout.splitlines()[-1])
    return found


def measure(what: str, folder: str, case: str, way: str, seed: str, steps: int) -> dict[str, float]:
    work: Callable[[], dict[str, float]] = {
        "train": lambda: train(folder, case, way, int(seed), steps),
        "predict": lambda: predict(folder, case, way, int(seed)),
    }[what]
    found = work()
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (1 if sys.platform == "darwin" else 1024) / 1e3
    return found | {f"{what}_gb": peak}


def train(folder: str, case: str, way: str, seed: int, steps: int) -> dict[str, float]:
    layout = [parts * SIDE for parts in LAYOUTS[case]]
    sizes = {"img_size": SIDE} if way == "squeezed" else {"img_size": layout}
    if way == "tiles":
        sizes["tile"] = SIDE
    batch, samples = 1 if way == "whole" else BATCH, COUNTS[case][0]
    section = sizes | {"epochs": 1, "batch_size": batch, "lr": 0.4, "border": 1, "val_ratio": 0.2}
    config = {
        "distillType": "st",
        "backbone": "tf_efficientnet_lite0.in1k",
        "weights": "imagenet",
        "data_path": f"{folder}/{case}",
        "obj": "large",
        "save_path": f"{folder}/results/{case}/{way}/{seed}",
        "seed": seed,
        "precision": "fp32",
        "device": "cpu",
        "cache_mb": 1024,
        "TrainingData": section,
    }
    trainer = build_trainer(config)
    tiles = Tiles.of(trainer.options)
    seen = {"squeezed": 1, "whole": LAYOUTS[case][0] * LAYOUTS[case][1], "tiles": tiles and len(tiles)}[way]
    section["epochs"] = max(1, round(steps * BATCH / (int(0.8 * samples) * seen)))
    trainer = build_trainer(config)
    trainer.train()
    return {}


def predict(folder: str, case: str, way: str, seed: int) -> dict[str, float]:
    predictor = Predictor(f"{folder}/results/{case}/{way}/{seed}/st/large")
    root = Path(folder) / case / "large"
    paths = list_images_below(root / "test")
    labels = np.array([path.parent.name != "good" for path in paths])
    pixels = PixelMetrics({"good": int((~labels).sum()), "defect": int(labels.sum())})
    scores, small, small_labels, seconds = [], [], [], 0.0
    for path, bad in zip(paths, labels, strict=True):
        begin = time.perf_counter()
        found = predictor(path)
        seconds += time.perf_counter() - begin
        masks = root / "ground_truth/defect" / f"{path.stem}_mask.png"
        mask = read_mask(masks) if bad else np.zeros(found.anomaly_map.shape, bool)
        pixels.add(found.anomaly_map, mask, path.parent.name)
        scores.append(found.score)
        for place in np.ndindex(LAYOUTS[case]):
            part = tuple(slice(SIDE * k, SIDE * (k + 1)) for k in place)
            small.append(found.anomaly_map[part].max())
            small_labels.append(mask[part].any())
    metrics = detection(np.array(scores), labels) | pixels.total()
    metrics["small_auroc"] = detection(np.array(small), np.array(small_labels))["image_auroc"]
    return {key: metrics[key] for key in QUALITY} | {"seconds": seconds / len(paths)}


if __name__ == "__main__":
    main()
