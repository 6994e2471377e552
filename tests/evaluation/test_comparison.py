"""How sure a difference between methods is."""

import numpy as np
import pytest
from scipy.stats import wilcoxon
from sklearn.metrics import roc_auc_score

from evaluation.comparison import Paired, against_the_best, all_pairs, drawn_metrics, interval, paired
from evaluation.resampling import ScoredImages, Scores


def outcome(good, defective):
    """A test with these image scores [N] and [M]."""
    scores = np.concatenate([good, defective])
    types = np.repeat(["good", "hole"], [len(good), len(defective)])
    return ScoredImages(types, Scores(scores, types != "good"), None)


def aurocs(good, defective, category="", draws=1000):
    return drawn_metrics(outcome(good, defective), category, draws)["image_auroc"]


@pytest.fixture
def scores():
    """Of 30 good and 20 defective images; some are equal."""
    rng = np.random.default_rng(0)
    return rng.normal(0, 1, 30).round(1), rng.normal(1, 1, 20).round(1)


def auroc(good, defective):
    return roc_auc_score([0] * len(good) + [1] * len(defective), np.concatenate([good, defective]))


def test_samples_lie_around_the_auroc_and_spread_like_a_plain_bootstrap(scores):
    good, defective = scores
    found, rng = aurocs(good, defective, draws=4000), np.random.default_rng(1)
    assert found.mean() == pytest.approx(auroc(good, defective), abs=0.005)
    plain = [auroc(good[rng.integers(0, 30, 30)], defective[rng.integers(0, 20, 20)]) for _ in range(1000)]
    assert interval(found) == pytest.approx(interval(np.array(plain)), abs=0.02)


def test_the_same_images_are_drawn_for_every_method_and_others_for_another_category(scores):
    good, defective = scores
    assert (aurocs(good, defective, "a") == aurocs(2 * good, 2 * defective, "a")).all()
    assert abs(np.corrcoef(aurocs(good, defective, "a"), aurocs(good, defective, "b"))[0, 1]) < 0.2


def test_an_interval_covers_the_truth_about_as_often_as_it_says():
    """Scores of N(0,1) and N(1,1): the true AUROC is Phi(1/sqrt(2)) = 0.7602."""
    rng, covered = np.random.default_rng(2), 0
    for _ in range(300):
        low, high = interval(aurocs(rng.normal(0, 1, 60), rng.normal(1, 1, 60), draws=500))
        covered += low < 0.76025 < high
    assert 0.91 < covered / 300 < 0.98


def test_without_good_images_nothing_is_drawn(scores):
    assert drawn_metrics(outcome(scores[0][:0], scores[1])) == {}


def categories(*differences):
    names = [f"c{k}" for k in range(len(differences))]
    first = {name: {0: 0.5 + difference} for name, difference in zip(names, differences, strict=True)}
    return {"a": first, "b": dict.fromkeys(names, {0: 0.5})}


def test_only_seeds_that_both_have_are_compared():
    values = {"a": {"x": {0: 0.9, 1: 0.8, 2: 0.1}, "y": {0: 0.5}}, "b": {"x": {0: 0.9, 1: 0.8}, "y": {1: 0.9}}}
    found = paired("a", "b", values)
    assert (found.pairs, found.better, found.worse, found.difference) == (1, 0, 0, 0)


def test_a_paired_test_is_scipys_over_the_categories():
    found = paired("a", "b", categories(0.1, 0.2, 0.05, 0.3, 0.11, -0.01, 0.07, 0))
    assert (found.pairs, found.better, found.worse) == (8, 6, 1)
    assert found.difference == pytest.approx(0.82 / 8)
    assert found.p == pytest.approx(wilcoxon([0.1, 0.2, 0.05, 0.3, 0.11, -0.01, 0.07]).pvalue)
    assert "p = 0.031: if both were equally good, such a clear difference would be rare" in found.sentence(
        "image AUROC"
    )


def test_few_categories_are_not_tested():
    found = paired("a", "b", categories(0.1, 0.2, 0.3, 0.4, 0.5, 0))
    assert found.p is None and (found.pairs, found.better, found.worse) == (6, 5, 0)


def test_methods_that_cannot_be_tested_are_one_sentence():
    many, few = {f"{k}": {0: 0.1 * k} for k in range(8)}, {"1": {0: 0.0}, "2": {0: 0.1}}
    best = {name: {0: seeds[0] + 0.3} for name, seeds in many.items()}
    tested, others = against_the_best({"few": few, "best": best, "many": many, "other": dict(few)}, "AUPRO")
    assert "best against many, 8 categories: AUPRO is 30.0 points higher on average (better on 8, worse on 0)" in tested
    assert others == (
        "Not tested: best (highest AUPRO) against few, other. A test needs at least 6 categories that differ."
    )
    assert against_the_best({"alone": many}, "AUPRO") == []


def test_a_difference_by_chance_is_called_so():
    assert "may be chance" in Paired("a", "b", 9, 5, 4, 0.01, 0.6).sentence("AUPRO")


def test_all_pairs_begin_with_the_better_method():
    values = {"low": {"x": {0: 0.1}}, "high": {"x": {0: 0.9}, "y": {0: 0.9}}, "other": {"z": {0: 0.5}}}
    assert [pair[:2] for pair in all_pairs(values)] == [("high", "low")]
