"""From an image's anomaly map to its score."""

from collections.abc import Iterable
from typing import Any, NamedTuple

import numpy as np

HELD_OUT, TRAINING = "held-out good images", "good training images"  # what a yardstick is taken from


class Scored(NamedTuple):
    """An image of a data set: its position there, its pixels [3,H,W], mask [H,W] bool and anomaly map [H,W] float32."""

    index: int
    image: np.ndarray
    mask: np.ndarray
    anomaly_map: np.ndarray


def image_score(anomaly_map: np.ndarray) -> float:
    """The maximum of a map [H,W]: one clear defect is enough, however small."""
    return float(anomaly_map.max())


def pixel_levels(maps: np.ndarray) -> list[float]:
    """The values that 1 in 10, 100, 1000, 10000 pixels of maps [N,H,W] exceed, and the highest."""
    return [float(value) for value in np.quantile(maps, [0.9, 0.99, 0.999, 0.9999, 1.0])]


def yardstick(results: Iterable[Scored], count: int, source: str, most: int = 200) -> dict[str, Any]:
    """How a finished student answers `count` good images: what unusual means, for pictures and their captions.

    `source` says which images they are. The scores of all of them, and the `pixel_levels` of at most `most` of them,
    evenly spread.
    """
    every = -(-count // most)
    scores, maps = [], []
    for number, result in enumerate(results):
        scores.append(image_score(result.anomaly_map))
        if number % every == 0:
            maps.append(result.anomaly_map)
    return {"source": source, "scores": sorted(scores), "pixel_levels": pixel_levels(np.stack(maps))}
