"""The images of a data set with their anomaly maps, one by one."""

import time
from collections.abc import Iterator, Sequence

import numpy as np
import torch
import torch.nn.functional as F
from torch.utils.data import DataLoader

from datasets.fit import Box, in_box
from datasets.tiles import Tiles
from engine.device import Compute
from engine.scoring import AnomalyMaps
from evaluation.html_pictures import shrunk
from evaluation.score import Scored
from models.anomaly_map import repeat_inner, resize
from models.detector import Detector
from utils.progress import progress

LEVEL = 64  # positions: the longest side of a level that a picture is made of


class Scoring:
    """The images of a loader with their maps, in its order; none is kept. `seconds` is the time of the networks.

    With `levels`, a result also has the distances at every level, for pictures.
    """

    def __init__(
        self,
        detector: Detector,
        compute: Compute,
        batches: DataLoader,
        what: str,
        tiles: Tiles | None = None,
        levels: bool = False,
    ):
        self.detector, self.compute, self.batches, self.what, self.tiles = detector, compute, batches, what, tiles
        self.levels = levels
        self.seconds = 0.0

    def __iter__(self) -> Iterator[Scored]:
        maps_of = AnomalyMaps(self.detector, self.compute, self.tiles)
        with progress(None, self.what, len(self.batches.dataset)) as bar:
            for batch in self.batches:
                begin = time.perf_counter()  # not before: the images may be read from files, or from a cache
                boxes, levels = batch["inside"].tolist(), []
                if self.levels:
                    maps, levels = zip(*with_levels(maps_of, batch["image"], boxes), strict=True)
                else:
                    maps = maps_of(batch["image"])
                self.seconds += time.perf_counter() - begin
                images, masks = batch["image"].numpy(), batch["mask"].numpy()
                parts = zip(images, masks, maps, boxes, batch["region"], strict=True)
                for k, (index, part) in enumerate(zip(batch["index"].tolist(), parts, strict=True)):
                    result = Scored.cut(index, *part)
                    yield result._replace(levels=levels[k]) if levels else result
                bar.update(len(maps))


def with_levels(
    maps_of: AnomalyMaps, images: torch.Tensor, boxes: Sequence[Box]
) -> Iterator[tuple[np.ndarray, list[np.ndarray]]]:
    """Of each image [3,H,W] its map [H,W], and the distances at every level inside its box: L small maps [h,w]."""
    if maps_of.tiles is None:
        maps, levels = maps_of.with_levels(images)
        levels = zip(*(placed(maps_of.detector, level).squeeze(1).cpu().numpy() for level in levels), strict=True)
        found = zip(maps, levels, strict=True)
    else:
        found = (_blended(maps_of, image) for image in images)
    for (whole, levels), box in zip(found, boxes, strict=True):
        yield whole, [shrunk(in_box(level, box, whole.shape), LEVEL) for level in levels]


def placed(detector: Detector, level: torch.Tensor) -> torch.Tensor:
    """A level [B,1,h,w] as it counts, at its place in the image."""
    return F.pad(repeat_inner(level, detector.border), [detector.margin] * 4)


def _blended(maps_of: AnomalyMaps, image: torch.Tensor) -> tuple[np.ndarray, np.ndarray]:
    """The map [H,W] of an image that is seen in tiles, and its levels, blended in the same way: [L,H,W]."""

    def of_tiles(parts: list[torch.Tensor]) -> np.ndarray:
        maps, levels = maps_of.with_levels(torch.stack(parts))
        size = maps.shape[-2:]
        levels = [resize(placed(maps_of.detector, level), size).squeeze(1).cpu().numpy() for level in levels]
        return np.stack([maps, *levels], axis=1)

    blended = maps_of.tiles.maps([image], of_tiles)[0]
    return blended[0], blended[1:]
