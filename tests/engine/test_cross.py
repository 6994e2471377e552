"""calibration: cross."""

import csv
import json
import shutil

import numpy as np
import pytest
import torch

import calibrate
from datasets.images import read_image
from deploy.predictor import Predictor
from engine import cross, run
from engine.cross import FOLDS, Folds
from engine.decisions import decider
from engine.splits import split_train, train_datasets
from engine.student_file import read_metadata
from evaluation.score import CALIBRATION
from tests.conftest import draw_good, small, write_image
from trainer import build_trainer, open_run
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
    paths = {sample.path for part in train_datasets(crossed.config) for sample in part.samples}
    left_out = [
        train_datasets(crossed.folds._trainer(fold, "test").config)[2].samples for fold in crossed.folds.folders
    ]
    assert sorted(sample.path for fold in left_out for sample in fold) == sorted(paths)
    scores = crossed.folds.calibration().scores
    for fold, trainer, found in zip(left_out, crossed.folds.trainers, scores, strict=True):
        images = [torch.from_numpy(read_image(sample.path).transpose(2, 0, 1)[None]) for sample in fold]
        own = sorted(trainer.anomaly_map(image).max().item() for image in images)
        assert found.tolist() == pytest.approx(own, rel=1e-3)
    assert crossed.folds.calibration().images == len(paths)


def test_a_test_and_a_prediction_decide_alike(crossed):
    with (crossed.run_dir / "scores.csv").open(newline="", encoding="utf-8") as file:
        tested = list(csv.DictReader(file))
    decisions = json.loads((crossed.run_dir / "metrics.json").read_text(encoding="utf-8"))["decisions"]
    assert decisions["students"] == FOLDS and decisions["guaranteed_rate"] == pytest.approx(0.4 + (1 - 5 / 10) / 6)
    predictor = Predictor(crossed.run_dir)
    for row in tested:
        found = predictor(row["path"])
        assert found.p_value == pytest.approx(float(row["p_value"])) and found.decision == row["decision"]
        assert bool(found.regions) == found.mask.any() == (found.decision != "accept")
        assert found.score == pytest.approx(float(row["score"]), rel=1e-3)
    assert {row["decision"] for row in tested} & {"reject", "review"}


def test_changed_settings_decide_nothing_and_are_said_once(crossed, capsys):
    predictor = Predictor(crossed.run_dir, ["TrainingData.sigma=2"])
    said = capsys.readouterr().err
    assert predictor.calibration is None and predictor.explained
    assert said.count("do not compare scores") == 1
    assert said.count("nothing is decided, because TrainingData.sigma was changed") == 1


def test_folds_of_other_settings_than_the_run_decide_nothing(crossed, capsys):
    options = crossed.config.TrainingData.model_copy(update={"sigma": 2.0})
    folds = Folds(type(crossed), crossed.config.model_copy(update={"TrainingData": options}), crossed.run_dir)
    assert folds.calibration() is None and capsys.readouterr().err.count("do not compare scores") == 1
    found, (note,) = decider(folds.config, crossed.compute, crossed.run_dir, crossed.metadata, folds)
    assert found is None and "the students of the folds have other settings: train again" in note


def test_the_folds_have_the_teacher_of_the_run(crossed):
    """With `auto`, other weights may be found hours later."""
    config = crossed.config.model_copy(update={"weights": "auto", "calibration": "1/5", "phase": "train"})
    assert type(crossed)(config, crossed.run_dir / "folds/new").metadata["teachers"][0]["weights"] == "random"


def test_too_few_images_for_the_folds_are_said_before_the_training(crossed, monkeypatch):
    monkeypatch.setattr(run, "FOLDS", 11)
    with pytest.raises(UserError, match="calibration=cross needs at least 11 good images; there are 10"):
        run._notes_before(crossed.config, *train_datasets(crossed.config))


