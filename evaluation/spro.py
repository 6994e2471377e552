"""Saturated per-region overlap (sPRO): Bergmann et al., Beyond Dents and Scratches (IJCV 2022).

Where a part is missing, many places are a correct answer, so it is enough to find some of the marked area. The sPRO of
a defect is min(found area / saturation area, 1). Their mean over all defects, over the false positive rate from 0 to a
limit, encloses an area, which is divided by the limit.
"""

from collections.abc import Iterator, Sequence

import numpy as np

from datasets.fit import Fit
from datasets.images import read_image
from datasets.listing import list_images
from datasets.sample import Sample, Saturation
from evaluation.metrics import PixelMetrics, covered_area
from evaluation.score import Scored
from utils.errors import UserError

MAX_FPR = 0.05  # the limit for which the paper reports its results


class SaturatedOverlap:
    """sPRO of anomaly maps that are added one by one. `fit` is how the images got the size of the maps."""

    def __init__(self, samples: Sequence[Sample], fit: Fit):
        self.samples, self.fit = samples, fit
        self.found: dict[str, list[tuple[np.ndarray, np.ndarray]]] = {}  # values and weights of defects, by their type

    def add(self, result: Scored) -> None:
        """Add an image. Raises UserError naming a mask with a value that defects_config.json does not have."""
        sample = self.samples[result.index]
        if sample.saturation is None or sample.mask is None:
            return
        for mask, share in defects(sample, self.fit):
            values = result.anomaly_map[mask if result.region is None else mask & result.region]
            if len(values):  # the resize or a crop can remove all
                self.found.setdefault(sample.defect_type, []).append(weighted(values, share))

    def of_type(self, defect_type: str, pixels: PixelMetrics) -> dict[str, float]:
        """spro of a type's images together with all good ones; empty if the type has no defect.

        `pixels` has the same maps.
        """
        found = self.found.get(defect_type)
        if not found:
            return {}
        values, weights = (np.concatenate(each) for each in zip(*found, strict=True))
        area = covered_area(values, weights / len(found), pixels.negatives(defect_type, "good"), MAX_FPR)
        return {"spro": area}

    def total(self, pixels: PixelMetrics) -> dict[str, float]:
        """spro: the mean over the defect types, which is how the paper summarises logical and structural defects."""
        each = [self.of_type(name, pixels)["spro"] for name in self.found]
        return {"spro": sum(each) / len(each)} if each else {}


def defects(sample: Sample, fit: Fit) -> Iterator[tuple[np.ndarray, float]]:
    """Each defect's mask [h,w] bool at the size of the maps, without padding, and the share of it that must be found.

    A number of pixels holds for the file's size; at another size the same share of the defect is meant.
    """
    for path in list_images(sample.mask):
        pixels = read_image(path)[:, :, 0]
        top, left, bottom, right = fit.inside(pixels.shape)
        for value in np.unique(pixels[pixels > 0]).tolist():
            if value not in sample.saturation:
                raise UserError(f"{path}: a pixel has the value {value}, which is not in defects_config.json")
            mask = pixels == value
            yield fit.mask(mask)[top:bottom, left:right], _share(sample.saturation[value], int(mask.sum()))


def _share(saturation: Saturation, area: int) -> float:
    """As MVTec's evaluation code: whole pixels, and at most all of the defect."""
    pixels = int(saturation.threshold * area) if saturation.relative else min(saturation.threshold, area)
    return max(pixels, 1) / area


def weighted(values: np.ndarray, share: float) -> tuple[np.ndarray, np.ndarray]:
    """What a defect's values [A] in a map add to its sPRO when they are found, the highest first: values and weights.

    The weights sum to 1: the first `share` of the values have the same, and the last ones, which add nothing, are gone.
    """
    enough = share * len(values)
    weights = np.clip(enough - np.arange(len(values)), 0, 1) / enough
    count = int((weights > 0).sum())
    return np.sort(values)[::-1][:count], weights[:count]
