"""Metrics of drawn test sets, from counts of values."""

import numpy as np
import pytest

from evaluation.metrics import PixelMetrics, detection
from evaluation.resampling import Outcome, PixelCounts, of_scores

TYPES = ["good"] * 3 + ["hole"] * 3
NAMES = {"auroc": "pixel_auroc", "ap": "pixel_ap", "f1max": "pixel_f1max", "aupro": "aupro"}


def images(shift=0.0):
    """Maps [H,W] with equal values, and masks; the last defect's mask is empty."""
    rng = np.random.default_rng(0)
    for index in range(len(TYPES)):
        mask = np.zeros((24, 20), bool)
        if index in (3, 4):
            mask[2:9, 3 : 8 + index] = True
            mask[20, 15] = True
        yield rng.gamma(2, 0.1, mask.shape).round(3).astype(np.float32) + 0.2 * mask + np.float32(shift), mask


def counted(which=(0, 1, 2, 3, 4, 5), shift=0.0, bins=10**6):
    """Exact metrics of some images, each as often as it is named, and the counts of all."""
    exact, counts, found = PixelMetrics(dict.fromkeys(TYPES, len(which))), PixelCounts(len(TYPES)), list(images(shift))
    for index in which:
        exact.add(*found[index], TYPES[index])
    for index, each in enumerate(found):
        counts.add(index, PixelMetrics({"any": 1}).add(*each, "any"))
    return exact.total(), counts.counts(bins)


@pytest.mark.parametrize("shift", [0, -0.25])  # maps may have negative values
def test_metrics_of_counts_are_those_of_the_pixels(shift):
    exact, counts = counted(shift=shift)
    found = counts.metrics(np.ones((1, len(TYPES))))
    assert {NAMES[name]: value[0] for name, value in found.items()} == pytest.approx(exact, abs=2e-3)


def test_an_image_drawn_twice_counts_twice():
    exact, counts = counted([0, 0, 2, 3, 4, 4])
    found = counts.metrics(np.array([[2.0, 0, 1, 1, 2, 0]]))
    assert {NAMES[name]: value[0] for name, value in found.items()} == pytest.approx(exact, abs=2e-3)


def test_few_bins_change_little():
    (_, many), (_, few) = counted(), counted(bins=64)
    assert few.negatives.shape[1] <= 65 < many.negatives.shape[1]
    ones = np.ones((1, len(TYPES)))
    for name, value in many.metrics(ones).items():
        assert few.metrics(ones)[name] == pytest.approx(value, abs=0.02)
    for few_part, part in zip(few, many, strict=True):
        assert few_part.sum(1) == pytest.approx(part.sum(1))


def test_image_metrics_are_exact_also_with_equal_scores():
    rng = np.random.default_rng(1)
    scores, defective = rng.normal(0, 1, 40).round(1), np.arange(40) % 3 == 0
    times = rng.integers(0, 3, (5, 40))
    found = of_scores(scores, defective).metrics(times)
    for draw, row in enumerate(times):
        expected = detection(np.repeat(scores, row), np.repeat(defective, row))
        assert {f"image_{name}": found[name][draw] for name in ("auroc", "ap", "f1max")} == pytest.approx(expected)


def test_a_drawn_test_set_without_regions_has_no_pixel_metric():
    found = counted()[1].metrics(np.array([[1.0, 1, 1, 0, 0, 3]]))
    assert all(np.isnan(value).all() for value in found.values())


def test_counts_are_read_as_they_were_written_and_a_type_has_its_own(tmp_path):
    counts = PixelCounts(len(TYPES))
    for index, each in enumerate(images()):
        counts.add(index, PixelMetrics({"any": 1}).add(*each, "any"))
    counts.write(tmp_path)
    scores = [0.1, 0.2, 0.3, 0.25, 0.9, 0.15]
    rows = [f"a,{int(kind != 'good')},{score},{kind}" for kind, score in zip(TYPES, scores, strict=True)]
    (tmp_path / "scores.csv").write_text("\n".join(["path,label,score,defect_type", *rows]), encoding="utf-8")
    auroc = detection(np.array(scores), np.array(TYPES) != "good")["image_auroc"]
    read = Outcome.read(tmp_path, {"image_auroc": auroc, "aupro": 0.5})
    assert (read.pixels.coverage == counts.counts().coverage).all()
    found = read.of_type("hole").metrics(np.ones((1, 6)))
    assert found["image_auroc"][0] == pytest.approx(auroc) and set(found) >= {"pixel_ap", "aupro", "image_f1max"}
    assert len(read.of_type("scratch").types) == 3
    left_out = Outcome.read(tmp_path, {"image_auroc": 1.0})  # a test that left images out
    assert left_out.scores is None and left_out.pixels is None and not left_out.metrics(np.ones((1, 6)))
