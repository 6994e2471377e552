"""Which teacher to use: its features compared with a small memory of good ones, without training a student.

    python3 benchmarks/teachers.py [--data ../shared/data] [--backbone resnet18] [--teachers random bundled PATH ...]

This is a fast look. It does not see how well a student learns to imitate a teacher on good parts, nor how badly it
does so on defects. With --students, students are trained instead (benchmarks/students.py). A teacher is a value of the
key `weights`, or BACKBONE=WEIGHTS for another network than --backbone.

The levels of an image, each position of unit length and averaged over 3 x 3, are joined on a grid of 28 x 28. The
distance of a test position is that to the nearest of 5,000 positions drawn from good training images. The largest
distance is the image's score, the distances at image size and blurred (sigma 4) are its map. A cell is image / pixel
AUROC in percent; `random` is the mean of --seeds networks, its spread the highest value minus the lowest.

The sets are all sets in --data and the two demo sets. At most --limit images of train/good, test/good and each defect
type are used, the same for every teacher. With 40, a ResNet-18 takes about a minute for six sets on two cores, and
`random` that for each seed. Differences below about 5 points on a set mean little. Do not compare values of different
limits: a limit changes the mix of the types (magnetic_tile with `random`: 44 with 40, 54 with all images).
"""

import argparse
import sys
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

sys.path.insert(0, str(Path(__file__).parents[1]))

import numpy as np
import torch
import torch.nn.functional as F

from datasets.dataset import ImageDataset
from datasets.demo import CATEGORIES, DEFAULT_ROOT, ensure_demo
from datasets.sample import Sample
from engine.device import Compute, choose_device
from engine.machine import keep_freed_memory
from engine.splits import test_dataset, train_datasets
from evaluation.metrics import PixelMetrics, detection
from models.anomaly_map import resize, smooth
from models.teachers.features import outline
from models.teachers.pdn import build_pdn, find_pdn
from models.teachers.teacher import Teacher
from models.teachers.weights import build_teacher, find_source
from utils.command import run, whole_number
from utils.config import Config, TrainingData
from utils.config_file import check_config
from utils.console import note
from utils.errors import UserError
from utils.progress import progress

ROOT = Path(__file__).parents[1]
LEVELS = [1, 2, 3]  # strides 4, 8 and 16 of most networks
STRIDE, GRID = 8, 28  # of the joined positions, and their number per side
MEMORY, SIGMA, BATCH, SEED = 5000, 4, 16, 0
WORSE = 5  # points of image AUROC that a teacher may be below random on a set
CACHE = 4 * 2**30  # bytes of decoded images per part of a set

Grid = Callable[[torch.Tensor], torch.Tensor]  # images [B,3,H,W], uint8, uint16 or in [0,1] -> [B,C,28,28]


class DataSet(NamedTuple):
    name: str
    root: str  # its data_path
    train: ImageDataset
    test: ImageDataset


def main() -> None:
    args = flags()
    keep_freed_memory()
    networks = [named(teacher, args.backbone) for teacher in args.teachers]
    sets = find_sets(args.data, args.sets, common_kind([backbone for backbone, _ in networks]), args.limit)
    if args.students:
        from benchmarks.students import Candidate, compare

        candidates = [Candidate(*network) for network in networks]
        compare(candidates, {each.name: each.root for each in sets}, args.save, args.steps, args.seeds)
        return
    # All teachers first, so that a path without a file is reported before minutes of work on the others.
    seeds = {teacher: range(args.seeds if teacher == "random" else 1) for teacher in args.teachers}
    grids = {t: [feature_grid(*named(t, args.backbone), seed) for seed in seeds[t]] for t in seeds}
    for part in (part for each in sets for part in (each.train, each.test)):
        part.read_all(CACHE)
    names = [each.name for each in sets]
    print(f"{args.backbone}, image / pixel AUROC\n\n| teacher | {' | '.join([*names, 'mean'])} |")
    print("|---" * (len(sets) + 2) + "|", flush=True)
    rows = {}
    for teacher, networks in grids.items():
        values = np.stack([measure(grid, sets, teacher) for grid in networks])
        rows[teacher] = values.mean(axis=0)
        print(row(teacher, rows[teacher]), flush=True)
        if len(networks) > 1:
            print(row(f"{teacher}, spread of {len(networks)}", np.ptp(values, axis=0)), flush=True)
    print()
    for teacher in rows if "random" in rows else ():
        if teacher != "random":
            print(verdict(teacher, rows, names))


def flags() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, default=ROOT / "../shared/data", help="folder of sets in MVTec layout")
    parser.add_argument("--backbone", default="resnet18", help="a timm model, pdn_small or pdn_medium")
    parser.add_argument(
        "--teachers",
        nargs="+",
        default=["random", "bundled"],
        help="values of the key weights, or BACKBONE=WEIGHTS; a verdict of the fast look needs random",
    )
    parser.add_argument("--sets", nargs="+", help="only these sets")
    parser.add_argument("--seeds", type=whole_number(1, 1000), default=3, help="of random networks, or of students")
    parser.add_argument(
        "--limit", type=whole_number(1, 10**6), default=40, help="images of train/good and of each folder of test/"
    )
    parser.add_argument("--students", action="store_true", help="train students")
    parser.add_argument("--steps", type=whole_number(1, 10**6), default=300, help="of a student's training")
    parser.add_argument("--save", type=Path, default=ROOT / "results/teachers", help="where students are kept")
    return parser.parse_args()


