"""The area below a drawn curve is its metric."""

import numpy as np
import pytest

from evaluation.curves import MOST, Curve, best_threshold, precision_recall, pro, roc, steps, thinned
from evaluation.metrics import PixelMetrics, detection

RNG = np.random.default_rng(0)


def scores_and_labels(count, ties):
    labels = RNG.random(count) < 0.4
    scores = RNG.random(count) + 0.3 * labels
    return scores.round(1) if ties else scores, labels


def area(curve):
    return float(((curve.y[1:] + curve.y[:-1]) / 2 * np.diff(curve.x)).sum())


@pytest.mark.parametrize("ties", [False, True])
def test_the_areas_are_auroc_and_average_precision(ties):
    scores, labels = scores_and_labels(150, ties)
    found, metrics = steps(scores, labels), detection(scores, labels)
    assert area(roc(found)) == pytest.approx(metrics["image_auroc"], abs=1e-12)
    assert area(precision_recall(found)) == pytest.approx(metrics["image_ap"], abs=1e-12)


@pytest.mark.parametrize("ties", [False, True])
def test_images_above_the_best_threshold_have_the_best_f1(ties):
    scores, labels = scores_and_labels(150, ties)
    found = scores > best_threshold(steps(scores, labels))
    f1 = 2 * (found & labels).sum() / (found.sum() + labels.sum())
    assert f1 == pytest.approx(detection(scores, labels)["image_f1max"], abs=1e-12)


@pytest.mark.parametrize(
    ("scores", "expected"),
    [([1.0, 2.0], 0.5), ([2e-6, 1e-6, 3e-6], 0), ([1000.0, 1001.0], 999.5), ([4e-6, 4e-6], 2e-6), ([0.0, 0.0], -0.5)],
)
def test_if_all_images_count_as_defective_the_best_threshold_is_a_little_below_all_scores(scores, expected):
    scores = np.array(scores)
    assert best_threshold(steps(scores, scores == scores.min())) == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize("ties", [False, True])
def test_the_area_of_pro_is_aupro(ties):
    maps, masks = RNG.random((6, 64, 64)).astype(np.float32), np.zeros((6, 64, 64), bool)
    masks[3:, 5:20, 5:20] = masks[4, 40:44, 40:44] = True
    maps += 0.4 * masks
    pixels = PixelMetrics({"any": 6})
    for anomaly_map, mask in zip(maps.round(1) if ties else maps, masks, strict=True):
        pixels.add(anomaly_map, mask, "any")
    curve = pro(pixels)
    assert area(curve) / 0.3 == pytest.approx(pixels.total()["aupro"], abs=2e-3)
    assert curve.x[0] == 0 and curve.x[-1] == 0.3 and (np.diff(curve.x) >= 0).all() and (np.diff(curve.y) >= 0).all()


def test_a_long_curve_keeps_its_ends_and_its_area():
    scores, labels = scores_and_labels(20_000, ties=False)
    curve = roc(steps(scores, labels))
    assert len(curve.x) == MOST and (curve.x[[0, -1]] == (0, 1)).all() and (curve.y[[0, -1]] == (0, 1)).all()
    assert area(curve) == pytest.approx(detection(scores, labels)["image_auroc"], abs=1e-3)
    short = Curve(np.arange(3), np.arange(3))
    assert thinned(short).x.tolist() == [0, 1, 2]
