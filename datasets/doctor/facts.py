"""What is measured of each file of a data set."""

import hashlib
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np
from PIL import Image
from scipy.fft import dctn

from datasets.doctor.layout import Picture
from datasets.images import ANY_SIZE, read_image, read_mask
from datasets.listing import contents, is_folder
from utils.cores import allowed_cores
from utils.errors import UserError
from utils.progress import progress

FREQUENCIES = 24  # of a pattern, in both directions
CHANNELS = {"1": "gray", "L": "gray", "I": "gray", "LA": "gray with alpha", "P": "palette"}  # others: Pillow's name


class Facts(NamedTuple):
    """Of one picture and its mask; no pixels are kept. What is measured is None if `error` says why it is not."""

    picture: Picture
    error: str | None = None
    shape: tuple[int, int] = (0, 0)  # height and width
    channels: str = ""  # gray, RGB, RGBA, palette ...
    depth: int = 0  # bits per channel
    file_size: int = 0  # bytes
    brightness: float = 0.0  # the mean gray level, 0 to 255
    contrast: float = 0.0  # the standard deviation of the gray levels
    outside: tuple[float, float] = (0.0, 0.0)  # both, of the pixels that the mask does not mark
    digest: bytes = b""  # the same for the same pixels
    pattern: np.ndarray | None = None  # see `pattern_of`
    mask_error: str | None = None
    mask_shape: tuple[int, int] | None = None
    mask_share: float | None = None  # of the picture's pixels
    remarks: tuple[str, ...] = ()  # what was left out or assumed, in sentences

    @property
    def kind(self) -> str:
        """RGB, 8 bits."""
        return f"{self.channels}, {self.depth} bits"


def facts_of(pictures: Sequence[Picture]) -> Iterator[Facts]:
    """In order. Each thread has one picture in memory: decoding releases the interpreter lock."""
    with ThreadPoolExecutor(min(allowed_cores(), 16)) as pool:
        yield from progress(pool.map(look_at, pictures), "reading pictures", len(pictures))


def look_at(picture: Picture) -> Facts:
    """Read a picture and its mask; what cannot be read is told in the result."""
    remarks: list[str] = []
    facts, mask = _with_mask(picture, remarks)
    try:
        pixels = read_image(picture.path, remarks.append)
    except UserError as error:
        return facts._replace(error=str(error), remarks=tuple(remarks))
    scale = 255 / np.iinfo(pixels.dtype).max
    gray = cv2.cvtColor(pixels, cv2.COLOR_RGB2GRAY)
    brightness, contrast = (float(each.item() * scale) for each in cv2.meanStdDev(gray))
    outside = brightness, contrast
    if mask is not None and mask.shape == gray.shape and not mask.all():
        outside = tuple(float(each.item() * scale) for each in cv2.meanStdDev(gray, mask=(~mask).view(np.uint8)))
    return facts._replace(
        shape=pixels.shape[:2],
        channels=_channels(picture.path),
        depth=pixels.dtype.itemsize * 8,
        file_size=picture.path.stat().st_size,
        brightness=brightness,
        contrast=contrast,
        outside=outside,
        digest=hashlib.sha256(f"{pixels.shape} {pixels.dtype}".encode() + pixels.tobytes()).digest(),
        pattern=pattern_of(gray.astype(np.float32)),
        remarks=tuple(remarks),
    )


def pattern_of(gray: np.ndarray) -> np.ndarray:
    """A picture [H,W] float32 as its lowest frequencies but the mean [FREQUENCIES^2 - 1] float32, of length 1.

    The same for every size, brightness and contrast; 0 for a picture of one colour. As the perceptual hash pHash
    (Zauner, "Implementation and benchmarking of perceptual image hash functions", 2010), but as numbers, not bits:
    `datasets.doctor.copies` compares them with those of the other pictures first.
    """
    small = cv2.resize(gray, (2 * FREQUENCIES, 2 * FREQUENCIES), interpolation=cv2.INTER_AREA)
    pattern = dctn(small, norm="ortho")[:FREQUENCIES, :FREQUENCIES].ravel()[1:]
    return pattern / max(np.linalg.norm(pattern), 1e-3)


def _channels(path: Path) -> str:
    with ANY_SIZE, Image.open(path) as image:
        mode = image.mode.partition(";")[0]
    return CHANNELS.get(mode, mode)


def _with_mask(picture: Picture, remarks: list[str]) -> tuple[Facts, np.ndarray | None]:
    """What is known of the mask, and the mask [H,W] bool, if it can be read."""
    if picture.mask is None:
        return Facts(picture), None
    paths = contents(picture.mask).images if is_folder(picture.mask) else [picture.mask]
    try:
        masks = [read_mask(path, remarks.append) for path in paths]
    except UserError as error:
        return Facts(picture, mask_error=str(error)), None
    shapes = {mask.shape for mask in masks}
    if len(shapes) != 1:
        return Facts(picture, mask_error=f"{picture.mask}: this folder has no masks, or masks of different sizes"), None
    mask = np.any(masks, axis=0)
    return Facts(picture, mask_shape=mask.shape, mask_share=float(mask.mean())), mask