def named(teacher: str, backbone: str) -> tuple[str, str]:
    """(timm name or PDN, weights) of a teacher on the command line; `backbone` is of one that names only weights."""
    head, equals, weights = teacher.partition("=")
    is_path = "/" in head or Path(teacher).is_file()
    return (head, weights) if equals and not is_path else (backbone, teacher)


def common_kind(backbones: Sequence[str]) -> str:
    """One of them. Raises UserError for a PDN beside others, which get images of another size."""
    if len({is_pdn(backbone) for backbone in backbones}) > 1:
        raise UserError("--teachers: a PDN can only be compared with other PDNs, because images and students differ")
    return backbones[0]


# The teacher


def feature_grid(backbone: str, weights: str, seed: int) -> Grid:
    """A frozen teacher as a function of images; `seed` makes a random one.

    Raises UserError if the weights are not available or do not fit.
    """
    teacher = build(backbone, weights, seed)
    compute = Compute.chosen(choose_device("auto"), "auto", teacher)
    teacher = compute.frozen(compute.place(teacher))

    @torch.inference_mode()
    def grid(image: torch.Tensor) -> torch.Tensor:
        with compute.autocast():
            levels = teacher(compute.images(image))
        return torch.cat([on_grid(level.float()) for level in levels], dim=1)

    return grid


def build(backbone: str, weights: str, seed: int) -> Teacher:
    if is_pdn(backbone):
        kind = backbone.removeprefix("pdn_")
        return build_pdn(kind, find_pdn(kind, weights), seed)
    # Refuses an unknown backbone, and one that is no CNN, before its weights are searched for.
    outline(backbone, LEVELS).check_size((STRIDE * GRID, STRIDE * GRID), "img_size")
    return build_teacher(backbone, LEVELS, find_source(backbone, weights), seed)


def is_pdn(backbone: str) -> bool:
    return backbone in ("pdn_small", "pdn_medium")


def on_grid(level: torch.Tensor) -> torch.Tensor:
    """Unit vectors averaged over 3 x 3: [B,C,h,w] -> [B,C,28,28]; halving by `resize` is the mean of 2 x 2."""
    unit = F.normalize(level, dim=1)
    # Padding with zeros would make border vectors shorter, as if the border had another texture.
    return resize(F.avg_pool2d(unit, 3, stride=1, padding=1, count_include_pad=False), (GRID, GRID))


# The data


def find_sets(data: Path, wanted: Sequence[str] | None, backbone: str, limit: int) -> list[DataSet]:
    """The wanted sets of those in `data` and the demo sets, or all; no image is decoded yet.

    A note names each set left out, without defects or masks. Raises UserError for a wanted one, or one that is nowhere.
    """
    found = sorted(folder.parents[1] for folder in data.glob("*/train/good") if (folder.parents[1] / "test").is_dir())
    roots = {name: DEFAULT_ROOT for name in CATEGORIES} | {folder.name: str(data) for folder in found}
    names = list(dict.fromkeys(wanted or roots))
    if not data.is_dir() and (not wanted or set(wanted) - roots.keys()):
        raise UserError(f"--data: there is no folder {data}; give your own, or use --sets {' '.join(CATEGORIES)}")
    if unknown := [name for name in names if name not in roots]:
        raise UserError(f"--sets: there is no set '{unknown[0]}' in {data} (there are: {', '.join(roots)})")
    sets = [find_set(roots[name], name, backbone, limit) for name in names]
    for each in sets:
        if not can_be_measured(each):
            reason = "because it has no good test images, or no defective ones with masks"
            if wanted:
                raise UserError(f"--sets: '{each.name}' cannot be used, {reason}")
            note(f"{each.name}: left out {reason}")
    return [each for each in sets if can_be_measured(each)]


def find_set(root: str, name: str, backbone: str, limit: int) -> DataSet:
    side = 256 if is_pdn(backbone) else 224  # both give a grid of 28 x 28 of stride 8
    training = {"epochs": 1, "lr": 1.0, "batch_size": BATCH, "img_size": side, "val_ratio": 0.0}  # nothing is trained
    raw = {"data_path": root, "obj": name, "distillType": "st", "backbone": backbone, "TrainingData": training}
    config = check_config(raw, Config[TrainingData])
    ensure_demo(config)
    parts = (train_datasets(config)[0], test_dataset(config)[0])
    return DataSet(name, root, *(ImageDataset(choose(part.samples, limit), config.TrainingData) for part in parts))


