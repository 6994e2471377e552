"""Large images as overlapping tiles, and the maps of the tiles as one map. Nothing here needs torch."""

import math
from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from utils.config import CommonData


class Tiles:
    """Images of `size` (height, width) as tiles of the size `tile`, and one map from the tiles' maps.

    The tiles are evenly spaced, and neighbours share at least `overlap` of a side. In a map, the weight of a tile falls
    from its middle to its edges (a squared sine), where the networks see the least of what is around. So the map has
    no seams, and its values are weighted means. At most `at_once` tiles are given to the networks together.
    """

    def __init__(self, size: Sequence[int], tile: Sequence[int], overlap: float, at_once: int):
        self.size, self.at_once = tuple(size), at_once
        starts = [_starts(side, part, overlap) for side, part in zip(size, tile, strict=True)]
        rows, columns = (_weighted(begins, side, part) for begins, side, part in zip(starts, size, tile, strict=True))
        self.places = [(down, across) for down, _ in rows for across, _ in columns]
        self.weights = [(down[:, None], across) for _, down in rows for _, across in columns]

    @classmethod
    def of(cls, options: "CommonData") -> "Tiles | None":
        """None if the networks see images as a whole."""
        if options.tile in (None, options.crop_size):
            return None
        return cls(options.crop_size, options.tile, options.overlap, options.batch_size)

    def __len__(self) -> int:
        return len(self.places)

    def cut(self, image: Any) -> list[Any]:
        """The tiles of an image [...,H,W], an array or a tensor: views [...,h,w], row by row."""
        return [image[..., rows, columns] for rows, columns in self.places]

    def blend(self, maps: Iterable[np.ndarray]) -> np.ndarray:
        """The maps [...,h,w] of all tiles, in the order of `cut` -> the map [...,H,W] float32 of the image."""
        whole = None
        for (rows, columns), (down, across), part in zip(self.places, self.weights, maps, strict=True):
            whole = np.zeros((*part.shape[:-2], *self.size), np.float32) if whole is None else whole
            whole[..., rows, columns] += down * part * across
        return whole

    def maps(self, images: Iterable[Any], maps_of: Callable[[list[Any]], Iterable[np.ndarray]]) -> np.ndarray:
        """Images [3,H,W] -> maps [B,...,H,W] float32; `maps_of` gives maps [...,h,w] of a list of tiles [3,h,w]."""
        return np.stack([self.blend(self._maps(self.cut(image), maps_of)) for image in images])

    def _maps(self, parts: list[Any], maps_of: Callable[[list[Any]], Iterable[np.ndarray]]) -> Iterable[np.ndarray]:
        for start in range(0, len(parts), self.at_once):
            yield from maps_of(parts[start : start + self.at_once])


def whole_maps(
    images: Sequence[Any],
    maps_of: Callable[[Any], np.ndarray],
    tiles: Tiles | None,
    batched: Callable[[list[Any]], Any] = list,
) -> np.ndarray:
    """Images [3,H,W] -> maps [B,...,H,W] float32, by tiles if there are.

    `maps_of` gives the maps of images that the networks see as a whole; `batched` makes of a list what it takes.
    """
    if tiles is None:
        return maps_of(images)
    return tiles.maps(images, lambda parts: maps_of(batched(parts)))


def _starts(side: int, part: int, overlap: float) -> list[int]:
    """Where the tiles begin along a side: the first at 0, the last at side - part."""
    step = max(1, math.floor(part * (1 - overlap)))
    count = 1 + math.ceil((side - part) / step)
    return np.linspace(0, side - part, count).round().astype(int).tolist()


def _weighted(starts: list[int], side: int, part: int) -> list[tuple[slice, np.ndarray]]:
    """The place of each tile along a side, and the weights [part] float32 of its pixels; those of a pixel sum to 1."""
    slope = np.sin(np.pi * (np.arange(part) + 0.5) / part) ** 2
    total = np.zeros(side)
    for start in starts:
        total[start : start + part] += slope
    places = [slice(start, start + part) for start in starts]
    return [(place, (slope / total[place]).astype(np.float32)) for place in places]
