"""Decisions from students that each leave out one fold of the good images, where there are too few for a share."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from evaluation.calibration import TINY, check_enough, check_rates, count_decisions, decision


class CrossCalibration(NamedTuple):
    """The sorted scores of each fold's images by the student that did not see them, and the rates that are wanted.

    Cross-conformal prediction (Vovk, "Cross-conformal predictors", Annals of Mathematics and AI 2015): every good image
    calibrates, and all but one fold train each student. Usually about `rate` of good parts are rejected; `guaranteed`
    is what that cannot be above, on average.
    """

    scores: Sequence[np.ndarray]
    rate: float
    review_rate: float | None = None
    unit: str = "images"  # or parts, of which a score is the highest of several images

    @property
    def images(self) -> int:
        return sum(len(fold) for fold in self.scores)

    def p_map(self, maps: np.ndarray) -> np.ndarray:
        """Each student's map of an image [folds,h,w] -> how unusual each position is, from 1/(n+1) to 1: [h,w].

        (1 + the number of good images whose own student scored them at least as high as it scores here) / (n + 1).
        """
        higher = [len(fold) - np.searchsorted(fold, each) for fold, each in zip(self.scores, maps, strict=True)]
        return (1 + np.sum(higher, axis=0)) / (self.images + 1)

    def p_value(self, p_map: np.ndarray) -> float:
        """Of an image: the lowest of its map, which is never below the p-value of the students' scores."""
        return float(p_map.min())

    def above(self, p_map: np.ndarray) -> np.ndarray:
        """The positions that are not accepted: [h,w] bool."""
        return p_map <= (self.rate if self.review_rate is None else self.review_rate) + TINY

    def decision(self, p_value: float) -> str:
        """accept, review or reject."""
        return decision(p_value, self.rate, self.review_rate)

    def guaranteed(self, rate: float) -> float:
        """The highest share of good parts, on average, whose p-value is at most `rate`.

        2 rate + min(2 (1 - rate) (K - 1) / (n + K), (1 - K/n) / (K + 1)) for n scores in K folds: Barber, Candes,
        Ramdas and Tibshirani, "Predictive inference with the jackknife+", Annals of Statistics 2021, theorem 4. The
        first of the two is that twice a weighted mean of p-values is a p-value (Vovk and Wang, "Combining p-values via
        averaging", Biometrika 2020), with weights by the folds' sizes; the second needs folds of one size.
        """
        folds = len(self.scores)
        more = 2 * (1 - rate) * (folds - 1) / (self.images + folds)
        if len({len(fold) for fold in self.scores}) == 1:
            more = min(more, (1 - folds / self.images) / (folds + 1))
        return min(2 * rate + more, 1.0)

    @property
    def promise(self) -> dict[str, Any]:
        """What can be said before a test. Raises UserError for too few images or wrong rates."""
        check_rates(self.rate, self.review_rate)
        check_enough(self.images, self.rate, self.unit)
        found = {"images": self.images, "unit": self.unit, "students": len(self.scores)}
        found |= {"false_reject_rate": self.rate, "guaranteed_rate": self.guaranteed(self.rate)}
        if self.review_rate is not None:
            found |= {"review_rate": self.review_rate, "guaranteed_review_rate": self.guaranteed(self.review_rate)}
        return found

    def measured(self, decisions: Sequence[str], defective: np.ndarray, unit: str = "images") -> dict[str, Any]:
        """As `Calibration.measured`. Raises as `promise`."""
        return self.promise | count_decisions(decisions, defective, unit, self.review_rate is not None)
