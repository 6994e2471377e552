"""The images that an export needs: to check it, to calibrate it, and for the ranges of 8-bit networks."""

from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from datasets.dataset import ImageDataset
from datasets.fit import aspect_ratios
from datasets.images import unit_range
from datasets.parts import parts_of
from datasets.tiles import Tiles
from deploy.export_check import MapsOf, scored
from engine.decisions import pattern_of_new
from engine.splits import other_good_images, train_datasets
from evaluation.score import CALIBRATION, normal_scores

if TYPE_CHECKING:
    from trainer.base import BaseTrainer

SAMPLES = 100


class RunData:
    """The images of a run. `folder` has other good ones, for calibration; None: the run's own."""

    def __init__(self, trainer: "BaseTrainer", folder: Path | None):
        self.config, self.metadata, self.folder = trainer.config, trainer.metadata, folder
        self.test, self.notes = trainer.test_set
        # Another pattern may be given for new images.
        pattern = self.metadata["settings"].get("part_pattern")
        trained = self.config.model_copy(update={"part_pattern": pattern})
        self.sets = dict(zip(("training", "held_out", "calibration"), train_datasets(trained), strict=True))
        for dataset in (*self.sets.values(), self.test):  # also for the hashes; images in memory are read only once
            dataset.read_all(self.config.cache_mb * 2**20 // 4)

    def described(self) -> dict[str, Any]:
        """Counts and hashes, for the card."""
        sets = {**self.sets, "calibration": self.calibration or [], "test": self.test}
        counts = {name: {"images": len(each), "hash": each.fingerprint()} for name, each in sets.items() if len(each)}
        if self.folder is not None:
            counts["calibration"]["folder"] = str(self.folder)
        return {"sets": counts, "unchanged": self.unchanged, "given": self._given}

    @property
    def _given(self) -> str | None:
        """A sentence on images that are not known any more, because calibrate.py keeps only their scores."""
        normal = self.metadata.get("normal")
        if self.folder is not None or not self.metadata.get("earlier_calibrations") or normal["source"] != CALIBRATION:
            return None
        return (
            f"the threshold comes from {len(normal['scores'])} {normal.get('unit', 'images')} given to calibrate.py; "
            "their scores are in the metadata of the model (normal)"
        )

    @property
    def unchanged(self) -> bool:
        """Whether the good images are those of the training."""
        used = [dataset for name, dataset in self.sets.items() if len(dataset) or name != "calibration"]
        hashes = "".join(dataset.fingerprint() for dataset in used)
        return hashes == (self.metadata.get("origin") or {}).get("good images (hash)")

    @cached_property
    def calibration(self) -> ImageDataset | None:
        """The images that the thresholds come from; None if they are not known.

        Raises UserError for a folder without images, and for images that may have trained the student.
        """
        if self.folder is not None:
            return other_good_images(self.config, self.folder, self.metadata)[0]
        decides = (self.metadata.get("normal") or {}).get("source") == CALIBRATION
        own = isinstance(self.config.calibration, float) and not self.metadata.get("earlier_calibrations")
        return self.sets["calibration"] if decides and own and self.unchanged else None

    def normal_scores(self, maps_of: MapsOf, size: int) -> dict[str, Any]:
        """The scores of the images for calibration, in batches of `size`."""
        pattern = pattern_of_new(self.config, self.metadata)
        parts = parts_of([sample.path for sample in self.calibration.samples], pattern)
        found = normal_scores(scored(maps_of, self.calibration, size, "calibrating"), CALIBRATION, parts)
        return found | {"part_pattern": pattern, "aspect_ratios": aspect_ratios(self.calibration.shapes)}

    def samples(self) -> Sequence[np.ndarray]:
        """Training images as the networks see them, [3,h,w] float32 in [0,1]; of large ones, a tile each."""
        training, tiles = self.sets["training"], Tiles.of(self.config.TrainingData)
        chosen = np.linspace(0, len(training) - 1, min(len(training), SAMPLES)).round().astype(int)
        images = [unit_range(training.pixels(index).image) for index in chosen.tolist()]
        return [tiles.cut(image)[k % len(tiles)] for k, image in enumerate(images)] if tiles else images