def choose(samples: Sequence[Sample], limit: int) -> list[Sample]:
    """At most `limit` images of each defect type, drawn with equal chance but always the same ones."""
    chosen = []
    for name in sorted({sample.defect_type for sample in samples}):
        own = [sample for sample in samples if sample.defect_type == name]
        order = np.random.default_rng(SEED).permutation(len(own))[:limit]
        chosen += [own[i] for i in sorted(order)]
    return chosen


def can_be_measured(data: DataSet) -> bool:
    """Whether there are good and defective images and pixels to compare."""
    samples = data.test.samples
    return any(sample.defect_type == "good" for sample in samples) and any(sample.mask for sample in samples)


# The check


def measure(grid: Grid, sets: Sequence[DataSet], teacher: str) -> np.ndarray:
    """Image and pixel AUROC of each set, and their means over the sets, in percent: [sets + 1, 2]."""
    values = np.array([aurocs(grid, each) for each in progress(sets, teacher)])
    return 100 * np.vstack([values, values.mean(axis=0)])


def aurocs(grid: Grid, data: DataSet) -> tuple[float, float]:
    memory = fill_memory(grid, data.train)
    pixels = PixelMetrics(Counter(sample.defect_type for sample in data.test.samples))
    scores, labels = [], []
    for batch in batches(data.test):
        near = distances(grid(batch["image"]), memory)
        scores.append(near.amax(dim=(1, 2, 3)).cpu())
        labels.append(batch["label"])
        maps = final_map(near, batch["image"].shape[-1]).squeeze(1).cpu().numpy()
        for result in zip(maps, batch["mask"].numpy(), batch["defect_type"], strict=True):
            pixels.add(*result)
    scores, labels = (torch.cat(parts).numpy() for parts in (scores, labels))
    return detection(scores, labels)["image_auroc"], pixels.total()["pixel_auroc"]


def fill_memory(grid: Grid, dataset: ImageDataset) -> torch.Tensor:
    """Positions of good images drawn by a fixed seed, the same for every teacher: [M,C], M at most 5,000."""
    random = torch.Generator().manual_seed(SEED)
    chosen = torch.randperm(len(dataset) * GRID**2, generator=random)[:MEMORY]
    kept, start = [], 0
    for batch in batches(dataset):
        positions = vectors(grid(batch["image"])).flatten(0, 1)
        own = chosen[(chosen >= start) & (chosen < start + len(positions))] - start
        kept.append(positions[own.to(positions.device)])
        start += len(positions)
    return torch.cat(kept)


def batches(dataset: ImageDataset) -> Iterator[dict]:
    for start in range(0, len(dataset), BATCH):
        yield dataset.batch(list(range(start, min(start + BATCH, len(dataset)))))


def vectors(grid: torch.Tensor) -> torch.Tensor:
    """[B,C,h,w] -> [B,h*w,C]."""
    return grid.flatten(2).transpose(1, 2)


def distances(grid: torch.Tensor, memory: torch.Tensor) -> torch.Tensor:
    """Euclidean, from each position to the nearest in memory [M,C]: [B,C,h,w] -> [B,1,h,w].

    One image at a time, because its positions times 5,000 are 16 MB. Only the nearest gets a root: torch.cdist, which
    takes it of all, needs twice the time.
    """
    squares = memory.square().sum(dim=1)
    near = [torch.addmm(squares, image, memory.T, alpha=-2).amin(dim=1) for image in vectors(grid)]
    near = torch.stack(near).view(len(grid), 1, *grid.shape[-2:]) + grid.square().sum(dim=1, keepdim=True)
    return near.clamp(min=0).sqrt()  # rounding may fall below zero


def final_map(near: torch.Tensor, side: int) -> torch.Tensor:
    """[B,1,28,28] -> [B,1,side,side]."""
    # A PDN has no padding: its grid ends before the border, where the nearest distance is used.
    margin = (side // STRIDE - GRID) // 2
    return smooth(resize(F.pad(near, [margin] * 4, mode="replicate"), (side, side)), SIGMA)


# The table


def row(name: str, values: np.ndarray) -> str:
    cells = [f"{image:.1f} / {pixel:.1f}" for image, pixel in values]
    return f"| {name} | {' | '.join(cells)} |"


def verdict(teacher: str, rows: dict[str, np.ndarray], names: Sequence[str]) -> str:
    """Whether a teacher's mean image AUROC is the highest of `rows`, and how far it is below random on any set."""
    image = {name: values[:, 0] for name, values in rows.items()}
    against = image[teacher][:-1] - image["random"][:-1]
    worst = against.argmin()
    highest = image[teacher][-1] >= max(values[-1] for values in image.values())
    chosen = highest and against[worst] >= -WORSE
    return (
        f"{teacher}: {'chosen' if chosen else 'not chosen'}; its mean image AUROC, {image[teacher][-1]:.1f}, "
        f"is {'the' if highest else 'not the'} highest; worst set {names[worst]}, {against[worst]:+.1f} from random "
        f"({-WORSE} is allowed)"
    )


if __name__ == "__main__":
    run(main)
