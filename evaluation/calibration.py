"""From scores of good images to a threshold with a promised rate of false rejects (split conformal prediction).

The promise holds if calibration images and later good images are exchangeable: if they are mixed, nobody can tell
which are which. Crops or frames of one part are not independent; they belong into one group.

Sources: Vovk, Gammerman, Shafer, "Algorithmic Learning in a Random World", 2005; Vovk, "Conditional validity of
inductive conformal predictors", ACML 2012, for the rate of one calibration set.
"""

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from scipy.special import betaincinv

from evaluation.score import CALIBRATION
from utils.errors import UserError

CONFIDENCE = 0.9  # of the upper bound that is shown beside the promise
TINY = 1e-9  # products such as 100 * 0.29 are a little below the whole number that they should be


class Calibration(NamedTuple):
    """Scores of good images that took part in nothing else, in ascending order, and the rate that is wanted."""

    scores: Sequence[float]
    rate: float

    @classmethod
    def of(cls, normal: dict[str, Any] | None, rate: float) -> "Calibration | None":
        """From a student's `yardstick`, if it comes from images for calibration."""
        return cls(sorted(normal["scores"]), rate) if normal and normal["source"] == CALIBRATION else None

    @property
    def threshold(self) -> float:
        """A part whose score is above this is rejected.

        The k-th of the n sorted scores, k = ceil((n + 1)(1 - rate)): a new good image is rejected with a probability of
        at most `rate`, on average over calibration sets. Raises UserError if there are too few scores.
        """
        n, above = len(self.scores), expected_above(len(self.scores), self.rate)
        if above < 1:
            raise UserError(
                f"false_reject_rate {self.rate:g} needs at least {needed(self.rate)} good images that are only for "
                f"calibration, but there are {n}: {needed(self.rate) - n} more are needed, or "
                f"false_reject_rate={smallest_rate(n):g}"
            )
        return self.scores[n - above]

    @property
    def upper_bound(self) -> float:
        """The rate of false rejects of this one calibration set is below this with a probability of 90 %.

        It is a random number, because the calibration images are: Beta(l, n + 1 - l) with l = floor((n + 1) rate).
        """
        above = expected_above(len(self.scores), self.rate)
        return float(betaincinv(above, len(self.scores) + 1 - above, CONFIDENCE))

    def p_value(self, score: float) -> float:
        """How unusual a score is among good ones, from 1/(n+1) (above all of them) to 1.

        At most `rate` if and only if the image is rejected.
        """
        return (1 + sum(other >= score for other in self.scores)) / (len(self.scores) + 1)

    def decision(self, score: float) -> str:
        """accept or reject. Raises as `threshold`."""
        return "reject" if score > self.threshold else "accept"

    @property
    def promise(self) -> dict[str, Any]:
        """What can be said before a test. Raises as `threshold`."""
        return {
            "images": len(self.scores),
            "false_reject_rate": self.rate,
            "upper_bound": self.upper_bound,
            "threshold": self.threshold,
        }

    def measured(self, scores: np.ndarray, defective: np.ndarray) -> dict[str, Any]:
        """The promise, and what a test found with image scores [N] and `defective` [N] bool. Raises as `threshold`."""
        rejected = scores > self.threshold
        return self.promise | {"false_rejects": _seen(rejected[~defective]), "misses": _seen(~rejected[defective])}


def _seen(hits: np.ndarray) -> dict[str, Any]:
    count, trials = int(hits.sum()), len(hits)
    return {"count": count, "of": trials, "interval": binomial_interval(count, trials) if trials else None}


def described(measured: dict[str, Any]) -> list[str]:
    """`Calibration.promise` or `Calibration.measured` as lines for the screen."""
    percent = "{:.3g} %".format
    lines = [
        f"threshold {measured['threshold']:.4g}: on average over calibration sets, at most "
        f"{percent(100 * measured['false_reject_rate'])} of good parts are rejected",
        f"for these {measured['images']} calibration images, the rate is below "
        f"{percent(100 * measured['upper_bound'])} with a probability of 90 %",
    ]
    for key, words in (("false_rejects", "good test images rejected"), ("misses", "defective test images accepted")):
        seen = measured.get(key)
        if seen and seen["of"]:
            low, high = (percent(100 * end) for end in seen["interval"])
            lines.append(f"{words}: {seen['count']} of {seen['of']} (rate with 95 % confidence: {low} to {high})")
    return lines


def expected_above(n: int, rate: float) -> int:
    """How many of n + 1 exchangeable scores may be above the threshold."""
    return math.floor((n + 1) * rate + TINY)


def needed(rate: float) -> int:
    """The smallest number of calibration images for a rate: 19 for 5 %, 99 for 1 %."""
    return math.ceil(1 / rate - 1 - TINY)


def smallest_rate(n: int) -> float:
    """The smallest rate that n calibration images can promise, rounded up to three digits."""
    rate = 1 / (n + 1)
    digits = 2 - math.floor(math.log10(rate))
    return math.ceil(rate * 10**digits - TINY) / 10**digits


def binomial_interval(hits: int, trials: int, confidence: float = 0.95) -> tuple[float, float]:
    """The exact interval of a rate of which `hits` of `trials` were seen (Clopper and Pearson, Biometrika 1934)."""
    outside = (1 - confidence) / 2
    low = betaincinv(hits, trials - hits + 1, outside) if hits else 0.0
    high = betaincinv(hits + 1, trials - hits, 1 - outside) if hits < trials else 1.0
    return float(low), float(high)
