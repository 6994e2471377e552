"""Metrics of test sets drawn with replacement, from how many pixels of each image have which value.

So the maps of a test need not be kept. For this the pixels' values are put into bins, which is exact enough for an
interval; the metrics that a test reports are not made of them.
"""

import csv
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from evaluation.metrics import MAX_FPR, Pixels, area
from utils.files import write_atomic

FILE = "pixels.npz"
BINS = 512
DRAWS_AT_ONCE = 100  # limits temporary arrays to some megabytes


class Counts(NamedTuple):
    """For each of N images, how many values are in each of K bins, the lowest first: [N,K] each.

    `coverage` is what the positives in a bin add to the coverage of the image's regions, the sum of the regions'
    covered fractions. It is zero for image scores, which have no regions.
    """

    negatives: np.ndarray
    positives: np.ndarray
    coverage: np.ndarray

    def of(self, images: np.ndarray) -> "Counts":
        """Of these images only, a mask [N] or indices."""
        return Counts(*(part[images] for part in self))

    def metrics(self, times: np.ndarray) -> dict[str, np.ndarray]:
        """auroc, ap, f1max and aupro [D] of D test sets in which each image is `times` [D,N] times.

        NaN where a test set has no positive, no negative or, for aupro, no region. Equal values (here: a bin) are one
        threshold, as in evaluation/metrics.py.
        """
        parts = [self._metrics(times[start : start + DRAWS_AT_ONCE]) for start in range(0, len(times), DRAWS_AT_ONCE)]
        return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}

    def _metrics(self, times: np.ndarray) -> dict[str, np.ndarray]:
        negatives, positives, coverage = (times @ part.astype(float) for part in self)  # [D,K]
        alarms, hits = (_from_above(part) for part in (negatives, positives))
        total, count, regions = (part.sum(1, keepdims=True) for part in (negatives, positives, coverage))
        above = alarms - negatives
        with np.errstate(invalid="ignore", divide="ignore"):
            return {
                "auroc": (positives * area(above, alarms, total)).sum(1) / count[:, 0],
                "ap": np.nansum(positives * (hits / (hits + alarms)), 1) / count[:, 0],
                "f1max": np.where(count[:, 0] > 0, (2 * hits / (hits + alarms + count)).max(1), np.nan),
                "aupro": (coverage * area(above, alarms, MAX_FPR * total)).sum(1) / regions[:, 0],
            }


def _from_above(counts: np.ndarray) -> np.ndarray:
    """How many values [D,K] are in a bin or above it."""
    return counts[:, ::-1].cumsum(1)[:, ::-1]


def of_scores(scores: np.ndarray, defective: np.ndarray) -> Counts:
    """Of image scores [N] with defective [N] bool: each distinct score is a bin, so its metrics are exact."""
    values, bins = np.unique(scores, return_inverse=True)
    ones = np.zeros((len(scores), len(values)))
    ones[np.arange(len(scores)), bins] = 1
    return Counts(ones * ~defective[:, None], ones * defective[:, None], np.zeros_like(ones))


class _Counted(NamedTuple):
    """How many values have a code, or the sum of their weights; only the codes that are there, ascending."""

    codes: np.ndarray
    counts: np.ndarray


class PixelCounts:
    """Counts the pixels of images that come one by one, in any order; `images` is their number."""

    def __init__(self, images: int):
        self.found: list[tuple[_Counted, ...]] = [()] * images

    def add(self, index: int, pixels: Pixels) -> None:
        negatives, positives = _codes(pixels.negatives), _codes(pixels.positives)
        self.found[index] = (_counted(negatives), _counted(positives), _counted(positives, pixels.weights))

    def counts(self, bins: int = BINS) -> Counts:
        """In about `bins` bins, each with few of all positives and few of all negatives."""
        parts = list(zip(*self.found, strict=True))
        codes = np.unique(np.concatenate([each.codes for part in parts for each in part]))
        share = sum(_shares(part, codes) for part in parts[:2])  # of the positives and of the negatives
        bin_of = (share.cumsum() * bins / 2 - 1e-9).astype(int)
        rows = [
            [np.bincount(bin_of[codes.searchsorted(each.codes)], each.counts, bin_of[-1] + 1) for each in part]
            for part in parts
        ]
        return Counts(*(np.array(row, np.float32) for row in rows))

    def write(self, folder: Path) -> None:
        counts = self.counts()._asdict()
        write_atomic(folder / FILE, lambda path: np.savez_compressed(path, **counts))


class Outcome(NamedTuple):
    """What a test found on N images: their types [N], and the counts of scores and pixels, as far as they are known."""

    types: np.ndarray
    scores: Counts | None
    pixels: Counts | None

    @classmethod
    def read(cls, run_dir: Path, metrics: Mapping[str, float]) -> "Outcome":
        """Of a tested run with these metrics. Its scores are not known if the test left images out."""
        with (run_dir / "scores.csv").open(newline="", encoding="utf-8", errors="surrogateescape") as file:
            rows = list(csv.DictReader(file))
        types = np.array([row["defect_type"] for row in rows])
        scores = of_scores(np.array([float(row["score"]) for row in rows]), types != "good")
        whole = scores.metrics(np.ones((1, len(rows))))["auroc"][0]
        pixels = run_dir / FILE
        return cls(
            types,
            scores if abs(whole - metrics.get("image_auroc", np.nan)) < 1e-6 else None,
            _read(pixels) if "aupro" in metrics and pixels.exists() else None,
        )

    def of_type(self, defect: str) -> "Outcome":
        """Only the good images, and those with this defect."""
        chosen = (self.types == "good") | (self.types == defect)
        return Outcome(self.types[chosen], *(part and part.of(chosen) for part in self[1:]))

    def metrics(self, times: np.ndarray) -> dict[str, np.ndarray]:
        """Each metric [D] that is known, of D test sets in which each image is `times` [D,N] times."""
        scores, pixels = (part.metrics(times) if part else {} for part in self[1:])
        scores.pop("aupro", None)
        regions = {"aupro": pixels.pop("aupro")} if pixels else {}
        return {f"image_{k}": v for k, v in scores.items()} | {f"pixel_{k}": v for k, v in pixels.items()} | regions


def _read(path: Path) -> Counts:
    with np.load(path) as file:
        return Counts(*(file[name] for name in Counts._fields))


def _codes(values: np.ndarray) -> np.ndarray:
    """Whole numbers in the order of the values; those that differ by less than 1 % may have the same."""
    bits = values.astype(np.float32).view(np.int32)
    bits ^= (bits >> 31) & 0x7FFFFFFF  # a float's bits ascend with its value, a negative one's descend
    return bits >> 16


def _counted(codes: np.ndarray, weights: np.ndarray | None = None) -> _Counted:
    if not len(codes):
        return _Counted(codes, np.empty(0))
    low = codes.min()
    counts = np.bincount(codes - low, weights)
    there = np.flatnonzero(counts)
    return _Counted((there + low).astype(np.int16), counts[there].astype(np.float32))


def _shares(part: Sequence[_Counted], codes: np.ndarray) -> np.ndarray:
    """Of all values of a kind, the share that has each code."""
    found = codes.searchsorted(np.concatenate([each.codes for each in part]))
    counts = np.bincount(found, np.concatenate([each.counts for each in part]), len(codes))
    return counts / max(counts.sum(), 1)
