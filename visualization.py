"""Show what teacher and student of a finished run see, level by level, and where they differ."""

import argparse
import csv
from functools import partial
from pathlib import Path

import torch

from datasets.dataset import ImageDataset, Sample
from datasets.demo import ensure_demo
from evaluation.feature_pages import ImageView, LevelView, channel_importance, draw_level, draw_overview, level_shares
from evaluation.pictures import shown
from trainer import build_trainer
from trainer.base import BaseTrainer
from utils.command import run, run_flags
from utils.config import joined
from utils.console import progress
from utils.errors import UserError
from utils.files import check_writable, write_atomic


def main() -> None:
    args = _flags()
    trainer = build_trainer(args.config, [*args.overrides, "phase=test"])
    ensure_demo(trainer.config)
    trainer.load()
    dataset, _ = trainer.test_set
    chosen = choose_images(dataset.samples, args.images, read_scores(trainer.run_dir))
    folder = trainer.run_dir / "features"
    check_writable(folder)
    for index in progress(chosen, "pages"):
        sample, view = dataset.samples[index], look(trainer, dataset, index)
        pages = folder / sample.defect_type
        pages.mkdir(exist_ok=True)
        write_atomic(pages / f"{sample.path.stem}.png", partial(draw_overview, view=view))
        for k in choose_levels(args.layers, len(view.levels)):
            page = pages / f"{sample.path.stem}_level{k + 1}.png"
            write_atomic(page, partial(draw_level, view=view, k=k, channels=args.channels))
    print(f"{len(chosen)} images: pages in {folder}")


def look(trainer: BaseTrainer, dataset: ImageDataset, index: int) -> ImageView:
    """Everything the pages of one test image show, on the CPU."""
    sample, item = dataset.samples[index], dataset[index]
    size = item["image"].shape[-2:]
    detector = trainer.detector
    teacher, student = trainer.features(item["image"][None])
    distances = detector.levels(teacher, student)
    final = detector.final_map(distances, size)
    shares = level_shares(detector, distances, size)
    references = detector.references or ["teacher"] * len(teacher)
    levels = []
    for k, (t, s, distance, share) in enumerate(zip(teacher, student, distances, shares, strict=True)):
        t, s = (torch.nn.functional.normalize(m.float(), dim=1) if detector.norm else m.float() for m in (t, s))
        importance = channel_importance(t, s, final, detector.border)
        # Where it lies in the image.
        placed = torch.nn.functional.pad(distance[0, 0].float().cpu(), [detector.border] * 4)
        levels.append(LevelView(references[k], t[0].cpu(), s[0].cpu(), placed, importance.cpu(), share))
    return ImageView(
        title=f"{trainer.config.obj} · {sample.defect_type} / {sample.path.stem}",
        method=f"{trainer.config.distillType} · {joined(trainer.config.backbone)}",
        image=shown(item["image"].numpy()),
        mask=item["mask"].numpy(),
        final=final[0, 0].cpu().numpy(),
        normal=trainer.metadata.get("normal"),
        levels=levels,
    )


def choose_images(samples: list[Sample], wanted: str, scores: dict[str, float]) -> list[int]:
    """Positions of the images to show: `wanted` is a count per kind, or names such as hole/003,good/010.

    Raises UserError for a name that no test image has.
    """
    names = {sample.name: i for i, sample in enumerate(samples)}
    if not wanted.isdigit():
        for name in wanted.split(","):
            if name not in names:
                raise UserError(f"--images: no test image '{name}' (names are like {next(iter(names))})")
        return [names[name] for name in wanted.split(",")]
    order = sorted(range(len(samples)), key=lambda i: -scores.get(str(samples[i].path), 0.0))
    types = sorted({sample.defect_type for sample in samples})
    return [i for name in types for i in [i for i in order if samples[i].defect_type == name][: int(wanted)]]


def choose_levels(wanted: str, there: int) -> list[int]:
    """Level positions from 0; `wanted` is "all" or numbers from 1, shallow to deep, such as 1,3."""
    if wanted == "all":
        return list(range(there))
    numbers = [int(word) if word.isdigit() else 0 for word in wanted.split(",")]
    if not all(1 <= number <= there for number in numbers):
        raise UserError(f"--layers: write 'all' or numbers from 1 to {there}, such as 1,{there} (got '{wanted}')")
    return [number - 1 for number in numbers]


def read_scores(run_dir: Path) -> dict[str, float]:
    """Image scores of the finished test by path. Raises UserError when there are none."""
    path = run_dir / "scores.csv"
    if not path.is_file():
        raise UserError(f"{path}: test the run first (python3 trainNet.py phase=test)")
    with path.open(newline="", encoding="utf-8", errors="surrogateescape") as file:
        return {row["path"]: float(row["score"]) for row in csv.DictReader(file)}


def _flags() -> argparse.Namespace:
    parser = run_flags(__doc__)
    parser.add_argument(
        "--images",
        default="1",
        metavar="N|NAMES",
        help="how many per defect type, highest score first, or names: hole/003,good/010 (default: %(default)s)",
    )
    parser.add_argument("--layers", default="all", metavar="all|1,2,..", help="levels, shallow to deep (default: all)")
    parser.add_argument("--channels", type=_count, default=8, metavar="N", help="per level (default: %(default)s)")
    return parser.parse_intermixed_args()


def _count(text: str) -> int:
    number = int(text)
    if not 1 <= number <= 16:
        raise argparse.ArgumentTypeError("must be 1 to 16, what fits on a page")
    return number


if __name__ == "__main__":
    run(main)
