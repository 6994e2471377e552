"""A trained run at work: images in, scores, decisions and regions out."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from datasets.dataset import stacked
from datasets.fit import Fit
from deploy.judge import Judge
from engine.scoring import AnomalyMaps
from trainer import open_run


class Predictor(Judge):
    """Predictor("results/st/screw")(image) -> Prediction; an image is a path, or pixels [H,W,3] uint8 or uint16, RGB.

    Everything from resizing to the score is the code that tests and calibrates, in the run's precision. Raises
    UserError for a folder that is no finished run, and for an image that cannot be read.
    """

    def __init__(self, run: str | Path, overrides: Sequence[str] = ()):
        trainer = open_run(run, overrides)
        config, size = trainer.config, min(trainer.options.batch_size, 16)
        rates = (config.false_reject_rate, config.review_rate)
        super().__init__(Fit.of(trainer.options), trainer.metadata.get("normal"), *rates, size)
        self.trainer, self.detector_maps = trainer, AnomalyMaps(trainer.detector, trainer.compute)

    def maps_of(self, images: Sequence[np.ndarray]) -> np.ndarray:
        return self.detector_maps(stacked(images))
