"""The outline of a region on a picture."""

from collections.abc import Sequence

import numpy as np
from PIL import Image, ImageFilter, ImageOps

SMALLEST = 256  # pixels per side of a picture whose lines are one pixel wide
OUTLINE = (0, 255, 160)
DIMMED = 4  # what is not looked at is darker by this factor


def unit_of(size: Sequence[int]) -> float:
    """How many pixels are one pixel of a small picture: text and lines grow with the picture."""
    return max(1.0, (size[0] * size[1]) ** 0.5 / SMALLEST)


def outlined(picture: Image.Image, mask: np.ndarray) -> Image.Image:
    """The picture with the outline of a mask [H,W] bool, which may have another size."""
    # BOX keeps whole pixels when the mask is enlarged, and loses none when it shrinks.
    region = Image.fromarray(mask.astype(np.uint8) * 255).resize(picture.size, Image.Resampling.BOX)
    region = region.point(lambda value: 255 * (value > 0))
    width = 2 * (round(unit_of(picture.size)) // 2) + 1  # of the filter: an odd number
    inner = ImageOps.crop(ImageOps.expand(region, 1).filter(ImageFilter.MinFilter(3)), 1)
    # Pillow 12.3 divides by zero in a filter of one pixel, and the process ends.
    outer = region.filter(ImageFilter.MaxFilter(width)) if width > 1 else region
    edge = np.asarray(outer) != np.asarray(inner)
    pixels = np.array(picture)
    pixels[edge] = OUTLINE
    return Image.fromarray(pixels)


def dimmed(pixels: np.ndarray, region: np.ndarray) -> np.ndarray:
    """[H,W,3] uint8 -> the same, dark outside of a region [H,W] bool."""
    return np.where(region[..., None], pixels, pixels // DIMMED)
