"""Metrics of drawn test sets, from counts of values."""

import numpy as np
import pytest

from evaluation import resampling
from evaluation.metrics import PixelMetrics, detection
from evaluation.resampling import ScoredImages, Scores, metrics, pixel_counts, write_counts

TYPES = ["good"] * 3 + ["hole"] * 3
SCORES = [0.1, 0.2, 0.3, 0.25, 0.9, 0.15]
NAMES = {"auroc": "pixel_auroc", "ap": "pixel_ap", "f1max": "pixel_f1max", "aupro": "aupro"}


def images():
    """Maps [H,W] with equal values, and masks; the last defect's mask is empty."""
    rng = np.random.default_rng(0)
    for index in range(len(TYPES)):
        mask = np.zeros((24, 20), bool)
        if index in (3, 4):
            mask[2:9, 3 : 8 + index] = True
            mask[20, 15] = True
        yield rng.gamma(2, 0.1, mask.shape).round(3).astype(np.float32) + 0.2 * mask, mask


def counted(which=(0, 1, 2, 3, 4, 5), shift=0.0, scale=1.0):
    """Exact metrics of some images, each as often as it is named, and the counts of all."""
    exact, all_of_them = (PixelMetrics(dict.fromkeys(TYPES, 2 * len(TYPES))) for _ in range(2))
    found = [(scale * anomaly_map + np.float32(shift), mask) for anomaly_map, mask in images()]
    for index in which:
        exact.add(*found[index], TYPES[index])
    for each, name in zip(found, TYPES, strict=True):
        all_of_them.add(*each, name)
    return exact.total(), pixel_counts(all_of_them, range(len(TYPES)))


def whole(counts):
    return {NAMES[name]: value[0] for name, value in metrics(counts, np.ones((1, len(TYPES)))).items()}


@pytest.mark.parametrize(("shift", "scale"), [(0, 1), (-0.25, 1), (100, 1), (1, 1e-3)])
def test_metrics_of_counts_are_those_of_the_pixels(shift, scale):
    """Also of negative values, and of values that differ little. The precision depends most on the bins."""
    exact, counts = counted(shift=shift, scale=scale)
    assert whole(counts) == pytest.approx(exact, abs=6e-3)
    assert whole(counts)["pixel_auroc"] == pytest.approx(exact["pixel_auroc"], abs=1e-3)
    assert whole(counts)["aupro"] == pytest.approx(exact["aupro"], abs=2e-3)


def test_an_image_drawn_twice_counts_twice():
    exact, counts = counted([0, 0, 2, 3, 4, 4])
    found = metrics(counts, np.array([[2.0, 0, 1, 1, 2, 0]]))
    assert {NAMES[name]: value[0] for name, value in found.items()} == pytest.approx(exact, abs=6e-3)


def test_images_may_come_in_any_order():
    pixels, found = PixelMetrics(dict.fromkeys(TYPES, len(TYPES))), list(images())
    order = [5, 0, 3, 1, 4, 2]
    for index in order:
        pixels.add(*found[index], TYPES[index])
    for part, expected in zip(pixel_counts(pixels, order), counted()[1], strict=True):
        assert part.sum(1) == pytest.approx(expected.sum(1))


def test_few_bins_change_little(monkeypatch):
    many = counted()[1]
    monkeypatch.setattr(resampling, "BINS", 64)
    few = counted()[1]
    assert few.negatives.shape[1] <= 65 < many.negatives.shape[1]
    assert whole(few) == pytest.approx(whole(many), abs=0.02)
    for few_part, part in zip(few, many, strict=True):
        assert few_part.sum(1) == pytest.approx(part.sum(1))


def test_image_metrics_are_exact_also_with_equal_scores():
    rng = np.random.default_rng(1)
    scores, defective = rng.normal(0, 1, 40).round(1), np.arange(40) % 3 == 0
    times = rng.integers(0, 3, (5, 40))
    found = metrics(Scores(scores, defective), times)
    for draw, row in enumerate(times):
        expected = detection(np.repeat(scores, row), np.repeat(defective, row))
        assert {f"image_{name}": found[name][draw] for name in ("auroc", "ap", "f1max")} == pytest.approx(expected)


def test_a_drawn_test_set_without_regions_has_no_pixel_metric():
    found = metrics(counted()[1], np.array([[1.0, 1, 1, 0, 0, 3]]))
    assert all(np.isnan(value).all() for value in found.values())


@pytest.fixture
def run_dir(tmp_path):
    counts = counted()[1]
    write_counts(tmp_path, counts)
    rows = [f"a,{int(kind != 'good')},{score},{kind}" for kind, score in zip(TYPES, SCORES, strict=True)]
    (tmp_path / "scores.csv").write_text("\n".join(["path,label,score,defect_type", *rows]), encoding="utf-8")
    return tmp_path


def test_a_test_is_read_as_it_was_written_and_a_type_has_its_own(run_dir):
    auroc = detection(np.array(SCORES), np.array(TYPES) != "good")["image_auroc"]
    read = ScoredImages.read(run_dir, {"image_auroc": auroc, "aupro": 0.5})
    assert (read.pixels.coverage == counted()[1].coverage).all()
    found = read.of_type("hole").metrics(np.ones((1, 6)))
    assert found["image_auroc"][0] == pytest.approx(auroc) and set(found) >= {"pixel_ap", "aupro", "image_f1max"}
    assert len(read.of_type("scratch").types) == 3


def test_scores_of_a_test_that_left_images_out_are_not_known(run_dir):
    left_out = ScoredImages.read(run_dir, {"image_auroc": 1.0})
    assert left_out.scores is None and left_out.pixels is None and not left_out.metrics(np.ones((1, 6)))


def test_damaged_files_are_told(run_dir):
    with (run_dir / "scores.csv").open("a", encoding="utf-8") as file:
        file.write("\na,0,0.5,good")
    with pytest.raises(ValueError, match=r"pixels.npz and scores.csv are about different images"):
        ScoredImages.read(run_dir, {"aupro": 0.5})
    (run_dir / "pixels.npz").write_bytes((run_dir / "pixels.npz").read_bytes()[:200])
    with pytest.raises(ValueError, match=r"pixels.npz: File is not a zip file"):
        ScoredImages.read(run_dir, {"aupro": 0.5})
