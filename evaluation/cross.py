"""Decisions from students that each leave out one fold of the good images, where there are too few for a share."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from evaluation.calibration import TINY, check_enough, check_rates, count_decisions, decision


class CrossCalibration(NamedTuple):
    """The sorted scores of each fold's images by the student that did not see them, and the rates that are wanted.

    Cross-conformal prediction (Vovk, "Cross-conformal predictors", Annals of Mathematics and AI 2015): every good image
    calibrates, and all but one fold train each student. On average, at most twice `rate` of good parts are rejected
    (Barber, Candes, Ramdas and Tibshirani, "Predictive inference with the jackknife+", Annals of Statistics 2021), and
    usually about `rate`.
    """

    scores: Sequence[np.ndarray]
    rate: float
    review_rate: float | None = None

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

    @property
    def promise(self) -> dict[str, Any]:
        """What can be said before a test. Raises UserError for too few images or wrong rates."""
        check_rates(self.rate, self.review_rate)
        check_enough(self.images, self.rate)
        found = {"images": self.images, "students": len(self.scores), "false_reject_rate": self.rate}
        found["guaranteed_rate"] = 2 * self.rate
        return found if self.review_rate is None else found | {"review_rate": self.review_rate}

    def measured(self, decisions: Sequence[str], defective: np.ndarray) -> dict[str, Any]:
        """The promise, and what a test found: decisions of its images, `defective` [N] bool. Raises as `promise`."""
        return self.promise | count_decisions(decisions, defective, self.review_rate is not None)
