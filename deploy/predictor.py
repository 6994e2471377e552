"""A trained run at work: images in, scores, decisions and regions out."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from datasets.dataset import stacked
from datasets.fit import Fit
from datasets.regions import common_roi, read_roi
from datasets.tiles import Tiles
from deploy.judge import Judge
from engine.decisions import calibrated_by, decider
from engine.scoring import AnomalyMaps
from evaluation.cross import CrossCalibration
from trainer import open_run
from utils.console import note


class Predictor(Judge):
    """Predictor("results/st/screw")(image) -> Prediction.

    An image is a path, a PIL image, or an array [H,W,3] uint8 or uint16, RGB.

    Everything from resizing to the score is the code that tests and calibrates, in the run's precision. Raises
    UserError for a folder that is no finished run, and for an image that cannot be read or has another shape than
    the run's region of interest.
    """

    def __init__(self, run: str | Path, overrides: Sequence[str] = ()):
        trainer = open_run(run, overrides)
        config, normal = trainer.config, trainer.metadata.get("normal")
        if normal:  # earlier versions did not store it
            normal = normal | {"part_pattern": calibrated_by(trainer.metadata["settings"], normal)}
        calibration, reasons = decider(config, trainer.compute, trainer.run_dir, trainer.metadata, trainer.folds)
        for reason in reasons:
            note(reason)
        self.explained = bool(reasons)
        if isinstance(calibration, CrossCalibration):
            self.fold_maps = trainer.folds.maps()
        options, size, roi = trainer.options, min(trainer.options.batch_size, 16), common_roi(config)
        super().__init__(Fit.of(options), normal, calibration, size, Tiles.of(options), roi and read_roi(roi))
        self.trainer, self.detector_maps = trainer, AnomalyMaps(trainer.detector, trainer.compute)

    def maps_of(self, images: Sequence[np.ndarray]) -> np.ndarray:
        return self.detector_maps(stacked(images))

    def fold_maps_of(self, images: Sequence[np.ndarray]) -> np.ndarray:
        return self.fold_maps(stacked(images))
