"""Show the features of a finished run's teacher and student, level by level, and where they differ."""

import csv
import math
import os
from collections import defaultdict
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from utils.command import run, run_flags, whole_number
from utils.errors import UserError

if TYPE_CHECKING:
    from datasets.dataset import ImageDataset
    from datasets.sample import Sample
    from evaluation.feature_pages import ImageView
    from trainer.base import BaseTrainer


def main() -> None:
    parser = run_flags(__doc__)
    parser.add_argument(
        "--images",
        default="1",
        metavar="N|NAMES",
        help="number per defect type, highest scores first, or names: hole/003,good/010 (default: %(default)s)",
    )
    parser.add_argument("--layers", default="all", metavar="all|1,2,..", help="levels, shallow to deep (default: all)")
    fitting = whole_number(1, 16)  # on a page
    parser.add_argument("--channels", type=fitting, default=8, metavar="N", help="per level (default: %(default)s)")
    args = parser.parse_intermixed_args()

    from datasets.demo import ensure_demo
    from engine.categories import runs_of
    from engine.retest import check_own_folder
    from engine.unified import categories_apart
    from trainer import build_trainer

    for source, words in runs_of(args.config, args.overrides).values():
        trainer = build_trainer(source, [*words, "phase=test"])
        check_own_folder(source, words, trainer.config)
        trainer.load()
        for part in categories_apart(trainer):
            ensure_demo(part.config)
            with part.folder.locked():
                write_pages(part, args.images, args.layers, args.channels)


def write_pages(trainer: "BaseTrainer", images: str, layers: str, channels: int) -> None:
    """Write the pages to `features/` of the run; see `choose_images` for `images`, `choose_levels` for `layers`."""
    from datasets.dataset import as_seen
    from evaluation.feature_pages import draw_level, draw_overview
    from utils.console import say
    from utils.files import check_writable, write_atomic
    from utils.progress import progress

    dataset, _ = trainer.test_set
    chosen = choose_images(dataset.samples, images, trainer.run_dir)
    teacher, _ = trainer.features(as_seen(dataset).batch([0])["image"])
    levels = choose_levels(layers, len(teacher))
    folder = trainer.run_dir / "features"
    for index in progress(chosen, "pages"):
        sample, view = dataset.samples[index], look(trainer, dataset, index)
        pages = folder / sample.defect_type
        check_writable(pages)
        write_atomic(pages / f"{sample.stem}.png", partial(draw_overview, view=view))
        for k in levels:
            page = pages / f"{sample.stem}_level{k + 1}.png"
            write_atomic(page, partial(draw_level, view=view, k=k, channels=channels))
    say(f"{len(chosen)} images: pages in {folder}")


def look(trainer: "BaseTrainer", dataset: "ImageDataset", index: int) -> "ImageView":
    """Everything that the pages of one test image show, on the CPU; of a large image, the tile with the highest value.

    Outside of a region of interest the map is lowest.
    """
    from torch.nn.functional import normalize

    from datasets.fit import in_box
    from datasets.regions import lowest_outside
    from engine.stream import placed
    from evaluation.feature_pages import ImageView, LevelView, channel_importance, level_shares
    from evaluation.pictures import shown, shown_aspect
    from utils.wording import joined

    sample, item, place, aspect = dataset.samples[index], dataset[index], "", 1.0
    if dataset.tiles:
        item, place, aspect = highest_tile(trainer, dataset, item)
    size, box = item["image"].shape[-2:], item["inside"].tolist()
    detector = trainer.detector
    teacher, student = trainer.features(item["image"][None])
    distances = detector.levels(teacher, student)
    final = detector.final_map(distances, size)
    shares = level_shares(detector, distances, size)
    references = detector.references or ["teacher"] * len(teacher)
    levels = []
    for k, (t, s, distance, share) in enumerate(zip(teacher, student, distances, shares, strict=True)):
        t, s = (normalize(m.float(), dim=1) if detector.norm else m.float() for m in (t, s))
        importance = channel_importance(t, s, final, detector.margin)
        as_it_counts = placed(detector, distance)[0, 0].float().cpu()
        maps = (in_box(m, box, size) for m in (t[0].cpu(), s[0].cpu(), as_it_counts))
        levels.append(LevelView(references[k], *maps, importance.cpu(), share))
    final = in_box(final[0, 0].cpu(), box, size).numpy()
    if item["region"] is not None:
        final = lowest_outside(final, item["region"][box[0] : box[2], box[1] : box[3]])
    return ImageView(
        title=f"{trainer.config.obj} · {sample.defect_type} / {sample.stem}{place}",
        method=f"{trainer.config.distillType} · {joined(trainer.config.backbone)}",
        aspect=shown_aspect(sample.path, dataset.fit, aspect),
        image=shown(in_box(item["image"], box, size).numpy()),
        mask=in_box(item["mask"], box, size).numpy(),
        final=final,
        normal=trainer.metadata.get("normal"),
        levels=levels,
    )


