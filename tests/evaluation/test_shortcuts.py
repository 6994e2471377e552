"""Which scores that ignore defects are told, and which are a finding."""

from pathlib import Path

import numpy as np
import pytest

from datasets.doctor.facts import Facts
from datasets.doctor.layout import Picture
from evaluation.shortcuts import LIMIT, best_shortcut, findings, shortcuts


def facts(brightness, split="test", defect_type="good", mask_share=None, outside=100.0):
    """One for each brightness; everything else is the same."""
    return [
        Facts(
            Picture(Path(f"{split}/{defect_type}/{k}.png"), split, defect_type),
            shape=(8, 8),
            brightness=value,
            outside=(outside, 0.0) if mask_share else (value, 0.0),
            mask_share=mask_share,
        )
        for k, value in enumerate(brightness)
    ]


RNG = np.random.default_rng(0)
TRAIN = facts(RNG.normal(100, 5, 40), "train")
GOOD = facts(RNG.normal(100, 5, 40))


def test_the_best_direction_of_each_score_is_told_and_constant_scores_are_not():
    dark = facts([60.0, 70.0, 80.0, 100.0], defect_type="hole")
    found = {(each.score, each.other): each for each in shortcuts([*TRAIN, *GOOD, *dark])}
    assert set(found) == {("brightness", "test/good"), ("brightness", "defective")}
    best = found["brightness", "defective"]
    values, middle = [each.brightness for each in GOOD], np.median([each.brightness for each in TRAIN])
    lower = np.mean([[a > b.brightness for a in values] for b in dark])
    away = np.mean([[abs(a - middle) < abs(b.brightness - middle) for a in values] for b in dark])
    assert best.auroc == pytest.approx(max(lower, away)) and best.direction in ("lower", "more unusual")


def test_defective_pictures_on_both_sides_of_the_good_ones_are_more_unusual():
    found = shortcuts([*TRAIN, *GOOD, *facts([60.0, 140.0] * 10, defect_type="hole")])
    assert best_shortcut(found).direction == "more unusual" and best_shortcut(found).auroc == 1


def test_a_set_in_which_brightness_tells_good_from_bad_is_a_finding():
    (finding,) = findings(shortcuts([*TRAIN, *GOOD, *facts(RNG.normal(60, 5, 20), defect_type="hole")]))
    assert finding.kind == "shortcuts" and "image AUROC of 1.00: brightness" in finding.sentence


def test_each_defect_type_is_looked_at():
    usual, dark = facts(RNG.normal(100, 5, 60), defect_type="a"), facts(RNG.normal(60, 5, 10), defect_type="b")
    found = shortcuts([*TRAIN, *GOOD, *usual, *dark])
    assert best_shortcut(found).auroc < LIMIT
    (finding,) = findings(found)
    assert "in test/b than in test/good" in finding.sentence and len(finding.files) == 1


def test_what_the_defects_cause_themselves_is_the_best_shortcut_but_no_finding():
    outside = RNG.normal(100, 5, 20)
    dark = [facts([60.0], defect_type="hole", mask_share=0.3, outside=value)[0] for value in outside]
    found = shortcuts([*TRAIN, *GOOD, *dark])
    assert best_shortcut(found).score == "brightness" and best_shortcut(found).auroc == 1
    assert findings(found) == []
    dark = facts(RNG.normal(60, 1, 20), defect_type="hole", mask_share=0.3, outside=60.0)
    (finding,) = findings(shortcuts([*TRAIN, *GOOD, *dark]))
    assert "brightness outside the masks" in finding.sentence


def test_few_pictures_that_differ_by_chance_are_no_finding():
    found = shortcuts([*TRAIN, *facts([100.0, 101.0, 102.0]), *facts([120.0, 121.0, 122.0], defect_type="hole")])
    assert best_shortcut(found).auroc == 1 and findings(found) == []


def test_good_pictures_of_another_session_are_a_finding():
    (finding,) = findings(shortcuts([*TRAIN, *facts(RNG.normal(140, 5, 30))]))
    assert "good pictures in train and good pictures in test differ" in finding.sentence
    assert best_shortcut(shortcuts([*TRAIN, *facts(RNG.normal(140, 5, 30))])) is None


def test_random_sets_have_findings_by_chance_at_most_once_in_a_thousand():
    found = 0
    for seed in range(200):
        rng = np.random.default_rng(seed)
        sets = (rng.normal(100, 5, count) for count in (12, 6, 4, 4))
        parts = zip(sets, [("train", "good"), ("test", "good"), ("test", "a"), ("test", "b")], strict=True)
        found += len(findings(shortcuts([each for values, name in parts for each in facts(values, *name)])))
    assert found <= 1


def test_unreadable_pictures_do_not_count():
    broken = [each._replace(error="damaged", brightness=0.0) for each in facts([0.0] * 20, defect_type="hole")]
    assert all(each.other == "test/good" for each in shortcuts([*TRAIN, *GOOD, *broken]))
    assert shortcuts([]) == []
