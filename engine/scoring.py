"""Compute anomaly maps, one batch after another."""

import time
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch.utils.data import DataLoader

from engine.device import Compute
from evaluation.score import Scored
from models.detector import Detector

if TYPE_CHECKING:
    from engine.loading import Batches


@torch.inference_mode()
def anomaly_map(
    detector: Detector, compute: Compute, image: torch.Tensor, teacher: list[torch.Tensor] | None = None
) -> torch.Tensor:
    """Images [B,3,H,W] -> maps [B,1,H,W] float32; `teacher` are the teacher's maps of them, if already computed.

    The networks run in the precision of `compute`, all later steps in float32.
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
    """Images [B,3,H,W] of a detector's kinds -> maps [B,H,W] float32, for many batches."""

    def __init__(self, detector: Detector, compute: Compute):
        self.detector, self.compute = detector.eval(), compute
        self.teacher = compute.frozen(detector.teacher)

    @torch.inference_mode()
    def __call__(self, image: torch.Tensor) -> np.ndarray:
        image = self.compute.images(image)
        with self.compute.autocast():
            teacher = self.teacher(image)
        return anomaly_map(self.detector, self.compute, image, teacher).squeeze(1).cpu().numpy()


class Scoring:
    """The images of a loader with their maps, in its order; none is kept. `seconds` is the time of the networks."""

    def __init__(self, detector: Detector, compute: Compute, batches: DataLoader, what: str):
        self.detector, self.compute, self.batches, self.what = detector, compute, batches, what
        self.seconds = 0.0

    def __iter__(self) -> Iterator[Scored]:
        from utils.progress import progress  # not needed to import a method

        maps_of = AnomalyMaps(self.detector, self.compute)
        with progress(None, self.what, len(self.batches.dataset)) as bar:
            begin = time.perf_counter()
            for batch in self.batches:
                maps = maps_of(batch["image"])
                self.seconds += time.perf_counter() - begin
                images, masks = batch["image"].numpy(), batch["mask"].numpy()
                for k, (top, left, bottom, right) in enumerate(batch["inside"].tolist()):
                    rows, columns = slice(top, bottom), slice(left, right)
                    parts = (images[k, :, rows, columns], masks[k, rows, columns], maps[k, rows, columns])
                    yield Scored(int(batch["index"][k]), *parts)
                bar.update(len(maps))
                begin = time.perf_counter()