def highest_tile(
    trainer: "BaseTrainer", dataset: "ImageDataset", item: dict[str, Any]
) -> tuple[dict[str, Any], str, float]:
    """The tile of an image with the highest value: as an item, where it is, and its aspect ratio by the image's.

    Padding and what is outside of a region of interest do not count.
    """
    import torch

    top, left, bottom, right = item["inside"].tolist()
    counts = torch.zeros(item["mask"].shape, dtype=torch.bool)
    counts[top:bottom, left:right] = True
    if item["region"] is not None:
        counts &= torch.from_numpy(item["region"])
    best = (-math.inf, 0)
    for k, (image, part) in enumerate(zip(dataset.tiles.cut(item["image"]), dataset.tiles.cut(counts), strict=True)):
        if part.any():
            best = max(best, (trainer.anomaly_map(image[None])[0, 0].cpu()[part].max().item(), k))
    rows, columns = dataset.tiles.places[best[1]]
    box = (max(top, rows.start), max(left, columns.start), min(bottom, rows.stop), min(right, columns.stop))
    aspect = (box[3] - box[1]) * (bottom - top) / ((box[2] - box[0]) * (right - left))
    inside = torch.tensor(box) - torch.tensor([rows.start, columns.start] * 2)
    region = None if item["region"] is None else item["region"][rows, columns]
    found = {"image": item["image"][:, rows, columns], "mask": item["mask"][rows, columns]}
    place = f" · from row {rows.start}, column {columns.start}"
    return found | {"inside": inside, "region": region}, place, aspect


def choose_images(samples: "list[Sample]", wanted: str, run_dir: Path) -> list[int]:
    """Positions of the images to show: by names such as hole/003,good/010, or a number of images per defect type.

    Images with the highest scores in the run's last test come first. Raises UserError for an unknown name, and as
    `read_scores`.
    """
    names = {sample.name: i for i, sample in enumerate(samples)}
    count = _number(wanted)
    if count is None:
        for name in wanted.split(","):
            if name not in names:
                raise UserError(f"--images: no test image '{name}' (names are like {next(iter(names))})")
        return [names[name] for name in wanted.split(",")]
    if not count:
        raise UserError("--images: give a number of images per defect type, 1 or more, or names (got '0')")
    scores = read_scores(run_dir, samples)
    order = sorted(range(len(samples)), key=lambda i: -scores[i])
    types = sorted({sample.defect_type for sample in samples})
    return [i for name in types for i in [i for i in order if samples[i].defect_type == name][:count]]


def choose_levels(wanted: str, there: int) -> list[int]:
    """Level positions, from 0; `wanted` is "all" or level numbers from 1, shallow to deep, such as 1,3."""
    if wanted == "all":
        return list(range(there))
    numbers = [_number(word) or 0 for word in wanted.split(",")]
    if not all(1 <= number <= there for number in numbers):
        raise UserError(f"--layers: give 'all' or numbers from 1 to {there}, such as 1,{there} (got '{wanted}')")
    return [number - 1 for number in numbers]


def read_scores(run_dir: Path, samples: "list[Sample]") -> list[float]:
    """Image scores of these samples in the finished test.

    Raises UserError if the file does not exist or cannot be read, or if the score of a sample is missing.
    """
    path, again = run_dir / "scores.csv", "test the run again (python3 trainNet.py phase=test)"
    if not path.is_file():
        raise UserError(f"{path}: test the run first (python3 trainNet.py phase=test)")
    scores, by_place = {}, defaultdict(set)
    try:
        # Files from Excel begin with a byte order mark.
        with path.open(newline="", encoding="utf-8-sig", errors="surrogateescape") as file:
            for row in csv.DictReader(file):
                scores[os.path.abspath(row["path"])] = score = float(row["score"])
                by_place[_place(Path(row["path"]))].add(score)
    except (OSError, csv.Error, KeyError, TypeError, ValueError):
        raise UserError(f"{path}: damaged, or saved by another program; {again}") from None
    # Of an image that is elsewhere now, the place must be that of a single score.
    moved = {place: score for place, (score, *more) in by_place.items() if not more}
    places = [(os.path.abspath(sample.path), _place(sample.path)) for sample in samples]
    found = [scores.get(path, moved.get(place, math.nan)) for path, place in places]
    missing = [sample.name for sample, score in zip(samples, found, strict=True) if not math.isfinite(score)]
    if missing:
        raise UserError(f"{path}: there is no score of the test image {missing[0]}; {again}")
    return found


def _place(image: Path) -> tuple[str, ...]:
    """An image's name and last two folders, which do not depend on how the data set's path was spelled."""
    return image.with_suffix("").parts[-3:]


def _number(text: str) -> int | None:
    """The text as a number; None if it is none, or has more than nine digits, which Python may not read."""
    return int(text) if text.isdecimal() and len(text) < 10 else None


if __name__ == "__main__":
    run(main)
