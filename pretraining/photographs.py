"""Random views of a few photographs: what natural images add to formula-made pictures."""

import functools
from importlib.util import find_spec
from pathlib import Path

import cv2
import numpy as np
from numpy.random import Generator, default_rng

from datasets.folder import FolderImages
from datasets.images import eight_bits, read_image
from utils.errors import UserError

INSTALLED = "scikit-image"  # the value that means the photographs of this pip package
# Those of its pictures that a camera or a microscope took, without written pages.
SHIPPED = ("astronaut.png", "brick.png", "camera.png", "cell.png", "chelsea.png", "clock_motion.png", "coffee.png")
SHIPPED += ("coins.png", "grass.png", "gravel.png", "hubble_deep_field.jpg", "ihc.png", "moon.png")
SHIPPED += ("motorcycle_left.png", "motorcycle_right.png", "retina.jpg", "rocket.jpg")


class PhotographViews:
    """View `index` for every index >= 0: [size,size,3] uint8 RGB, which depends on (seed, index) and the files only.

    A view is a part of one photograph (at least 1/8 of its shorter side, with an aspect ratio of 3:4 to 4:3), flipped
    or turned by quarters, in other light and colours. Strongly augmented views of even a single photograph can carry
    much of what a network learned (Asano and Saeed, "The Augmented Image Prior", ICLR 2023). Raises UserError for a
    folder without images, a file that cannot be read, or a package that is not installed.
    """

    def __init__(self, folder: str, size: int, seed: int):
        self.paths, self.size, self.seed = _paths(folder), size, seed
        self._read = functools.lru_cache(maxsize=64)(lambda path: eight_bits(read_image(path)))

    def __getitem__(self, index: int) -> np.ndarray:
        rng = default_rng((self.seed, 3, index))
        part = _part(self._read(self.paths[rng.integers(len(self.paths))]), rng)
        shrinks = min(part.shape[:2]) > self.size
        view = cv2.resize(part, (self.size, self.size), interpolation=cv2.INTER_AREA if shrinks else cv2.INTER_CUBIC)
        view = np.rot90(view, rng.integers(4))
        return np.ascontiguousarray(_other_light(view[:, :: rng.choice((-1, 1))], rng))

    def fingerprint(self) -> str:
        """The number of files and the names of them all: if it is the same, an index still means the same view."""
        return f"{len(self.paths)} {' '.join(path.name for path in self.paths)}"


def _paths(folder: str) -> list[Path]:
    if folder != INSTALLED:
        return FolderImages("photographs", folder, (1, 1)).paths
    package = find_spec("skimage")
    if package is None:
        raise UserError(f"photographs: {INSTALLED} is not installed: pip install -r requirements-dev.txt")
    return [Path(package.origin).parent / "data" / name for name in SHIPPED]


def _part(photograph: np.ndarray, rng: Generator) -> np.ndarray:
    height, width = photograph.shape[:2]
    side = min(height, width) * np.exp(rng.uniform(np.log(1 / 8), 0))
    ratio = np.sqrt(np.exp(rng.uniform(np.log(3 / 4), np.log(4 / 3))))
    h, w = min(height, max(8, round(side * ratio))), min(width, max(8, round(side / ratio)))
    y, x = rng.integers(height - h + 1), rng.integers(width - w + 1)
    return photograph[y : y + h, x : x + w]


def _other_light(view: np.ndarray, rng: Generator) -> np.ndarray:
    """Other gamma, contrast, saturation and white balance."""
    pixels = (view / np.float32(255)) ** np.float32(np.exp(rng.uniform(-0.5, 0.5)))
    gray = pixels.mean(axis=2, keepdims=True)
    pixels = gray + (pixels - gray) * np.float32(rng.uniform(0.3, 1.7))
    pixels = (pixels - pixels.mean()) * np.float32(rng.uniform(0.6, 1.3)) + pixels.mean()
    return (255 * pixels * rng.uniform(0.8, 1.2, 3).astype(np.float32)).clip(0, 255).astype(np.uint8)
