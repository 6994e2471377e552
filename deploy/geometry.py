"""Connected parts of masks, and maps and masks in other sizes. Nothing here needs torch."""

import numpy as np
from PIL import Image

from datasets.fit import BILINEAR


def connected_parts(mask: np.ndarray) -> list[tuple[np.ndarray, np.ndarray]]:
    """The 8-connected parts of a mask [H,W] bool in the order of their first pixels: rows and columns [N] of each.

    Runs of pixels in a row are joined with those they touch in the row above (union-find).
    """
    edges = np.diff(np.pad(mask, ((0, 0), (1, 1))).astype(np.int8), axis=1)
    runs = list(zip(*np.nonzero(edges == 1), np.nonzero(edges == -1)[1], strict=True))  # row, first, behind the last
    parent = list(range(len(runs)))

    def root(k: int) -> int:
        while parent[k] != k:
            parent[k] = k = parent[parent[k]]
        return k

    above = 0  # the first run that may touch the current one
    for k, (row, first, end) in enumerate(runs):
        while runs[above][0] < row - 1 or (runs[above][0] == row - 1 and runs[above][2] < first):
            above += 1
        other = above
        while runs[other][0] == row - 1 and runs[other][1] <= end:
            low, high = sorted((root(k), root(other)))
            parent[high] = low
            other += 1
    parts: dict[int, list[tuple[int, int, int]]] = {}
    for k, run in enumerate(runs):
        parts.setdefault(root(k), []).append(run)
    return [_pixels(part) for part in parts.values()]


def _pixels(runs: list[tuple[int, int, int]]) -> tuple[np.ndarray, np.ndarray]:
    rows, firsts, ends = np.array(runs).T
    return np.repeat(rows, ends - firsts), np.concatenate([np.arange(*run) for run in zip(firsts, ends, strict=True)])


def resized(values: np.ndarray, size: tuple[int, int], how: Image.Resampling) -> np.ndarray:
    """A map or mask [h,w] -> [H,W]. Where it gets smaller, a pixel has the highest of the values that it shows.

    So nothing that decided is lost: the highest value stays, and a mask with a region is not empty.
    """
    for axis, (have, want) in enumerate(zip(values.shape, size, strict=True)):
        if want < have:
            edges = [(k * have // want, -(-(k + 1) * have // want)) for k in range(want)]
            # Of the values from each edge to the next; every second of them lies between two pixels. The last edge is
            # the end, which may not be given.
            values = np.maximum.reduceat(values, np.ravel(edges)[:-1], axis)
            values = values.take(range(0, 2 * want, 2), axis)
    return np.asarray(Image.fromarray(values).resize(size[::-1], how))


def resized_inside(anomaly_map: np.ndarray, region: np.ndarray | None, size: tuple[int, int]) -> np.ndarray:
    """A map [h,w] -> [H,W], from its values in a region [h,w] bool alone. Outside, it has its lowest value.

    Bilinear values are weighted means, here of the pixels inside: others would make the map lower at the rim.
    """
    if region is None:
        return resized(anomaly_map, size, BILINEAR)
    lowest, weight = anomaly_map.min(), resized(region.astype(np.float32), size, BILINEAR)
    return lowest + resized(anomaly_map - lowest, size, BILINEAR) / np.maximum(weight, np.finfo(np.float32).tiny)
