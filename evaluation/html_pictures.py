"""The small pictures on a test's page: WebP in the page itself or, if there are many images, in a folder beside it."""

import base64
import contextlib
import io
import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from datasets.regions import lowest_outside
from datasets.sample import Sample
from evaluation.colours import Scale, colour_scale
from evaluation.outline import OUTLINE, outlined
from evaluation.score import Scored
from utils.files import replacing

SIDE = 256  # pixels: the area of a picture is this squared
INLINE = 300  # images whose pictures are in the page
WITH_LEVELS = 1000  # images; of more, the levels are not shown, because all are kept until the colours are known
QUALITY = {"quality": 66, "method": 0}  # about 15 kB; slower methods save a tenth
FOLDER = "report_pictures"


class Thumbnails:
    """The pictures of each image by their views: image, mask (its outline, if there is one), map, level 1 and so on.

    They are kept as bytes without a `folder`, and written into it otherwise.
    """

    def __init__(self, samples: Sequence[Sample], folder: Path | None):
        self.samples, self.folder = samples, folder
        self.views: list[dict[str, bytes]] = [{} for _ in samples]  # without bytes if they are in the folder
        self.sizes: list[tuple[int, int]] = [(SIDE, SIDE)] * len(samples)  # width and height
        self.levels: dict[int, Sequence[np.ndarray]] = {}
        self.level_scales: list[Scale] = []

    def add(self, result: Scored, image: np.ndarray, scale: Scale, aspect: float) -> None:
        """Draw an image [H,W,3] uint8 with the map and the mask of its result; several threads may do so."""
        size = self.sizes[result.index] = round(SIDE * aspect**0.5), round(SIDE / aspect**0.5)
        self._put(result.index, "image", Image.fromarray(image).resize(size, Image.Resampling.BILINEAR))
        heat = Image.fromarray(shrunk(result.anomaly_map, max(size)).astype(np.float32))
        heat = heat.resize(size, Image.Resampling.BILINEAR)
        self._put(result.index, "map", Image.fromarray(scale.colour(np.asarray(heat))))
        if result.mask.any():
            self._put(result.index, "mask", _outline(result.mask, size), lossless=True)
        if len(self.samples) <= WITH_LEVELS:
            shown = result.levels
            if result.region is not None:
                shown = [_looked_at(level, result.region) for level in shown]
            self.levels[result.index] = shown

    def draw_levels(self) -> None:
        """The levels of all images, each level with one scale: how its values compare with those of good images."""
        good = [k for k in self.levels if self.samples[k].defect_type == "good"]
        for number in range(len(next(iter(self.levels.values()), ()))):
            highest = [float(self.levels[k][number].max()) for k in good]
            normal = {"source": "good test images", "scores": highest} if good else None
            for index, levels in self.levels.items():
                scale = colour_scale(normal, levels[number])
                self._put(index, f"level {number + 1}", Image.fromarray(scale.colour(levels[number])))
            self.level_scales.append(scale)
        self.levels.clear()

    def sources(self, index: int) -> dict[str, str]:
        """For the page: the addresses of an image's pictures by view."""
        if self.folder is not None:
            return {view: f"{FOLDER}/{_file(index, view)}" for view in self.views[index]}
        return {
            view: "data:image/webp;base64," + base64.b64encode(coded).decode()
            for view, coded in self.views[index].items()
        }

    def picture(self, index: int, view: str) -> Image.Image:
        coded = self.views[index][view]
        return Image.open(io.BytesIO(coded) if self.folder is None else self.folder / _file(index, view))

    def _put(self, index: int, view: str, picture: Image.Image, **how: Any) -> None:
        coded = io.BytesIO()
        picture.save(coded, "WEBP", **(QUALITY | how))
        self.views[index][view] = coded.getvalue() if self.folder is None else b""
        if self.folder is not None:
            (self.folder / _file(index, view)).write_bytes(coded.getvalue())


def _file(index: int, view: str) -> str:
    """Numbers, because the names of the images may be anything."""
    return f"{index:06}_{view.replace(' ', '')}.webp"


@contextlib.contextmanager
def thumbnails(run_dir: Path, samples: Sequence[Sample]) -> Iterator[Thumbnails]:
    """To fill in the block; at its end the pictures replace those of an earlier test, unless there was an error.

    Raises UserError naming the folder if it cannot be written.
    """
    folder = run_dir / FOLDER
    if len(samples) <= INLINE:
        found = Thumbnails(samples, None)
        yield found
        found.draw_levels()
        shutil.rmtree(folder, ignore_errors=True)
        return
    with replacing(folder) as fresh:
        found = Thumbnails(samples, fresh)
        yield found
        found.draw_levels()
    found.folder = folder


def shrunk(values: np.ndarray, side: int) -> np.ndarray:
    """[H,W] -> the same with at most `side` rows and columns: the highest value of each block, so a spot stays."""
    for axis, have in enumerate(values.shape):
        if have > side:
            values = np.maximum.reduceat(values, np.arange(side) * have // side, axis)
    return values


def _looked_at(level: np.ndarray, region: np.ndarray) -> np.ndarray:
    """A level [h,w] that has its lowest value outside of the region of interest [H,W] bool, as the map has."""
    inside = np.asarray(Image.fromarray(region).resize(level.shape[::-1], Image.Resampling.NEAREST))
    return lowest_outside(level, inside) if inside.any() else level


def _outline(mask: np.ndarray, size: tuple[int, int]) -> Image.Image:
    """The outline of a mask [H,W] bool on a transparent picture of `size` (width, height)."""
    line = np.asarray(outlined(Image.new("RGB", size), mask))
    alpha = (line == OUTLINE).all(axis=2, keepdims=True).astype(np.uint8) * 255
    return Image.fromarray(np.concatenate([line, alpha], axis=2))
