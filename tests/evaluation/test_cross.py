"""Decisions of students that each leave out one fold of the good images."""

import numpy as np
import pytest

from evaluation.calibration import described
from evaluation.cross import CrossCalibration
from utils.errors import UserError

FOLDS = 5


def false_rejects(n, rate, shift=0.0, splits=1000):
    """The measured rate over random sets: a student is the mean of the parts it saw, a score the distance from it."""
    rng = np.random.default_rng(0)
    found = []
    for _ in range(splits):
        good, new = rng.standard_normal((n, 4)), rng.standard_normal((20, 4)) + shift
        folds = [np.arange(n) % FOLDS == k for k in range(FOLDS)]
        students = [good[~fold].mean(axis=0) for fold in folds]
        scores = [np.sort(np.linalg.norm(good[f] - s, axis=1)) for f, s in zip(folds, students, strict=True)]
        calibration = CrossCalibration(scores, rate)
        maps = np.stack([np.linalg.norm(new - student, axis=1) for student in students])
        p_values = calibration.p_map(maps[:, None])[0]
        found.append(np.mean([calibration.decision(p) == "reject" for p in p_values]))
    return np.array(found)


@pytest.mark.parametrize(("n", "rate"), [(19, 0.05), (25, 0.1), (60, 0.1)])
def test_the_mean_rate_over_random_sets_keeps_the_promise(n, rate):
    found = false_rejects(n, rate)
    error = found.std() / np.sqrt(len(found))
    assert found.mean() <= 2 * rate  # less than what is guaranteed
    assert abs(found.mean() - np.floor((n + 1) * rate + 1e-9) / (n + 1)) < max(4 * error, 0.3 * rate)  # what is usual


@pytest.mark.parametrize(
    ("sizes", "more"),
    [
        ([5] * 5, (1 - 5 / 25) / 6),  # few scores: the second term is the lower one
        ([5, 5, 5, 5, 4], 2 * 0.9 * 4 / 29),  # folds of different sizes have only the first
        ([40] * 5, 2 * 0.9 * 4 / 205),
        ([1] * 30, 0.0),  # jackknife+
    ],
)
def test_the_guaranteed_rate_is_twice_the_rate_and_what_the_folds_add(sizes, more):
    calibration = CrossCalibration([np.arange(float(n)) for n in sizes], 0.1, 0.45)
    promise = calibration.promise
    assert promise["guaranteed_rate"] == pytest.approx(0.2 + more)
    assert promise["guaranteed_review_rate"] == pytest.approx(min(calibration.guaranteed(0.45), 1))
    said = "\n".join(described(promise))
    assert f"on average at most {100 * (0.2 + more):.3g} %" in said
    assert f"reviewed or rejected, on average at most {100 * calibration.guaranteed(0.45):.3g} %" in said


def test_without_exchangeability_the_promise_breaks():
    assert false_rejects(60, 0.1, shift=1.0, splits=200).mean() > 0.2


def test_a_position_is_compared_with_the_student_that_scored_it():
    calibration = CrossCalibration([np.array([1.0, 2.0]), np.array([10.0, 20.0])], 0.2, 0.4)
    maps = np.array([[[0.0, 1.5, 9.0]], [[0.0, 15.0, 99.0]]])
    p_map = calibration.p_map(maps)
    assert p_map.tolist() == [[1.0, 3 / 5, 1 / 5]] and calibration.p_value(p_map) == 1 / 5
    assert calibration.above(p_map).tolist() == [[False, False, True]]
    assert [calibration.decision(p) for p in (0.2, 0.4, 0.6)] == ["reject", "review", "accept"]


def test_the_p_value_of_an_image_is_not_below_that_of_its_scores():
    rng = np.random.default_rng(0)
    calibration = CrossCalibration([np.sort(rng.random(9)) for _ in range(3)], 0.1)
    for maps in rng.random((50, 3, 4, 4)):
        scores = calibration.p_map(maps.max(axis=(1, 2))[:, None, None])
        assert calibration.p_value(calibration.p_map(maps)) >= scores.item()


def test_too_few_images_and_rates_in_the_wrong_order_are_errors():
    with pytest.raises(UserError, match="at least 19 good images .* there are 10: 9 more are needed"):
        _ = CrossCalibration([np.arange(5.0)] * 2, 0.05).promise
    with pytest.raises(UserError, match="review_rate 0.05 must be above false_reject_rate 0.1"):
        _ = CrossCalibration([np.arange(50.0)] * 2, 0.1, 0.05).promise
