"""Which teacher to use: what students find that learned from it.

    python3 benchmarks/teachers.py --students [--teachers bundled tf_efficientnet_lite0=imagenet] [--sets weave washer]

For each set, teacher and seed a student is trained for the same number of steps and tested on all test images: with
RD's recipe (batches of 8 images of 256 px), or EfficientAD's for a PDN. A cell is image AUROC / pixel AP / AUPRO, in
percent, the mean over the seeds; the next row has half of their spread. The teacher with the lowest mean rank over
sets and metrics is chosen. Finished runs are kept in --save and not repeated, unless the teacher's file has changed;
delete that folder after a change of the code.
"""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from scipy.stats import rankdata

from datasets.demo import ensure_demo
from datasets.readers import mvtec
from engine.cells import Cell, begin, border_words, end, finished_report, recipe_files, teacher_hash
from engine.folder import RunFolder
from trainer import build_trainer, read_run

METRICS = ("image_auroc", "pixel_ap", "aupro")
BATCH = 8


class Candidate(NamedTuple):
    """A teacher: a timm name or pdn_small or pdn_medium, and a value of the key `weights`."""

    backbone: str
    weights: str

    @property
    def name(self) -> str:
        return f"{self.backbone}, {self.weights}"

    @property
    def method(self) -> str:
        return "ead" if self.backbone.startswith("pdn_") else "rd"

    @property
    def network(self) -> list[str]:
        words = [f"backbone={self.backbone.removeprefix('pdn_')}", f"weights={self.weights}"]
        return words + border_words(self.backbone)

    def length(self, steps: int, images: int) -> list[str]:
        if self.method == "ead":
            return [f"TrainingData.steps={steps}"]
        epochs = math.ceil(steps / math.ceil(images / BATCH))
        return [f"TrainingData.batch_size={BATCH}", f"TrainingData.epochs={epochs}"]


def compare(candidates: Sequence[Candidate], sets: Mapping[str, str], save: Path, steps: int, seeds: int) -> None:
    """Train and test what is not finished, and print the table and the verdict; `sets` are names with data_paths.

    Raises UserError for a bad teacher before anything is trained.
    """
    cells = [
        [[planned(candidate, *each, save, steps, seed) for seed in range(seeds)] for each in sets.items()]
        for candidate in candidates
    ]
    for own in cells:  # all teachers first, so that a mistake in the last one is found before the first training
        if waiting := [cell for of_set in own for cell in of_set if not cell.finished()]:
            build_trainer(waiting[0].file, waiting[0].words)
    print(f"| teacher | {' | '.join(sets)} |\n{'|---' * (len(sets) + 1)}|", flush=True)
    values = []
    for candidate, own in zip(candidates, cells, strict=True):
        found = 100 * np.array([[measured(cell) for cell in of_set] for of_set in own])  # [sets, seeds, metrics]
        print(row(candidate.name, found.mean(axis=1)), flush=True)
        if seeds > 1:
            print(row("half of the spread", np.ptp(found, axis=1) / 2), flush=True)
        values.append(found.mean(axis=1))
    print("\n" + verdict([candidate.name for candidate in candidates], mean_ranks(np.stack(values))))


def planned(candidate: Candidate, name: str, root: str, save: Path, steps: int, seed: int) -> Cell:
    """The training and test of one student."""
    file = recipe_files()[candidate.method]
    words = [f"data_path={root}", f"obj={name}"]
    words += [f"seed={seed}", f"save_path={save}", "precision=fp32", *candidate.network]  # alike on every machine
    config = read_run(file, words)[1]
    ensure_demo(config)
    digest = teacher_hash(config.model_dump(mode="json"))
    # Files of one name, as pretrain.py writes them, differ in their hashes.
    which = [
        candidate.backbone,
        Path(candidate.weights).stem.encode()[:30].decode(errors="ignore"),
        *([digest[:8]] if digest else []),
    ]
    words += [f"run={'-'.join(which)}-{steps}-{seed}", *candidate.length(steps, len(mvtec.train_samples(config)))]
    config = read_run(file, words)[1]
    folder, wanted = RunFolder(config).path, config.model_dump(mode="json")
    return Cell(candidate.method, name, candidate.name, seed, file, tuple(words), folder, wanted, teacher_hash=digest)


def measured(cell: Cell) -> list[float]:
    """The metrics of a run, as fractions; trained and tested if it is not finished."""
    if not cell.finished():
        trainer = build_trainer(cell.file, [*cell.words, *begin(cell)])
        trainer.train()
        trainer.test()
        end(cell, {})
    metrics = finished_report(cell.folder)["metrics"]
    return [metrics[key] for key in METRICS]


def row(name: str, values: np.ndarray) -> str:
    """values [sets, metrics]."""
    return f"| {name} | {' | '.join(' / '.join(f'{value:.1f}' for value in cell) for cell in values)} |"


def mean_ranks(values: np.ndarray) -> np.ndarray:
    """[teachers, sets, metrics] -> [teachers]; rank 1 is the best, and equal values share their ranks."""
    return rankdata(-values, axis=0).mean(axis=(1, 2))


def verdict(names: Sequence[str], ranks: np.ndarray) -> str:
    """The mean ranks [teachers], a line each, and the teacher with the lowest one."""
    lines = [f"{name}: mean rank {rank:.2f} of {len(names)}" for name, rank in zip(names, ranks, strict=True)]
    best = [name for name, rank in zip(names, ranks, strict=True) if np.isclose(rank, ranks.min())]
    return "\n".join([*lines, f"chosen: {' or '.join(best)}"])
