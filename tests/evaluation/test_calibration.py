"""Thresholds from scores of good images, and what they promise."""

import numpy as np
import pytest
from scipy.stats import beta, binomtest

from evaluation.calibration import Calibration, binomial_interval, by_part, described, needed, smallest_rate
from utils.errors import UserError


def calibration(scores, rate):
    return Calibration(sorted(scores), rate)


@pytest.mark.parametrize(
    ("n", "rate", "k"), [(99, 0.01, 99), (19, 0.05, 19), (20, 0.05, 20), (39, 0.05, 38), (99, 0.29, 71), (9, 0.5, 5)]
)
def test_the_threshold_is_the_conformal_quantile(n, rate, k):
    """k = ceil((n + 1)(1 - rate)) of n sorted scores, also where floating-point products are not whole numbers."""
    scores = np.random.default_rng(n).permutation(np.arange(1.0, n + 1))
    assert calibration(scores, rate).threshold == k
    assert np.quantile([*scores, np.inf], 1 - rate, method="inverted_cdf") >= k  # of the scores and the new one


@pytest.mark.parametrize(("rate", "least"), [(0.05, 19), (0.01, 99), (0.1, 9), (0.5, 1), (0.03, 33)])
def test_too_few_images_are_counted_and_the_rate_they_can_promise_is_said(rate, least):
    assert needed(rate) == least
    assert calibration(range(least), rate).threshold == least - 1  # the highest
    if least > 1:
        with pytest.raises(UserError, match=f"at least {least} good images.*there are {least - 1}: 1 more are needed"):
            _ = calibration(range(least - 1), rate).threshold


@pytest.mark.parametrize("n", [1, 5, 12, 50, 99, 753])
def test_the_suggested_rate_is_possible_and_hardly_larger_than_needed(n):
    rate = smallest_rate(n)
    assert calibration(range(n), rate).threshold == n - 1
    assert 1 / (n + 1) <= rate < 1.02 / (n + 1)


def rates(n, rate, shift=0.0, splits=1000):
    """The measured rates of false rejects of random splits of scores into calibration and new images."""
    rng = np.random.default_rng(0)
    found = []
    for _ in range(splits):
        scores = rng.lognormal(size=n + 200)
        threshold = calibration(scores[:n], rate).threshold
        found.append(((1 + shift) * scores[n:] > threshold).mean())
    return np.array(found)


@pytest.mark.parametrize(("n", "rate"), [(99, 0.01), (19, 0.05), (60, 0.1), (150, 0.2)])
def test_the_mean_rate_over_random_splits_keeps_the_promise(n, rate):
    found = rates(n, rate)
    expected = np.floor((n + 1) * rate + 1e-9) / (n + 1)  # exactly, for scores without ties
    error = found.std() / np.sqrt(len(found))
    assert found.mean() <= rate + 4 * error
    assert abs(found.mean() - expected) < 4 * error


def test_without_exchangeability_the_promise_breaks():
    """The new images score half as high again: the check of the test above would fail."""
    found = rates(99, 0.05, shift=0.5)
    assert found.mean() > 0.05 + 10 * found.std() / np.sqrt(len(found))


@pytest.mark.parametrize(("n", "rate"), [(99, 0.01), (150, 0.1)])
def test_nine_in_ten_calibration_sets_are_below_the_upper_bound(n, rate):
    rng = np.random.default_rng(0)
    # Of uniform scores the rate of a threshold is known: what is above it.
    found = np.array([1 - calibration(rng.uniform(size=n), rate).threshold for _ in range(4000)])
    assert (found <= calibration(range(n), rate).upper_bound).mean() == pytest.approx(0.9, abs=0.02)
    assert calibration(range(99), 0.01).upper_bound == pytest.approx(0.0230, abs=5e-4)


def test_p_values_and_decisions_agree():
    rng = np.random.default_rng(0)
    scores = rng.integers(0, 20, 59).astype(float)  # with many ties
    for rate in (0.02, 0.05, 0.1, 0.3):
        one = calibration(scores, rate)
        for score in [*np.arange(-1, 21, 0.5)]:
            assert (one.p_value(score) <= rate) == (score > one.threshold)
    assert one.p_value(99.0) == pytest.approx(1 / 60) and one.p_value(-1.0) == 1


def test_an_image_that_is_rejected_rejects_its_part():
    lowest, defective = by_part([0.5, 0.1, 0.3, 0.2], ["a", "b", "a", "c"], [False, True, False, True])
    assert lowest == [0.3, 0.1, 0.2] and defective.tolist() == [False, True, True]


def test_what_is_about_parts_says_parts():
    normal = {"source": "calibration images", "scores": range(12), "unit": "parts"}
    measured = Calibration.of(normal, 0.1).measured(["reject", "accept"], np.array([False, True]), "parts")
    said = "\n".join(described(measured))
    assert "for these 12 calibration parts" in said and "images" not in said
    assert "good test parts rejected: 1 of 1" in said and "defective test parts accepted: 1 of 1" in said
    with pytest.raises(UserError, match="at least 19 good parts for calibration"):
        _ = Calibration.of(normal, 0.05).threshold


def test_p_values_of_good_images_are_uniform():
    rng = np.random.default_rng(1)
    found = [calibration(rng.normal(size=19), 0.1).p_value(rng.normal()) for _ in range(4000)]
    counts = np.bincount(np.round(np.array(found) * 20).astype(int), minlength=21)[1:]
    assert np.abs(counts - 200).max() < 5 * np.sqrt(200)


@pytest.mark.parametrize(("hits", "trials"), [(0, 20), (3, 20), (20, 20), (1, 1000)])
def test_binomial_intervals_are_exact(hits, trials):
    exact = binomtest(hits, trials).proportion_ci(0.95, method="exact")
    assert binomial_interval(hits, trials) == pytest.approx((exact.low, exact.high))


def test_the_bound_is_a_quantile_of_the_beta_distribution():
    assert calibration(range(39), 0.1).upper_bound == pytest.approx(beta.ppf(0.9, 4, 36))
