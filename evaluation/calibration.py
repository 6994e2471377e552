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

from evaluation.score import CALIBRATION
from utils.errors import UserError

SEEN = {
    "false_rejects": "good test {} rejected",
    "good_reviewed": "good test {} for review",
    "misses": "defective test {} accepted",
    "defective_reviewed": "defective test {} for review",
}
CONFIDENCE = 0.9  # of the upper bound that is shown beside the promise
TINY = 1e-9  # products such as 100 * 0.29 are a little below the whole number that they should be
Verdict = tuple[float, str]  # on an image: its p-value and the decision


class Calibration(NamedTuple):
    """Scores of good images that took part in nothing else, in ascending order, and the rate that is wanted."""

    scores: Sequence[float]
    rate: float
    review_rate: float | None = None  # of good parts that are rejected or reviewed; above `rate`
    unit: str = "images"  # or parts, of which a score is the highest of several images

    @classmethod
    def of(cls, normal: dict[str, Any] | None, rate: float, review_rate: float | None = None) -> "Calibration | None":
        """From a student's `normal_scores`, if they are of images for calibration. Raises UserError for wrong rates."""
        check_rates(rate, review_rate)
        if normal is None or normal["source"] != CALIBRATION:
            return None
        return cls(sorted(normal["scores"]), rate, review_rate, normal.get("unit", "images"))

    @property
    def threshold(self) -> float:
        """A part whose score is above this is rejected. Raises UserError if there are too few scores."""
        return self._quantile(self.rate)

    @property
    def limit(self) -> float:
        """A part is accepted up to this score; between this and the threshold somebody looks at it."""
        return self.threshold if self.review_rate is None else self._quantile(self.review_rate)

    def _quantile(self, rate: float) -> float:
        """The k-th of the n sorted scores, k = ceil((n + 1)(1 - rate)).

        The score of a new good image is above it with a probability of at most `rate`, on average over calibration
        sets.
        """
        check_enough(len(self.scores), rate, self.unit)
        return self.scores[len(self.scores) - expected_above(len(self.scores), rate)]

    @property
    def upper_bound(self) -> float:
        """The rate of false rejects of this one calibration set is below this with a probability of 90 %.

        It is a random number, because the calibration images are: Beta(l, n + 1 - l) with l = floor((n + 1) rate).
        """
        from scipy.special import betaincinv  # here and below: not needed to decide

        above = expected_above(len(self.scores), self.rate)
        return float(betaincinv(above, len(self.scores) + 1 - above, CONFIDENCE))

    def p_value(self, score: float) -> float:
        """How unusual a score is among good ones, from 1/(n+1) (above all of them) to 1.

        At most `rate` if and only if the image is rejected.
        """
        return (1 + sum(other >= score for other in self.scores)) / (len(self.scores) + 1)

    def decision(self, p_value: float) -> str:
        """accept, review or reject. Raises as `threshold`."""
        check_enough(len(self.scores), self.rate, self.unit)
        return decision(p_value, self.rate, self.review_rate)

    @property
    def promise(self) -> dict[str, Any]:
        """What can be said before a test. Raises as `threshold`."""
        promise = {
            "images": len(self.scores),
            "unit": self.unit,
            "false_reject_rate": self.rate,
            "upper_bound": self.upper_bound,
            "threshold": self.threshold,
        }
        if self.review_rate is not None:
            promise |= {"review_rate": self.review_rate, "limit": self.limit}
        return promise

    def measured(self, decisions: Sequence[str], defective: np.ndarray, unit: str = "images") -> dict[str, Any]:
        """The promise, and what a test found: decisions of its images or parts, `defective` [N] bool.

        `unit` says which of the two. Raises as `threshold`.
        """
        return self.promise | count_decisions(decisions, defective, unit, self.review_rate is not None)


def decision(p_value: float, rate: float, review_rate: float | None) -> str:
    """accept, review or reject."""
    if p_value <= rate + TINY:
        return "reject"
    return "review" if review_rate is not None and p_value <= review_rate + TINY else "accept"


def by_part(
    p_values: Sequence[float], parts: Sequence[str], defective: Sequence[bool]
) -> tuple[list[float], np.ndarray]:
    """Of N images -> of the parts that they show: the lowest p-value, and whether the part is defective [parts] bool.

    One image that is rejected is enough to reject its part.
    """
    lowest: dict[str, float] = {}
    for part, p_value in zip(parts, p_values, strict=True):
        lowest[part] = min(p_value, lowest.get(part, 1.0))
    return [*lowest.values()], np.array([*dict(zip(parts, defective, strict=True)).values()], bool)


