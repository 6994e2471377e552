"""calibration: cross."""

import csv
import json

import pytest

from deploy.predictor import Predictor
from engine import cross, run
from engine.cross import FOLDS, Folds
from engine.loading import split_train, train_datasets
from engine.student_file import read_metadata
from tests.conftest import small
from trainer import build_trainer
from utils.errors import UserError

SETTINGS = {"calibration": "cross", "false_reject_rate": 0.2, "review_rate": 0.9}


@pytest.fixture(scope="module")
def crossed(tiny_mvtec, tmp_path_factory):
    save_path = str(tmp_path_factory.mktemp("results"))
    trainer = build_trainer(small("st", {"epochs": 1}, data_path=str(tiny_mvtec), save_path=save_path, **SETTINGS))
    trainer.train()
    trainer.test()
    return trainer


def test_folds_are_disjoint_and_together_all_images():
    folds = [split_train(23, 0.2, 0, f"{k}/5") for k in range(1, 6)]
    assert sorted(place for _, _, fold in folds for place in fold) == list(range(23))
    for train, val, fold in folds:
        assert sorted(train + val + fold) == list(range(23)) and len(val) == 5


def test_every_image_is_scored_by_the_student_that_did_not_see_it(crossed):
    images = {sample.path for part in train_datasets(crossed.config) for sample in part.samples}
    left_out = [
        train_datasets(crossed.folds._trainer(fold, "test").config)[2].samples for fold in crossed.folds.folders
    ]
    assert sorted(sample.path for fold in left_out for sample in fold) == sorted(images)
    scores = crossed.folds.calibration().scores
    assert [len(fold) for fold in scores] == [len(fold) for fold in left_out]
    assert crossed.folds.calibration().images == len(images)


def test_a_test_and_a_prediction_decide_alike(crossed):
    with (crossed.run_dir / "scores.csv").open(newline="", encoding="utf-8") as file:
        tested = list(csv.DictReader(file))
    decisions = json.loads((crossed.run_dir / "metrics.json").read_text(encoding="utf-8"))["decisions"]
    assert decisions["students"] == FOLDS and decisions["guaranteed_rate"] == 0.4
    predictor = Predictor(crossed.run_dir)
    for row in tested:
        found = predictor(row["path"])
        assert found.p_value == pytest.approx(float(row["p_value"])) and found.decision == row["decision"]
        assert bool(found.regions) == found.mask.any() == (found.decision != "accept")
        assert found.score == pytest.approx(float(row["score"]), rel=1e-3)
    assert {row["decision"] for row in tested} & {"reject", "review"}


def test_an_interrupted_calibration_continues_with_the_folds_that_are_missing(config, monkeypatch, capsys):
    for module in (cross, run):
        monkeypatch.setattr(module, "FOLDS", 2)
    raw = config("st", {"epochs": 1}, **SETTINGS)
    trainer = build_trainer(raw)
    folders = list(trainer.folds.folders.values())
    trainer.train()
    first = (folders[0] / "student.safetensors").read_bytes()
    for path in (folders[-1] / "student.safetensors", folders[-1] / "config.yaml"):
        path.unlink()
    with pytest.raises(
        UserError, match="calibration: cross needs 2 further students, but .*2of2 has none: train again"
    ):
        trainer.test()
    again = build_trainer(raw)
    again.train()
    assert (folders[0] / "student.safetensors").read_bytes() == first
    assert read_metadata(folders[-1] / "student.safetensors")["settings"]["calibration"] == "2/2"
    again.test()
    assert "2 further students are trained after this one" in capsys.readouterr().err


def test_too_few_images_are_said_before_the_training(config, capsys, monkeypatch):
    monkeypatch.setattr(Folds, "train", lambda folds: None)
    build_trainer(config("st", {"epochs": 1}, calibration="cross", false_reject_rate=0.01)).train()
    assert "no decisions: false_reject_rate 0.01 needs at least 99 good images" in capsys.readouterr().err


@pytest.mark.parametrize("value", ["0/5", "x", "1/", 1.5])
def test_other_values_are_refused(config, value):
    with pytest.raises(UserError, match="calibration"):
        build_trainer(config("st", {"epochs": 1}, calibration=value))
