"""Every method trains, tests and predicts by tiles of large images."""

import csv
import json

import numpy as np
import pytest
import torch

from datasets.tiles import Tiles
from deploy.predictor import Predictor
from engine.loading import training_batches
from tests.conftest import SMALL, all_scored, small, write_mvtec
from trainer import TRAINERS, build_trainer
from utils.errors import UserError
from visualization import highest_tile, look

WIDE = 1.5  # an image is wider than a tile by this factor: two tiles


@pytest.fixture(scope="module")
def few(tmp_path_factory):
    """Three good pictures to train on and two to test."""
    return write_mvtec(tmp_path_factory.mktemp("few"), train=3, good=1, bad=1)


def tiled(method, root, save_path, training=None, **top):
    side = SMALL.get(method, {}).get("TrainingData", {}).get("img_size", 64)
    sizes = {"img_size": [side, int(WIDE * side)], "tile": side, "epochs": 2, "val_ratio": 0.25, "batch_size": 2}
    where = {"data_path": str(root), "save_path": str(save_path), "precision": "fp32"}
    return small(method, sizes | (training or {}), **where, **top)


QUICK = ("st", "rnrd")
METHODS = [name if name in QUICK else pytest.param(name, marks=pytest.mark.slow) for name in TRAINERS]


@pytest.mark.parametrize("method", METHODS)
def test_every_method_trains_tests_and_predicts_by_tiles(few, tmp_path, method):
    trainer = build_trainer(tiled(method, few, tmp_path, calibration=0.25, false_reject_rate=0.5))
    side, seen = trainer.options.input_size, set()
    for module in trainer.detector.modules():
        if isinstance(module, torch.nn.Conv2d):
            module.register_forward_pre_hook(lambda net, args: seen.add(tuple(args[0].shape[-2:])))
    trainer.train()
    metrics = trainer.test()
    assert "aupro" in metrics and all(np.isfinite(value) for value in metrics.values())
    assert max(max(shape) for shape in seen) == max(side)  # no network saw more than a tile
    whole = trainer.options.crop_size
    assert all(result.anomaly_map.shape == whole for result in all_scored(trainer))
    report = json.loads((trainer.run_dir / "metrics.json").read_text())
    assert len(report["good_scores"]["scores"]) == 1  # of whole images, not of tiles
    with (trainer.run_dir / "scores.csv").open(newline="") as file:
        scores = {row["path"]: float(row["score"]) for row in csv.DictReader(file)}
    predictor = Predictor(trainer.run_dir)
    for path, score in scores.items():
        assert predictor(path).score == pytest.approx(score, rel=1e-4)


def test_training_draws_every_tile_of_every_image(few, tmp_path):
    trainer = build_trainer(tiled("st", few, tmp_path, {"val_ratio": 0.4, "overlap": 0.5}))
    train, val, _ = training_batches(trainer.config, trainer.teacher, trainer.compute)
    tiles = Tiles.of(trainer.options)
    assert (len(train.dataset), train.images, val.images) == (1, 2, 4) and len(tiles) == 2
    indices = sorted(index for batch in train for index in batch["index"].tolist())
    assert indices == [0, 1]
    for index in range(val.images):
        image = val.dataset[index // 2]["image"]
        (tile,) = val.loader.dataset.batch([index])["image"]
        assert torch.equal(tile, tiles.cut(image)[index % 2])
    paths = val.loader.dataset.batch([3, 0])["path"]
    assert paths == [str(val.dataset.samples[k].path) for k in (1, 0)]


@pytest.mark.slow
def test_a_tile_of_the_images_size_changes_nothing(few, tmp_path):
    scores = []
    for tile in (None, [64, 96]):
        raw = tiled("st", few, tmp_path / str(tile), {"tile": tile})
        trainer = build_trainer(raw)
        trainer.train()
        trainer.test()
        scores.append((trainer.run_dir / "scores.csv").read_text())
    assert scores[0] == scores[1]


def test_sizes_are_checked_for_tiles(few, tmp_path):
    """RD needs multiples of 32 for what its networks see, whatever the size of the image."""
    sizes = {"img_size": [64, 100], "tile": [64, 96]}
    assert build_trainer(tiled("rd", few, tmp_path, sizes)).options.crop_size == (64, 100)
    with pytest.raises(UserError, match=r"TrainingData.tile \(64, 72\): this method needs multiples of 32"):
        build_trainer(tiled("rd", few, tmp_path, {"tile": [64, 72]}))
    with pytest.raises(UserError, match=r"TrainingData.tile \(64, 64\): this method needs at least 96"):
        build_trainer(tiled("dbfad", few, tmp_path, {"tile": 64}))
    with pytest.raises(UserError, match=r"'TrainingData.tile' must be at least 256 pixels"):
        build_trainer(tiled("ead", few, tmp_path, {"tile": 64}))
    with pytest.raises(UserError, match=r"tile 64 x 128 is larger than crop_size 64 x 96"):
        build_trainer(tiled("st", few, tmp_path, {"tile": [64, 128]}))
    with pytest.raises(UserError, match=r"sigma 80 is wider than the image \(tile 64\)"):
        build_trainer(tiled("st", few, tmp_path, {"sigma": 80}))


def test_pages_of_features_show_the_tile_with_the_highest_value(few, tmp_path):
    trainer = build_trainer(tiled("st", few, tmp_path, {"img_size": [64, 128]}))
    trainer.train()
    dataset = trainer.test_set[0]
    item = dataset[1]  # with a defect
    tiles = dataset.tiles.cut(item["image"])
    highest = max(range(len(tiles)), key=lambda k: trainer.anomaly_map(tiles[k][None]).max())
    view = look(trainer, dataset, 1)
    column = dataset.tiles.places[highest][1].start
    assert view.final.shape == (64, 64) and view.title.endswith(f"from row 0, column {column}")
    assert (view.image == tiles[highest].permute(1, 2, 0).numpy()).all()
    assert view.aspect == pytest.approx(0.5)  # the file is square, and a tile is half of it
    region = np.broadcast_to(np.arange(128) < 20, (64, 128)).copy()  # only the first tile has a part of it
    found, place, _ = highest_tile(trainer, dataset, item | {"region": region})
    assert place == " · from row 0, column 0" and found["region"].sum() == 64 * 20


def test_an_interrupted_training_with_other_tiles_is_another_one(few, tmp_path):
    trainer = build_trainer(tiled("st", few, tmp_path))
    trainer.train()
    with pytest.raises(UserError, match="TrainingData.overlap was 0.25, is 0.5"):
        build_trainer(tiled("st", few, tmp_path, {"overlap": 0.5})).train()
