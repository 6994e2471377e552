"""Which good training images are said to be unlike the others."""

from pathlib import Path

import numpy as np
import pytest

from evaluation.outliers import findings, limit, strangers

ROOT = Path("part")


def folds_of(scores, factors=(1, 3)):
    """Students whose scores differ by a factor, as those of different trainings may."""
    parts = np.array_split(np.asarray(scores), len(factors))
    return [
        [(ROOT / f"train/good/{k}-{i}.png", factor * score) for i, score in enumerate(part)]
        for k, (part, factor) in enumerate(zip(parts, factors, strict=True))
    ]


def test_scores_are_compared_with_the_median_of_their_own_student():
    found = strangers(folds_of([1, 2, 4, 1, 2, 8]))
    assert [each.times for each in found] == pytest.approx([4, 2, 1, 1, 0.5, 0.5])
    assert found[0].path == ROOT / "train/good/1-2.png" and found[0].score == 24


def test_a_bad_part_among_good_ones_is_an_outlier_and_usual_spread_is_none():
    scores = np.random.default_rng(0).lognormal(0, 0.3, 60)
    assert findings(strangers(folds_of(scores)), ROOT) == []
    scores[[7, 50]] = 20, 30
    (finding,) = findings(strangers(folds_of(scores)), ROOT)
    assert finding.sentence.startswith("2 of 60 pictures in train/good")
    assert [name.partition(":")[0] for name in finding.files] == ["train/good/1-20.png", "train/good/0-7.png"]


def test_usual_scores_rarely_have_an_outlier():
    rng = np.random.default_rng(1)
    assert sum(bool(findings(strangers(folds_of(rng.lognormal(0, 0.5, 60))), ROOT)) for _ in range(200)) <= 4


def test_of_few_images_nothing_is_said():
    found = strangers(folds_of([1.0] * 10 + [100.0]))
    assert limit(found) == np.inf and findings(found, ROOT) == []
    assert strangers([]) == [] and findings([], ROOT) == []


def test_scores_of_zero_do_no_harm():
    assert findings(strangers(folds_of([0.0] * 60)), ROOT) == []
    (finding,) = findings(strangers(folds_of([0.0] * 59 + [1.0])), ROOT)
    assert len(finding.files) == 1
