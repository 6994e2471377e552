"""The images of a data set with their anomaly maps, one by one."""

import time
from collections.abc import Iterator

from torch.utils.data import DataLoader

from datasets.tiles import Tiles
from engine.device import Compute
from engine.scoring import AnomalyMaps
from evaluation.score import Scored
from models.detector import Detector
from utils.progress import progress


class Scoring:
    """The images of a loader with their maps, in its order; none is kept. `seconds` is the time of the networks."""

    def __init__(
        self, detector: Detector, compute: Compute, batches: DataLoader, what: str, tiles: Tiles | None = None
    ):
        self.detector, self.compute, self.batches, self.what, self.tiles = detector, compute, batches, what, tiles
        self.seconds = 0.0

    def __iter__(self) -> Iterator[Scored]:
        maps_of = AnomalyMaps(self.detector, self.compute, self.tiles)
        with progress(None, self.what, len(self.batches.dataset)) as bar:
            begin = time.perf_counter()
            for batch in self.batches:
                maps = maps_of(batch["image"])
                self.seconds += time.perf_counter() - begin
                images, masks = batch["image"].numpy(), batch["mask"].numpy()
                parts = zip(images, masks, maps, batch["inside"].tolist(), batch["region"], strict=True)
                for index, part in zip(batch["index"].tolist(), parts, strict=True):
                    yield Scored.cut(index, *part)
                bar.update(len(maps))
                begin = time.perf_counter()
