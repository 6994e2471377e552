"""The outline of a region on a picture."""

from collections.abc import Sequence

import numpy as np
from PIL import Image

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
    region = np.asarray(region) > 0
    inner = ~widened(np.pad(~region, 1, constant_values=True), 1)[1:-1, 1:-1]
    pixels = np.array(picture)
    pixels[widened(region, round(unit_of(picture.size)) // 2) & ~inner] = OUTLINE
    return Image.fromarray(pixels)


def widened(mask: np.ndarray, reach: int) -> np.ndarray:
    """A mask [H,W] bool, and all that is at most `reach` rows and columns away from it.

    A maximum filter of Pillow gives the same, but it also takes time for each pixel of its window.
    """
    mask = mask.copy()
    for axis in (0, 1):
        lines, done = np.moveaxis(mask, axis, 0), 0
        while done < reach:
            step = min(done + 1, reach - done)  # no gap, also where an edge has cut off one half of what is widened
            before, done = lines.copy(), done + step
            lines[step:] |= before[:-step]
            lines[:-step] |= before[step:]
    return mask


def dimmed(pixels: np.ndarray, region: np.ndarray) -> np.ndarray:
    """[H,W,3] uint8 -> the same, dark outside of a region [H,W] bool."""
    return np.where(region[..., None], pixels, pixels // DIMMED)
