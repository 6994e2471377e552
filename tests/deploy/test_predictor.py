"""The predictor in Python: where regions lie, whatever resize, padding and crop did."""

import numpy as np
import pytest

from datasets.fit import Fit
from deploy.predictor import Predictor
from evaluation.calibration import Calibration
from trainer import build_trainer
from utils.errors import UserError


@pytest.fixture
def run(config):
    trainer = build_trainer(config("st", {"epochs": 1}, calibration=0.4, false_reject_rate=0.25))
    trainer.train()
    return trainer


def test_a_picture_is_a_path_or_pixels(run):
    predictor = Predictor(run.run_dir)
    path = run.test_set[0].samples[-1].path
    from_path, from_pixels = predictor(path), predictor(predictor(str(path)).picture)
    assert from_path.score == from_pixels.score == pytest.approx(float(from_path.anomaly_map.max()), rel=1e-6)
    assert from_path.anomaly_map.shape == from_path.picture.shape[:2]
    with pytest.raises(UserError, match="nowhere"):
        predictor("nowhere.png")


def test_pictures_of_8_and_16_bits_are_judged_alike(run):
    predictor, picture = Predictor(run.run_dir), np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    small, deep = predictor.predict([picture, picture.astype(np.uint16) * 257])
    assert small.score == pytest.approx(deep.score, rel=1e-3)


@pytest.mark.parametrize("fit", [Fit((64, 64), (64, 64)), Fit((64, 64), (64, 64), True), Fit((64, 64), (48, 32))])
@pytest.mark.parametrize("shape", [(64, 64), (100, 200), (128, 96)])
def test_regions_lie_where_the_map_is_high(run, fit, shape):
    """A map that marks one place: box and area are in the picture's pixels."""
    predictor = Predictor(run.run_dir)
    predictor.fit, predictor.calibration = fit, Calibration([0.1] * 9, 0.2)
    mask = np.zeros(shape, bool)
    top, left, bottom, right = (round(part * side) for part, side in zip((0.4, 0.5, 0.6, 0.65), shape * 2, strict=True))
    mask[top:bottom, left:right] = True
    predictor.maps_of = lambda images: np.stack(images)[:, 0].astype(np.float32) / 255
    picture = (mask[..., None] * 255).repeat(3, axis=2).astype(np.uint8)
    found = predictor(picture)
    (region,) = found.regions
    pixel = max(shape[0] / 64, shape[1] / 64) * 2
    assert np.abs(np.array(region.box) - (left, top, right, bottom)).max() <= pixel + 1
    assert region.area == pytest.approx(mask.sum(), rel=0.5) and region.score == found.score == 1
    assert found.decision == "reject"
    marked = found.anomaly_map > 0.5
    assert (marked & mask).sum() / (marked | mask).sum() > 0.5


def test_what_a_crop_cut_off_has_no_value(run):
    predictor = Predictor(run.run_dir)
    predictor.fit = Fit((64, 64), (32, 32))
    found = predictor(np.zeros((100, 100, 3), np.uint8))
    assert np.isneginf(found.anomaly_map[:24]).all() and np.isfinite(found.anomaly_map[26:74, 26:74]).all()


def test_a_rate_that_the_calibration_cannot_promise_is_an_error(run):
    with pytest.raises(UserError, match="at least 99 good images"):
        Predictor(run.run_dir, ["false_reject_rate=0.01"])


def test_a_part_between_both_rates_is_to_be_looked_at(run):
    predictor, limits = Predictor(run.run_dir), [Calibration([k / 10 for k in range(1, 10)], 0.1, 0.3)]
    predictor.calibration, predictor.maps_of = limits[0], lambda images: np.stack(images)[:, 0] / np.float32(255)
    found = [predictor(np.full((64, 64, 3), round(255 * score), np.uint8)) for score in (0.68, 0.85, 0.95)]
    assert [one.decision for one in found] == ["accept", "review", "reject"]
    assert [len(one.regions) for one in found] == [0, 1, 1]
    with pytest.raises(UserError, match=r"review_rate 0.25 must be above false_reject_rate 0.25"):
        Predictor(run.run_dir, ["review_rate=0.25"])
