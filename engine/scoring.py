"""Compute anomaly maps, one batch after another."""

from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np
import torch

from engine.device import Compute
from models.detector import Detector

if TYPE_CHECKING:
    from datasets.tiles import Tiles
    from engine.loading import Batches


@torch.inference_mode()
def anomaly_map(
    detector: Detector, compute: Compute, image: torch.Tensor, teacher: list[torch.Tensor] | None = None
) -> torch.Tensor:
    """Images [B,3,H,W] -> maps [B,1,H,W] float32; `teacher` are the teacher's maps of them, if already computed.

    The networks run in the precision of `compute`, all later steps in float32 (on a GPU, convolutions may use TF32).
    """
    image = compute.images(image)
    with compute.autocast():
        pairs = detector.pairs(image, teacher)
    return detector.final_map(detector.levels(*pairs), image.shape[-2:])


@torch.inference_mode()
def mean_loss(
    detector: Detector, compute: Compute, loss: Callable[[dict], torch.Tensor], batches: "Batches"
) -> torch.Tensor:
    """The mean loss (or several, [n]) over all images of `batches`, with equal weight for each image."""
    detector.eval()
    total = 0
    for batch in batches:
        with compute.autocast():
            total += loss(batch).double() * len(batch["image"])
    return total / batches.images


class AnomalyMaps:
    """Images [B,3,H,W] of the dtypes a detector takes -> maps [B,H,W] float32, for many batches; perhaps by `tiles`."""

    def __init__(self, detector: Detector, compute: Compute, tiles: "Tiles | None" = None):
        self.detector, self.compute, self.tiles = detector.eval(), compute, tiles
        self.teacher = compute.frozen(detector.teacher)

    def __call__(self, image: torch.Tensor) -> np.ndarray:
        from datasets.tiles import whole_maps  # here: a method loads without it

        return whole_maps(image, lambda whole: self.with_levels(whole)[0], self.tiles, torch.stack)

    @torch.inference_mode()
    def with_levels(self, image: torch.Tensor) -> tuple[np.ndarray, list[torch.Tensor]]:
        """Images that the networks see as a whole: their maps, and the distance at every level, L x [B,1,h,w]."""
        image = self.compute.images(image)
        with self.compute.autocast():
            pairs = self.detector.pairs(image, self.teacher(image))
        levels = self.detector.levels(*pairs)
        return self.detector.final_map(levels, image.shape[-2:]).squeeze(1).cpu().numpy(), levels
