"""From an image's anomaly map to its score."""

import math
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

import numpy as np

from datasets.fit import Box
from datasets.regions import lowest_outside

# The images that the scores of good parts come from; those for calibration took part in nothing else.
CALIBRATION, HELD_OUT, TRAINING = "calibration images", "held-out good images", "good training images"


class Scored(NamedTuple):
    """An image of a data set: its position there, its pixels [3,H,W], mask [H,W] bool and anomaly map [H,W] float32.

    Padding is cut off: H and W may differ from image to image. With a `region` [H,W] bool, the image is gray, the mask
    empty and the map lowest outside of it. `levels` are the distances at every level, small maps [h,w], if wanted.
    """

    index: int
    image: np.ndarray
    mask: np.ndarray
    anomaly_map: np.ndarray
    region: np.ndarray | None = None
    levels: Sequence[np.ndarray] = ()

    @classmethod
    def cut(
        cls,
        index: int,
        image: np.ndarray,
        mask: np.ndarray,
        anomaly_map: np.ndarray,
        box: Box,
        region: np.ndarray | None,
    ) -> "Scored":
        """From an image with padding around the `box`; `region` as in `datasets.dataset.Pixels`."""
        top, left, bottom, right = box
        rows, columns = slice(top, bottom), slice(left, right)
        image, mask, anomaly_map = image[:, rows, columns], mask[rows, columns], anomaly_map[rows, columns]
        if region is None:
            return cls(index, image, mask, anomaly_map)
        region = region[rows, columns]
        return cls(index, image, mask, lowest_outside(anomaly_map, region), region)


def image_score(anomaly_map: np.ndarray) -> float:
    """The maximum of a map [H,W]: one clear defect is enough, however small."""
    return float(anomaly_map.max())


def normal_scores(results: Iterable[Scored], source: str, parts: Sequence[str]) -> dict[str, Any]:
    """A finished student's scores of good parts; pictures and their captions compare with them.

    `source` names the images, `parts` the part that each shows. The highest score of a part's images counts, because
    its images are not independent, and one of them above a threshold is enough to reject it.
    """
    scores: dict[str, float] = {}
    for result in results:
        part = parts[result.index]
        scores[part] = max(image_score(result.anomaly_map), scores.get(part, -math.inf))
    found = {"source": source, "scores": sorted(scores.values())}
    return found | {"unit": "parts"} if len(scores) < len(parts) else found
