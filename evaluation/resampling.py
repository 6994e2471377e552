"""Metrics of test sets drawn with replacement: of image scores, and of pixels without keeping the maps.

For this the pixels' values are put into bins, which is exact enough for an interval; the metrics that a test reports
are not made of them.
"""

import csv
import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from evaluation.metrics import MAX_FPR, PixelMetrics, area
from utils.files import write_atomic

FILE = "pixels.npz"
BINS = 512
SAMPLE = 100_000  # values that choose the bins
DRAWS_AT_ONCE = 100  # limits temporary arrays
IMAGE = ("image_auroc", "image_ap", "image_f1max")
PIXEL = ("pixel_auroc", "pixel_ap", "pixel_f1max", "aupro")


class Scores(NamedTuple):
    """Of N images: their scores [N], and whether they are defective [N] bool."""

    scores: np.ndarray
    defective: np.ndarray

    def of(self, images: np.ndarray) -> "Scores":
        """Of these images only, a mask [N]."""
        return Scores(*(part[images] for part in self))

    def drawn(self, times: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """How many good and how many defective images have each distinct score [D,K], the lowest first."""
        order = self.scores.argsort()
        starts = np.flatnonzero(np.r_[True, np.diff(self.scores[order]) > 0])
        kinds = (times * ~self.defective, times * self.defective)
        return tuple(np.add.reduceat(kind[:, order], starts, axis=1) for kind in kinds)


class Counts(NamedTuple):
    """For each of N images, how many pixels have a value in each of K bins, the lowest first: [N,K] each.

    `coverage` is the sum of the covered fractions of the image's regions that the positives in a bin add.
    """

    negatives: np.ndarray
    positives: np.ndarray
    coverage: np.ndarray

    def of(self, images: np.ndarray) -> "Counts":
        """Of these images only, a mask [N]."""
        return Counts(*(part[images] for part in self))

    def drawn(self, times: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """The counts [D,K] of D test sets in which each image is `times` [D,N] times."""
        return tuple(times @ part.astype(float) for part in self)


def pixel_counts(pixels: PixelMetrics, order: Sequence[int]) -> Counts:
    """Of all images, before any metric of `pixels` is computed; `order` is the index of each that was added.

    In about `BINS` bins: each has few of the positives, and few of the negatives that are at least as high as it is,
    because a precision depends on their number.
    """
    images = list(pixels.images())
    step = max(1, sum(len(negatives) for negatives, *_ in images) // SAMPLE)
    low = np.concatenate([negatives[::step] for negatives, *_ in images])
    high = np.concatenate([positives for _, positives, _ in images])
    shares = 1 - np.geomspace(1 / len(low), 1, BINS // 2), np.linspace(0, 1, BINS // 2)
    edges = np.unique([np.quantile(*each, method="inverted_cdf") for each in zip((low, high), shares, strict=True)])
    counts = np.zeros((3, len(images), len(edges) + 1), np.float32)
    for row, (negatives, positives, weights) in zip(order, images, strict=True):
        low, high = edges.searchsorted(negatives), edges.searchsorted(positives)
        for part, bins, weight in zip(counts, (low, high, high), (None, None, weights), strict=True):
            part[row] = np.bincount(bins, weight, len(edges) + 1)
    return Counts(*counts)


def metrics(counts: Scores | Counts, times: np.ndarray) -> dict[str, np.ndarray]:
    """auroc, ap, f1max and, of pixels, aupro [D] of D test sets in which each image is `times` [D,N] times.

    NaN where a test set has no positive, no negative or no region. Equal values, those of a bin, are one threshold, as
    in evaluation/metrics.py.
    """
    starts = range(0, len(times), DRAWS_AT_ONCE)
    parts = [_metrics(*counts.drawn(times[start : start + DRAWS_AT_ONCE])) for start in starts]
    return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}


def _metrics(negatives: np.ndarray, positives: np.ndarray, coverage: np.ndarray | None = None) -> dict[str, np.ndarray]:
    alarms, hits = _from_above(negatives), _from_above(positives)
    total, count = negatives.sum(1, keepdims=True), positives.sum(1, keepdims=True)
    above = alarms - negatives
    with np.errstate(invalid="ignore", divide="ignore"):
        found = {
            "auroc": (positives * area(above, alarms, total)).sum(1) / count[:, 0],
            "ap": np.nansum(positives * (hits / (hits + alarms)), 1) / count[:, 0],
            "f1max": np.where(count[:, 0] > 0, (2 * hits / (hits + alarms + count)).max(1), np.nan),
        }
        if coverage is not None:
            covered = (coverage * area(above, alarms, MAX_FPR * total)).sum(1)
            found["aupro"] = covered / coverage.sum(1)
        return found


def _from_above(counts: np.ndarray) -> np.ndarray:
    """How many values [D,K] are in a bin or above it."""
    return counts[:, ::-1].cumsum(1)[:, ::-1]


class ScoredImages(NamedTuple):
    """What a test found on N images: their types [N], scores and the counts of pixels, as far as they are known."""

    types: np.ndarray
    scores: Scores | None
    pixels: Counts | None

    @classmethod
    def read(cls, run_dir: Path, found: Mapping[str, float]) -> "ScoredImages":
        """Of a tested run with these metrics; its scores are not known if the test left images out.

        Raises OSError, ValueError or KeyError for missing or damaged files.
        """
        with (run_dir / "scores.csv").open(newline="", encoding="utf-8", errors="surrogateescape") as file:
            rows = list(csv.DictReader(file))
        if not rows:
            raise ValueError(f"{file.name} has no images")
        types = np.array([row["defect_type"] for row in rows])
        scores = Scores(np.array([float(row["score"]) for row in rows]), types != "good")
        auroc = metrics(scores, np.ones((1, len(rows))))["auroc"][0]
        whole = abs(auroc - found.get("image_auroc", np.nan)) < 1e-6
        return cls(types, scores if whole else None, _read(run_dir / FILE, len(rows)) if "aupro" in found else None)

    def of_type(self, defect: str) -> "ScoredImages":
        """Only the good images, and those with this defect."""
        chosen = (self.types == "good") | (self.types == defect)
        return ScoredImages(self.types[chosen], *(part and part.of(chosen) for part in self[1:]))

    def metrics(self, times: np.ndarray) -> dict[str, np.ndarray]:
        """Each metric [D] that is known, of D test sets in which each image is `times` [D,N] times."""
        found = {}
        for part, names in zip(self[1:], (IMAGE, PIXEL), strict=True):
            found |= dict(zip(names, metrics(part, times).values(), strict=True)) if part else {}
        return found


def write_counts(run_dir: Path, counts: Counts) -> None:
    write_atomic(run_dir / FILE, lambda path: np.savez_compressed(path, **counts._asdict()))


def _read(path: Path, images: int) -> Counts:
    try:
        with np.load(path) as file:
            counts = Counts(*(file[name] for name in Counts._fields))
    except zipfile.BadZipFile as error:
        raise ValueError(f"{path}: {error}") from None
    if len(counts.negatives) != images:
        raise ValueError(f"{path} and scores.csv are about different images")
    return counts