def test_folds_of_another_arithmetic_decide_with_one_note(crossed, monkeypatch):
    normal = crossed.folds.trainers[0].metadata["normal"]
    assert normal["arithmetic"] == crossed.metadata["normal"]["arithmetic"] == str(crossed.compute)
    monkeypatch.setitem(normal, "arithmetic", "float16 on cuda")
    found, notes = decider(crossed.config, crossed.compute, crossed.run_dir, crossed.metadata, crossed.folds)
    assert found.images == 10 and ["float16 on cuda" in note for note in notes] == [True]


@pytest.mark.slow
def test_a_new_threshold_replaces_the_folds_and_this_is_said(crossed, tmp_path):
    run = shutil.copytree(crossed.run_dir, tmp_path / "run")
    rng = np.random.default_rng(5)
    for k in range(20):
        write_image(tmp_path / f"new/{k:02}.png", draw_good(rng))
    said = [calibrate.calibrate(open_run(run), tmp_path / "new") for _ in range(2)]
    assert ["not the students of calibration=cross" in "\n".join(lines) for lines in said] == [True, False]
    assert "students" not in Predictor(run).calibration.promise


@pytest.mark.slow
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
        UserError, match="calibration: cross needs 2 further students; the one in .*2of2 is missing: train again"
    ):
        trainer.test()
    again = build_trainer(raw)
    again.train()
    assert (folders[0] / "student.safetensors").read_bytes() == first
    assert read_metadata(folders[-1] / "student.safetensors")["settings"]["calibration"] == "2/2"
    again.test()
    assert "2 further students are trained after this one" in capsys.readouterr().err


def test_the_students_of_the_folds_leave_the_number_of_threads_as_it_is(config):
    class Student:
        """As a trainer, which sets it when it is built and again when its student is loaded."""

        metadata = {"normal": {"source": CALIBRATION, "scores": [1.0]}}

        def __init__(self, config=None, folder=None):
            torch.set_num_threads(own + 1)

        load = train = __init__

    own, trainer = torch.get_num_threads(), build_trainer(config("st", calibration="cross"))
    folds = Folds(Student, trainer.config, trainer.run_dir)
    for folder in folds.folders.values():
        folder.mkdir(parents=True)
        (folder / "student.safetensors").touch()
    try:
        folds.train()
        assert torch.get_num_threads() == own
        assert len(folds.trainers) == FOLDS and torch.get_num_threads() == own
    finally:
        torch.set_num_threads(own)


@pytest.mark.parametrize(("calibration", "count"), [(0.5, 1), ("cross", 2), ("none", 0)])
def test_copies_among_the_images_for_calibration_are_said(calibration, count, config):
    found = build_trainer(config("st", calibration=calibration, part_pattern=None)).config
    train, val, kept = train_datasets(found)
    for dataset in (train, val, kept):
        dataset.read_all(0)
    (kept if len(kept) else val).digests[0] = train.digests[0]  # as if the files were equal
    notes = run._notes_on_copies(found, [train, val, *([kept] if len(kept) else [])])
    assert [f"{count} of the images for calibration have copies" in note for note in notes] == [True] * bool(count)


def test_too_few_images_are_said_before_the_training(config, capsys, monkeypatch):
    monkeypatch.setattr(Folds, "train", lambda folds: None)
    build_trainer(config("st", {"epochs": 1}, calibration="cross", false_reject_rate=0.01)).train()
    assert "no decisions: false_reject_rate 0.01 needs at least 99 good images" in capsys.readouterr().err


def test_a_fold_alone_says_nothing_of_decisions(config):
    trainer = build_trainer(config("st", {"epochs": 1}, calibration="2/5", false_reject_rate=0.1))
    assert run._notes_before(trainer.config, *train_datasets(trainer.config)) == []  # the two images of a fold


@pytest.mark.parametrize("value", ["0/5", "x", "1/", 1.5])
def test_other_values_are_refused(config, value):
    with pytest.raises(UserError, match="calibration"):
        build_trainer(config("st", {"epochs": 1}, calibration=value))
