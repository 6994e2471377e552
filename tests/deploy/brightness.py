"""A judge without networks: the map is the picture's brightness."""

from collections.abc import Sequence

import numpy as np

from datasets.fit import Fit
from deploy.judge import Judge
from evaluation.calibration import Calibration
from evaluation.score import CALIBRATION


class Brightness(Judge):
    """From 0 to 1; above 0.5 a part is rejected."""

    def __init__(self, batch_size: int = 4):
        normal = {"source": CALIBRATION, "scores": [0.5] * 9}
        super().__init__(Fit((16, 16), (16, 16)), normal, Calibration.of(normal, 0.1), batch_size)
        self.batches: list[int] = []  # their sizes

    def maps_of(self, images: Sequence[np.ndarray]) -> np.ndarray:
        self.batches.append(len(images))
        return np.stack(images).mean(axis=1, dtype=np.float32) / 255


def plain(value: int, size: int = 16) -> np.ndarray:
    return np.full((size, size, 3), value, np.uint8)
