"""The curves of a test, ROC, precision over recall and PRO, as points to draw; and its best threshold."""

from typing import NamedTuple

import numpy as np

from evaluation.metrics import MAX_FPR, PixelMetrics

MOST = 500  # points of a curve that is drawn


class Curve(NamedTuple):
    """Points to connect by straight lines, x ascending."""

    x: np.ndarray
    y: np.ndarray


class Plot(NamedTuple):
    """A curve with the words for its axes, the metric that is its area, and where its x ends."""

    key: str
    title: str
    metric: str
    x: str
    y: str
    curve: Curve
    limit: float


class Steps(NamedTuple):
    """What a threshold just below each different score finds, from the highest score down; [T] each."""

    scores: np.ndarray
    hits: np.ndarray  # defective images at or above the score
    alarms: np.ndarray  # good ones


def steps(scores: np.ndarray, labels: np.ndarray) -> Steps:
    """Of image scores [N] and labels [N], True = defective."""
    values, place = np.unique(-scores, return_inverse=True)
    hits, alarms = (np.bincount(place[which], minlength=len(values)).cumsum() for which in (labels, ~labels))
    return Steps(-values, hits, alarms)


def roc(found: Steps) -> Curve:
    """True positive rate over false positive rate; equal scores make a slanted step, as in the metric."""
    return thinned(Curve(*(np.r_[0, counts] / counts[-1] for counts in (found.alarms, found.hits))))


def precision_recall(found: Steps) -> Curve:
    """Precision over recall, in the steps whose area is the average precision."""
    recall, precision = np.r_[0, found.hits] / found.hits[-1], found.hits / (found.hits + found.alarms)
    new = np.diff(recall) > 0  # where a step only has good images, the curve does not move to the right
    left, right, precision = recall[:-1][new], recall[1:][new], precision[new]
    return thinned(Curve(np.stack([left, right], 1).ravel(), precision.repeat(2)))


def pro(pixels: PixelMetrics) -> Curve:
    """Mean covered fraction of the regions over the false positive rate of pixels, from 0 to MAX_FPR.

    Thresholds are values of defective pixels at equal steps of the covered fraction.
    """
    positives, weights, negatives = pixels.pooled()
    above = weights[::-1].cumsum()[::-1]  # covered by the positives from here on
    wanted = np.linspace(above[-1], above[0], MOST)
    chosen = np.unique(np.searchsorted(-above, -wanted).clip(max=len(above) - 1))[::-1]
    first = np.searchsorted(positives, positives[chosen], "left")  # of several equal positives, all are covered
    alarms = sum(len(part) - np.searchsorted(part, positives[chosen], "left") for part in negatives)
    x = np.r_[0, alarms / sum(len(part) for part in negatives), 1]
    y = np.r_[0, above[first], 1]
    inside = x <= MAX_FPR
    return Curve(np.r_[x[inside], MAX_FPR], np.r_[y[inside], np.interp(MAX_FPR, x, y)])


def thinned(curve: Curve) -> Curve:
    """At most MOST points of it, with both ends."""
    kept = np.unique(np.linspace(0, len(curve.x) - 1, MOST).round().astype(int))
    return Curve(curve.x[kept], curve.y[kept])


def best_threshold(found: Steps) -> float:
    """Where the F1 score is highest, halfway between two scores; images above it count as defective.

    If that is below all scores, it is so by half of their range: scores of a method may all be about 1e-6.
    """
    f1 = 2 * found.hits / (found.hits + found.alarms + found.hits[-1])
    best = int(f1.argmax())
    highest, lowest = found.scores[[0, -1]]
    lower = found.scores[best + 1] if best + 1 < len(found.scores) else lowest - (highest - lowest or abs(lowest) or 1)
    return float(found.scores[best] + lower) / 2


def plots(good: np.ndarray, defective: np.ndarray, pro: Curve | None) -> list[Plot]:
    """Those that are possible with the data: scores [N] of good and [M] of defective images, and the PRO curve."""
    found = []
    if len(good) and len(defective):
        each = steps(np.r_[good, defective], np.repeat([False, True], [len(good), len(defective)]))
        pr = precision_recall(each)
        found += [
            Plot("roc", "ROC", "image_auroc", "good images rejected", "defective images rejected", roc(each), 1),
            Plot("pr", "Precision and recall", "image_ap", "recall", "precision", pr, 1),
        ]
    if pro is not None:
        found.append(Plot("pro", "PRO", "aupro", "good pixels reported", "covered part of the defects", pro, MAX_FPR))
    return found
