"""Good training images that look like strangers to a student that did not see them: bad parts may be among them."""

import math
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from datasets.doctor.findings import Finding, names

FEWEST = 20  # images: with fewer, quartiles say little
TINY = float(np.finfo(np.float32).tiny)  # in place of a score of 0
FAR = 3  # interquartile ranges above the upper quartile: "far out" (Tukey, "Exploratory Data Analysis", 1977)


class Stranger(NamedTuple):
    """A good training image and its score by the student that did not see it."""

    path: Path
    score: float
    times: float  # the median of this student's scores


def strangers(folds: Sequence[Sequence[tuple[Path, float]]]) -> list[Stranger]:
    """Highest first, from the images and scores of each student; students are comparable by their medians only."""
    found = []
    for fold in folds:
        median = float(np.median([score for _, score in fold]))
        found += [Stranger(path, score, max(score, TINY) / max(median, TINY)) for path, score in fold]
    return sorted(found, key=lambda each: -each.times)


def limit(found: Sequence[Stranger]) -> float:
    """The multiple of the median above which an image is far from the others; on a logarithmic scale."""
    if len(found) < FEWEST:
        return math.inf
    lower, upper = np.quantile(np.log([each.times for each in found]), [0.25, 0.75])
    return float(np.exp(upper + FAR * (upper - lower)))


def findings(found: Sequence[Stranger], root: Path) -> list[Finding]:
    far = [each for each in found if each.times > limit(found)]
    if not far:
        return []
    files = zip(names([each.path for each in far], root), far, strict=True)
    return [
        Finding(
            "outliers",
            f"{len(far)} of {len(found)} pictures in train/good look unlike the others to a student that did not see "
            "them",
            "look at outliers.png: move bad parts out of train/good; keep good ones, the student needs them",
            [f"{name}: {each.times:.1f} times the median score" for name, each in files],
        )
    ]
