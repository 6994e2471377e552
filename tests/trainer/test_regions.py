"""A region of interest reaches training, scores, metrics, pictures and predictions alike."""

import csv
import json

import numpy as np
import pytest
from PIL import Image

from datasets.images import read_image
from deploy.pictures import drawn
from deploy.predictor import Predictor
from tests.conftest import all_scored, draw_good, small, write_image, write_mvtec
from trainer import build_trainer
from utils.errors import UserError

LEFT = np.zeros((64, 64), bool)
LEFT[:, :40] = True


def with_square(seed, column):
    """A good picture with a square at this column, and the square's mask."""
    image, mask = draw_good(np.random.default_rng(seed)), np.zeros((64, 64), np.uint8)
    mask[20:30, column : column + 10] = 255
    image[mask > 0] = (250, 20, 20)
    return image, mask


@pytest.fixture
def root(tmp_path):
    """Defects inside the region, and in `outside/` only outside; a region for all, and one for each image."""
    root = write_mvtec(tmp_path / "data", good=3, bad=0)
    for name, column in (("inside", 10), ("outside", 50)):
        for k in range(2):
            image, mask = with_square(k, column)
            write_image(root / f"part/test/{name}/{k:03}.png", image)
            write_image(root / f"part/ground_truth/{name}/{k:03}_mask.png", mask)
    mask = LEFT.astype(np.uint8) * 255
    write_image(root / "part/roi.png", mask)
    for path in list((root / "part").glob("t*/*/*.png")):
        write_image(root / "part/each" / path.relative_to(root / "part"), mask)
    return root


def run(root, training=None, **top):
    raw = small("st", {"roi": "roi.png"} | (training or {}), data_path=str(root), precision="fp32", **top)
    calibration = {"calibration": top.get("calibration", 0.3), "false_reject_rate": 0.25}
    trainer = build_trainer(raw | {"save_path": str(root / "results")} | calibration)
    trainer.train()
    return trainer, trainer.test()


def scores(trainer):
    with (trainer.run_dir / "scores.csv").open(newline="") as file:
        return {row["path"]: float(row["score"]) for row in csv.DictReader(file)}


@pytest.mark.slow
@pytest.mark.parametrize("training", [{}, {"img_size": [64, 96], "tile": 64}])
def test_a_defect_outside_is_neither_scored_nor_counted(root, training):
    trainer, metrics = run(root, training)
    assert all(np.isfinite(value) for value in metrics.values())
    predictor = Predictor(trainer.run_dir)
    plain = predictor(draw_good(np.random.default_rng(0)))
    outside, inside = (predictor(with_square(0, column)[0]) for column in (50, 10))
    assert outside.score == plain.score and (outside.anomaly_map == plain.anomaly_map).all()
    assert outside.decision == plain.decision and inside.score > plain.score
    assert np.isneginf(plain.anomaly_map[~LEFT]).all() and np.isfinite(plain.anomaly_map[LEFT]).all()
    for path, score in scores(trainer).items():
        assert predictor(path).score == pytest.approx(score, rel=1e-4)
    report = json.loads((trainer.run_dir / "metrics.json").read_text())
    assert list(report["per_defect"]) == ["inside"]
    assert any("2 defective images have no mask pixel in the region of interest" in note for note in report["notes"])
    assert report["decisions"]["misses"]["of"] == 2  # not 4
    for result in all_scored(trainer):
        region = result.region
        assert (result.anomaly_map[~region] == result.anomaly_map[region].min()).all()


@pytest.mark.slow
def test_regions_of_each_image_are_used_and_other_images_need_one_for_all(root):
    trainer, metrics = run(root)
    each, same = run(root, {"roi": "each"}, run="each")
    assert same == metrics and scores(each) == scores(trainer)  # all of them are the same region
    with pytest.raises(UserError, match="TrainingData.roi=FILE"):
        Predictor(each.run_dir)
    path = next(iter(scores(each)))
    assert (
        Predictor(each.run_dir, ["TrainingData.roi=roi.png"])(path).decision
        == Predictor(trainer.run_dir)(path).decision
    )


@pytest.mark.slow
@pytest.mark.parametrize("training", [{}, {"img_size": [64, 96], "tile": 64}])
def test_several_students_decide_inside_the_region_only(root, training):
    trainer, _ = run(root, training, run="cross", calibration="cross")
    predictor = Predictor(trainer.run_dir)
    plain, outside = (predictor(image) for image in (draw_good(np.random.default_rng(0)), with_square(0, 50)[0]))
    assert (outside.p_value, outside.decision) == (plain.p_value, plain.decision) and 0 < plain.p_value <= 1
    with (trainer.run_dir / "scores.csv").open(newline="") as file:
        for row in csv.DictReader(file):
            found = predictor(row["path"])
            assert (found.p_value, found.decision) == (pytest.approx(float(row["p_value"])), row["decision"])
            assert not found.mask[:, 40:].any()


@pytest.mark.slow
def test_another_region_is_another_training(root):
    trainer, _ = run(root)
    write_image(root / "part/roi.png", LEFT.T.astype(np.uint8) * 255)
    with pytest.raises(UserError, match="good images changed"):
        run(root)


def test_what_is_outside_is_drawn_dark(root):
    trainer, _ = run(root)
    page = np.asarray(Image.open(trainer.run_dir / "maps/outside/000.png")).astype(int)
    rows = np.flatnonzero((page == 255).all(axis=2).mean(axis=1) < 0.5)  # of the panels and the colour bar
    panel = page[rows[0] : rows[0] + 256, 10 : 10 + 256]
    original = read_image(root / "part/test/outside/000.png").astype(int)
    enlarged = original.repeat(4, axis=0).repeat(4, axis=1)
    bright, dark = panel[:, : 4 * 38], panel[:, 4 * 42 :]
    assert np.abs(bright - enlarged[:, : 4 * 38]).mean() < 10
    assert np.abs(dark - enlarged[:, 4 * 42 :] / 4).mean() < 10
    predictor = Predictor(trainer.run_dir)
    overlay = np.asarray(drawn(predictor, predictor(original.astype(np.uint8)))["overlays"])
    assert (overlay[:, 42:] == original[:, 42:] // 4).all()
    assert (overlay[40:, :38] == original[40:, :38]).mean() > 0.9


def test_a_picture_that_the_region_does_not_fit_is_reported_and_the_rest_goes_on(root, tmp_path):
    trainer, _ = run(root)
    write_image(tmp_path / "wide.png", np.zeros((64, 90, 3), np.uint8))
    good = root / "part/test/good/000.png"
    found = dict(Predictor(trainer.run_dir).stream([good, tmp_path / "wide.png", good]))
    assert isinstance(found[tmp_path / "wide.png"], UserError) and "90 x 64 px" in str(found[tmp_path / "wide.png"])
    assert found[good].score > 0