def count_decisions(decisions: Sequence[str], defective: np.ndarray, unit: str, review: bool) -> dict[str, Any]:
    """What a test found: the decisions of its images or parts (`unit`), `defective` [N] bool.

    A miss is a defective part that is accepted; one that somebody looks at is not missed.
    """
    kinds = np.array(decisions, str)
    found = {"test_unit": unit, "false_rejects": _seen(kinds[~defective] == "reject")}
    found["misses"] = _seen(kinds[defective] == "accept")
    if review:
        found["good_reviewed"] = _seen(kinds[~defective] == "review")
        found["defective_reviewed"] = _seen(kinds[defective] == "review")
    return found


def _seen(hits: np.ndarray) -> dict[str, Any]:
    count, trials = int(hits.sum()), len(hits)
    return {"count": count, "of": trials, "interval": binomial_interval(count, trials) if trials else None}


def described(measured: dict[str, Any]) -> list[str]:
    """The promise of a calibration, or what was measured too, as lines for the screen."""
    percent = "{:.3g} %".format
    rate, unit = percent(100 * measured["false_reject_rate"]), measured.get("unit", "images")
    review = percent(100 * measured.get("review_rate", 0))
    if "students" in measured:
        lines = [
            f"{measured['students']} students and {measured['images']} good {unit} decide: usually about {rate} of "
            f"good parts are rejected, on average at most {percent(100 * measured['guaranteed_rate'])}"
        ]
        less = "less unusual parts"
        reviewed = f"usually about {review} of good parts are reviewed or rejected"
        if "guaranteed_review_rate" in measured:
            reviewed += f", on average at most {percent(100 * measured['guaranteed_review_rate'])}"
    else:
        lines = [
            f"threshold {measured['threshold']:.4g}: on average over calibration sets, at most {rate} of good parts "
            "are rejected",
            f"for these {measured['images']} calibration {unit}, the rate is below "
            f"{percent(100 * measured['upper_bound'])} with a probability of 90 %",
        ]
        less = f"scores above {measured.get('limit', 0):.4g}"
        reviewed = f"on average, at most {review} of good parts are reviewed or rejected"
    if "review_rate" in measured:
        lines.append(f"{less} that are not rejected get the decision review: {reviewed}")
    for key, words in SEEN.items():
        seen, words = measured.get(key), words.format(measured.get("test_unit", "images"))
        if seen and seen["of"]:
            low, high = (percent(100 * end) for end in seen["interval"])
            lines.append(f"{words}: {seen['count']} of {seen['of']} (rate with 95 % confidence: {low} to {high})")
    return lines


def expected_above(n: int, rate: float) -> int:
    """How many of n + 1 exchangeable scores may be above the threshold."""
    return math.floor((n + 1) * rate + TINY)


def check_rates(rate: float, review_rate: float | None) -> None:
    """Raises UserError for rates in the wrong order."""
    if review_rate is not None and review_rate <= rate:
        raise UserError(f"review_rate {review_rate:g} must be above false_reject_rate {rate:g}")


def check_enough(n: int, rate: float, unit: str) -> None:
    """Raises UserError if n scores of images or parts (`unit`) are too few for a rate."""
    if expected_above(n, rate) < 1:
        raise UserError(
            f"false_reject_rate {rate:g} needs at least {needed(rate)} good {unit} for calibration, but there are {n}: "
            f"{needed(rate) - n} more are needed, or false_reject_rate={smallest_rate(n):g}"
        )


def needed(rate: float) -> int:
    """The smallest number of scores for a rate: 19 for 5 %, 99 for 1 %."""
    return math.ceil(1 / rate - 1 - TINY)


def smallest_rate(n: int) -> float:
    """The smallest rate that n scores can promise, rounded up to three digits."""
    rate = 1 / (n + 1)
    digits = 2 - math.floor(math.log10(rate))
    return math.ceil(rate * 10**digits - TINY) / 10**digits


def binomial_interval(hits: int, trials: int, confidence: float = 0.95) -> tuple[float, float]:
    """The exact interval of a rate of which `hits` of `trials` were seen (Clopper and Pearson, Biometrika 1934)."""
    from scipy.special import betaincinv

    outside = (1 - confidence) / 2
    low = betaincinv(hits, trials - hits + 1, outside) if hits else 0.0
    high = betaincinv(hits + 1, trials - hits, 1 - outside) if hits < trials else 1.0
    return float(low), float(high)
