"""A trained run at work: images in, scores, decisions and regions out."""

import time
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

import cv2
import numpy as np

from datasets.dataset import stacked
from datasets.fit import Fit
from datasets.images import read_image
from engine.scoring import AnomalyMaps
from evaluation.calibration import Calibration
from evaluation.score import image_score
from trainer import open_run
from utils.cores import allowed_cores
from utils.errors import UserError


class Region(NamedTuple):
    """A connected part of a map above the threshold, in pixels of the picture as it was read."""

    box: tuple[int, int, int, int]  # left, top, right, bottom; the last two are behind the region
    area: float
    score: float  # the highest value in it

    def as_dict(self) -> dict[str, Any]:
        return {"box": list(self.box), "area": round(self.area, 1), "score": self.score}


class Prediction(NamedTuple):
    """What a run says of a picture [H,W,3]. Without a calibration only score and map are known."""

    score: float
    p_value: float | None
    decision: str | None  # accept or reject
    regions: list[Region]
    anomaly_map: np.ndarray  # [H,W] float32; where a crop cut the picture off, -inf
    milliseconds: float  # of the networks
    picture: np.ndarray


class Predictor:
    """Predictor("results/st/screw")(image) -> Prediction; an image is a path, or pixels [H,W,3] uint8 or uint16, RGB.

    Everything from resizing to the score is the code that tests and calibrates, in the run's precision. Raises
    UserError for a folder that is no finished run, and for an image that cannot be read.
    """

    def __init__(self, run: str | Path, overrides: Sequence[str] = ()):
        self.trainer = open_run(run, overrides)
        self.normal = self.trainer.metadata.get("normal")
        self.calibration = Calibration.of(self.normal, self.trainer.config.false_reject_rate)
        if self.calibration:
            _ = self.calibration.threshold  # a rate that it cannot promise is an error now
        self.fit = Fit.of(self.trainer.options)
        self.maps_of = AnomalyMaps(self.trainer.detector, self.trainer.compute)

    def __call__(self, image: str | Path | np.ndarray) -> Prediction:
        picture = image if isinstance(image, np.ndarray) else read_image(Path(image))
        return self.predict([picture])[0]

    def predict(self, pictures: Sequence[np.ndarray]) -> list[Prediction]:
        """Several pictures [H,W,3] of any sizes, in one batch."""
        batch = stacked([self.fit.image(picture) for picture in pictures])
        begin = time.perf_counter()
        maps = self.maps_of(batch)
        milliseconds = 1000 * (time.perf_counter() - begin) / len(pictures)
        return [self._judged(*pair, milliseconds) for pair in zip(pictures, maps, strict=True)]

    def stream(self, paths: Iterable[Path]) -> Iterator[tuple[Path, Prediction | UserError]]:
        """Predictions in the order of the paths, and the error of each file that cannot be read.

        Threads read the next files; memory does not grow with their number.
        """
        size, paths = min(self.trainer.options.batch_size, 16), iter(paths)
        with ThreadPoolExecutor(min(allowed_cores(), size)) as pool:
            while group := list(islice(paths, size)):
                read = list(pool.map(_read, group))
                pictures = [picture for picture in read if not isinstance(picture, UserError)]
                found = iter(self.predict(pictures) if pictures else [])
                for path, picture in zip(group, read, strict=True):
                    yield path, picture if isinstance(picture, UserError) else next(found)

    def _judged(self, picture: np.ndarray, fitted_map: np.ndarray, milliseconds: float) -> Prediction:
        shape = picture.shape[:2]
        top, left, bottom, right = self.fit.inside(shape)
        inside = fitted_map[top:bottom, left:right]
        score, calibration = image_score(inside), self.calibration
        whole = np.full(shape, -np.inf, np.float32)
        rows, columns = self.fit.source(shape)
        whole[rows, columns] = cv2.resize(inside, (columns.stop - columns.start, rows.stop - rows.start))
        regions = []
        if calibration:
            above = inside > calibration.threshold
            scale = ((rows.stop - rows.start) / above.shape[0], (columns.stop - columns.start) / above.shape[1])
            regions = [_region(part, inside, scale, (rows.start, columns.start)) for part in _parts(above)]
        return Prediction(
            score,
            calibration and calibration.p_value(score),
            calibration and calibration.decision(score),
            sorted(regions, key=lambda region: -region.score),
            whole,
            milliseconds,
            picture,
        )


def _read(path: Path) -> np.ndarray | UserError:
    try:
        return read_image(path)
    except UserError as error:
        return error


def _parts(above: np.ndarray) -> list[np.ndarray]:
    """The 8-connected parts of a mask [H,W], each as a mask."""
    count, labels = cv2.connectedComponents(above.astype(np.uint8), connectivity=8)
    return [labels == k for k in range(1, count)]


def _region(part: np.ndarray, anomaly_map: np.ndarray, scale: tuple[float, float], start: tuple[int, int]) -> Region:
    """`scale` and `start` (vertical, horizontal) lead from positions of the map to pixels of the picture."""
    rows, columns = np.nonzero(part)
    top, bottom = (start[0] + edge * scale[0] for edge in (rows.min(), rows.max() + 1))
    left, right = (start[1] + edge * scale[1] for edge in (columns.min(), columns.max() + 1))
    box = (int(left), int(top), int(np.ceil(right)), int(np.ceil(bottom)))
    return Region(box, float(part.sum() * scale[0] * scale[1]), float(anomaly_map[part].max()))
