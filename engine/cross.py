"""Cross-conformal calibration: students that each leave out one fold of the good images.

A fold's student is an ordinary run, below the run's folder, with `calibration: 2/5`: the second of five folds takes
part in nothing else. The run's own student, which all good images trained, gives score and map; the folds decide.
"""

from collections.abc import Callable, Iterator, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch

from datasets.dataset import ImageDataset
from datasets.tiles import Tiles
from engine.device import Compute
from engine.loading import loader
from engine.scoring import AnomalyMaps
from engine.threads import same_threads
from evaluation.cross import CrossCalibration
from evaluation.score import CALIBRATION
from models.detector import Detector
from utils.config import RunConfig
from utils.errors import UserError
from utils.progress import progress

FOLDS = 5


class FoldTrainer(Protocol):
    """What is used of a trainer."""

    detector: Detector
    compute: Compute
    metadata: dict[str, Any]

    def train(self) -> None: ...
    def load(self) -> None: ...


Build = Callable[[RunConfig, Path], FoldTrainer]  # a trainer from its config and the folder of its run


class Folds:
    """The folds' students of a run: `build` makes their trainers, `folder` is the run's.

    Their trainers set the number of threads of the process; the run's own test needs that of its own training.
    """

    def __init__(self, build: Build, config: RunConfig, folder: Path):
        self.build, self.config = build, config
        self.folders = {f"{k}/{FOLDS}": folder / "folds" / f"{k}of{FOLDS}" for k in range(1, FOLDS + 1)}

    @same_threads()
    def train(self) -> None:
        """Train all of them that are not finished."""
        self.__dict__.pop("trainers", None)
        for fold in self.folders:
            self._trainer(fold, "train").train()

    @cached_property
    @same_threads()
    def trainers(self) -> list[FoldTrainer]:
        """Those of the folds' students, loaded; none, if one was trained with other settings than the run's.

        Raises UserError naming a missing one.
        """
        for folder in self.folders.values():
            if not (folder / "student.safetensors").exists():
                raise UserError(
                    f"calibration: cross needs {FOLDS} further students; the one in {folder} is missing: train again"
                )
        found = []
        for fold in self.folders:
            trainer = self._trainer(fold, "test")
            trainer.load()
            if (trainer.metadata.get("normal") or {}).get("source") != CALIBRATION:
                return []  # and the others are not loaded: each would say so again
            found.append(trainer)
        return found

    def calibration(self) -> CrossCalibration | None:
        """From the scores of the students; None without `trainers`. Raises as that."""
        found = [trainer.metadata["normal"] for trainer in self.trainers]
        if not found:
            return None
        scores = [np.sort(normal["scores"]) for normal in found]
        unit = "parts" if any(normal.get("unit") == "parts" for normal in found) else "images"
        return CrossCalibration(scores, self.config.false_reject_rate, self.config.review_rate, unit)

    def maps(self, tiles: Tiles | None = None) -> "FoldMaps":
        """The maps of the folds' students. Raises as that."""
        return FoldMaps([AnomalyMaps(trainer.detector, trainer.compute, tiles) for trainer in self.trainers])

    def _trainer(self, fold: str, phase: str) -> FoldTrainer:
        # Validated again, as if a user had written it.
        values = self.config.model_dump() | {"calibration": fold, "phase": phase}
        values |= {"logger": "none", "protocol": "honest"}
        return self.build(type(self.config)(**values), self.folders[fold])


class FoldMaps:
    """Images [B,3,H,W] of the dtypes that a detector takes -> the map of each fold's student: [B,folds,H,W] float32."""

    def __init__(self, folds: Sequence[AnomalyMaps]):
        self.folds = folds

    def __call__(self, image: torch.Tensor) -> np.ndarray:
        return np.stack([maps_of(image) for maps_of in self.folds], axis=1)


def p_values(
    calibration: CrossCalibration, maps_of: FoldMaps, dataset: ImageDataset, config: RunConfig
) -> Iterator[float]:
    """The p-value of each image of a data set."""
    device = maps_of.folds[0].compute.device
    with progress(None, "deciding", len(dataset)) as bar:
        for batch in loader(dataset, config, device):
            each = zip(maps_of(batch["image"]), batch["inside"].tolist(), batch["region"], strict=True)
            for maps, (top, left, bottom, right), region in each:
                p_map = calibration.p_map(maps[:, top:bottom, left:right])
                yield calibration.p_value(p_map if region is None else p_map[region[top:bottom, left:right]])
                bar.update()
