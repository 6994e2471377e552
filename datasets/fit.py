"""From pictures of any size to the one size that the networks take."""

import math
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from PIL import Image

if TYPE_CHECKING:
    from utils.config import CommonData

BILINEAR = Image.Resampling.BILINEAR
ALIKE = 1.25  # ratio of two aspect ratios that are nearly the same
LONGEST, STEPS = 4, (32, 64)  # of a suggested size: the largest ratio of its sides; its longer one is a multiple

Box = tuple[int, int, int, int]  # top, left, bottom, right in pixels; bottom and right are behind the last


class Fit(NamedTuple):
    """Resize to `img_size`, then crop the centre of `crop_size`; sizes are (height, width).

    Without `pad` the picture is resized to exactly `img_size`. With it, the aspect ratio is kept, and the outermost
    pixels are repeated until the size is reached.
    """

    img_size: Sequence[int]
    crop_size: Sequence[int]
    pad: bool = False

    @classmethod
    def of(cls, options: "CommonData") -> "Fit":
        return cls(options.img_size, options.crop_size, options.fit == "pad")

    def image(self, pixels: np.ndarray) -> np.ndarray:
        """Bilinear, antialiased: [H,W,3] uint8 or uint16 -> [3,h,w] of the same type."""
        height, width = self._resized(pixels.shape[:2])
        if pixels.dtype == np.uint16:  # Pillow has no such colours: each channel on its own
            channels = [Image.fromarray(pixels[..., k].astype(np.float32)) for k in range(3)]
            image = np.stack([channel.resize((width, height), BILINEAR) for channel in channels])
            image = image.round().astype(np.uint16)
        else:
            image = np.asarray(Image.fromarray(pixels).resize((width, height), BILINEAR)).transpose(2, 0, 1)
        return self._placed(image, pixels.shape[:2], "edge")

    def mask(self, mask: np.ndarray) -> np.ndarray:
        """Nearest pixel: [H,W] bool -> [h,w] bool. What is not in the picture is no defect."""
        height, width = self._resized(mask.shape)
        image = np.asarray(Image.fromarray(mask).resize((width, height), Image.Resampling.NEAREST))
        return self._placed(image[None], mask.shape, "constant")[0]

    def inside(self, shape: Sequence[int]) -> Box:
        """The part of the result that shows the picture; the rest is repeated pixels."""
        crops = [_centre(have, want) for have, want in zip(self.img_size, self.crop_size, strict=True)]
        begins, ends = [], []
        for (before, after), crop, have, want in zip(
            self._margins(shape), crops, self.img_size, self.crop_size, strict=True
        ):
            begins.append(max(before - crop, 0))
            ends.append(min(have - after - crop, want))
        return (*begins, *ends)

    def source(self, shape: Sequence[int]) -> tuple[slice, slice]:
        """The rows and columns of a picture of `shape` that are inside; a crop cuts off the others."""
        box, crops = self.inside(shape), (_centre(h, w) for h, w in zip(self.img_size, self.crop_size, strict=True))
        found = []
        for begin, end, crop, (before, _), have, resized in zip(
            box[:2], box[2:], crops, self._margins(shape), shape, self._resized(shape), strict=True
        ):
            first, last = ((edge + crop - before) * have / resized for edge in (begin, end))
            found.append(slice(round(first), max(round(last), round(first) + 1)))
        return tuple(found)

    def aspect(self, shape: Sequence[int]) -> float:
        """Width / height, in a picture of `shape`, of the part that is inside."""
        top, left, bottom, right = self.inside(shape)
        height, width = self._resized(shape)
        return (right - left) * shape[1] / width / ((bottom - top) * shape[0] / height)

    def _resized(self, shape: Sequence[int]) -> tuple[int, int]:
        if not self.pad:
            return tuple(self.img_size)
        scale = min(want / have for have, want in zip(shape, self.img_size, strict=True))
        return tuple(max(1, round(scale * have)) for have in shape)

    def _margins(self, shape: Sequence[int]) -> list[tuple[int, int]]:
        """Rows above and below, columns left and right of the resized picture."""
        missing = [want - have for have, want in zip(self._resized(shape), self.img_size, strict=True)]
        return [(m // 2, m - m // 2) for m in missing]

    def _placed(self, image: np.ndarray, shape: Sequence[int], mode: str) -> np.ndarray:
        """Pad and crop: [C,H',W'], a picture of `shape` resized -> [C,h,w]."""
        if self.pad:
            image = np.pad(image, [(0, 0), *self._margins(shape)], mode)
        top, left = (_centre(have, want) for have, want in zip(self.img_size, self.crop_size, strict=True))
        return np.ascontiguousarray(image[:, top : top + self.crop_size[0], left : left + self.crop_size[1]])


def in_box(maps: Any, box: Box, size: Sequence[int]) -> Any:
    """The part of maps [...,h,w], an array or a tensor, that lies in a box of an image of `size`, even if in part.

    So without the image's padding.
    """
    top, left, bottom, right = (
        edge * have / want for edge, have, want in zip(box, tuple(maps.shape[-2:]) * 2, tuple(size) * 2, strict=True)
    )
    return maps[..., math.floor(top) : math.ceil(bottom), math.floor(left) : math.ceil(right)]


def aspect_ratios(shapes: Sequence[tuple[int, int]]) -> list[float]:
    """The smallest and the largest width / height of files of these sizes (height, width)."""
    ratios = [width / height for height, width in shapes]
    return [min(ratios), max(ratios)]


def advice(shapes: Sequence[tuple[int, int]], fit: Fit, takes: Callable[[tuple[int, int]], bool]) -> str | None:
    """A sentence on files of these sizes, if resizing changes their shape by more than a quarter.

    It suggests an img_size of their shape if they are alike and the networks take it, or padding.
    """
    height, width = np.median(shapes, axis=0)
    least, usual, most = np.percentile([width / height for height, width in shapes], [10, 50, 90])
    change = usual * fit.img_size[0] / fit.img_size[1]
    into = "squeezed to {} x {} (height x width)".format(*fit.img_size)
    if fit.pad or (most < ALIKE * least and 1 / ALIKE < change < ALIKE):
        return None
    if most > ALIKE * least:
        return f"the images have different shapes and are {into}; TrainingData.fit=pad keeps their shapes"
    sentence = f"the images are about {width:.0f} pixels wide and {height:.0f} high, and are {into}; TrainingData."
    short, ratio = min(fit.img_size), max(usual, 1 / usual)
    longs = [round(short * min(ratio, LONGEST) / step) * step for step in STEPS]
    size = next(filter(takes, [(short, long) if usual > 1 else (long, short) for long in longs]), None)
    if size is None:
        return f"{sentence}fit=pad keeps their shape"
    if size == tuple(fit.img_size):
        return None
    keeps = "keeps their shape" if ratio < ALIKE * LONGEST else "is closer to their shape"
    times = f"{math.prod(size) / math.prod(fit.img_size):.1f}"
    cost = "" if times == "1.0" else f", with {times} times as many pixels"
    return f"{sentence}img_size=[{size[0]},{size[1]}] {keeps}{cost}"


def _centre(have: int, want: int) -> int:
    """Where a crop begins, rounded as in torchvision's CenterCrop."""
    return round((have - want) / 2)
