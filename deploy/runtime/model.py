"""An exported model as a judge of pictures."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from datasets.fit import Fit
from datasets.images import unit_range
from datasets.regions import Roi
from datasets.tiles import Tiles
from deploy.judge import Judge
from deploy.runtime.engines import engine_of
from deploy.runtime.metadata import with_rates
from evaluation.calibration import Calibration
from utils.cores import allowed_cores


class ExportedModel(Judge):
    """ExportedModel("exported")(image) -> Prediction, with the decisions of the run that was exported.

    An image is a path, a PIL image, or an array [H,W,3] uint8 or uint16, RGB. Raises UserError for a folder without an
    exported model, and for an image that cannot be read or is none of these.
    """

    def __init__(self, folder: str | Path, overrides: Sequence[str] = (), threads: int | None = None):
        self.engine = engine_of(Path(folder), threads or allowed_cores())
        self.metadata = with_rates(self.engine.metadata, overrides)
        options, normal = self.metadata.training_data, self.metadata.normal
        calibration = Calibration.of(normal, self.metadata.false_reject_rate, self.metadata.review_rate)
        roi = self.metadata.roi and Roi.of_text(self.metadata.roi, str(folder))
        super().__init__(Fit.of(options), normal, calibration, options.batch_size, Tiles.of(options), roi)

    def maps_of(self, images: Sequence[np.ndarray]) -> np.ndarray:
        return self.engine(np.stack([unit_range(image) for image in images]))[:, 0]
