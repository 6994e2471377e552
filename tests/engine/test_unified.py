"""One student for several categories: what it is trained on, its folder, and its tests."""

import json
import shlex

import numpy as np
import pytest

import calibrate
import trainNet
import visualization
from datasets import readers
from datasets.dataset import ImageDataset
from engine import run as engine_run
from engine.splits import train_datasets
from engine.unified import categories_apart
from evaluation import report
from tests.conftest import draw_good, killed_at_the_first_checkpoint, small, write_image, write_mvtec
from tests.datasets.readers import trees
from trainer import build_trainer, open_run
from utils.command import run
from utils.config import result_settings
from utils.config_file import read_config
from utils.errors import UserError

LISTED = {"obj": ["a", "b"], "unified": True}


def raw(root, **top):
    return small(
        "st", {"epochs": 1}, **(LISTED | {"data_path": str(root / "data"), "save_path": str(root / "out")} | top)
    )


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A folder with two categories and a student for both, trained and tested by trainNet.py's function."""
    root = tmp_path_factory.mktemp("unified")
    for obj, train, bad in (("a", 6, 2), ("b", 8, 3)):
        write_mvtec(root / "data", obj, train, 2, bad)
    folders = trainNet.train_and_test(raw(root))
    assert folders == [root / "out/st/a+b" / name for name in "ab"]
    return root


def test_a_list_becomes_one_run_with_the_names_of_its_categories(finished):
    config = build_trainer(raw(finished)).config
    assert (config.obj, config.unified) == ("a+b", ["a", "b"])
    assert build_trainer(raw(finished, obj=["a", "b", "a"])).config.unified == ["a", "b"]
    many = build_trainer(raw(finished, obj=[f"category_{k}" for k in range(15)])).config
    assert many.obj == "category_0+14_more" and len(many.unified) == 15


@pytest.mark.parametrize(
    ("top", "words"),
    [
        ({"obj": "a"}, r"'unified' must come with several categories: obj=\[a, b\], or obj=all"),
        ({"part_pattern": "x"}, "'part_pattern': cannot be used with unified"),
        ({"protocol": "paper"}, "'protocol': cannot be used with unified"),
        ({"unified": False}, "'obj' must be text"),
    ],
)
def test_mistakes_name_the_key(finished, top, words):
    with pytest.raises(UserError, match=words):
        build_trainer(raw(finished, **top))


def test_the_key_changes_the_settings_only_of_such_a_student(finished):
    config = build_trainer(raw(finished)).config
    assert result_settings(config)["unified"] == ["a", "b"]
    assert "unified" not in result_settings(config.model_copy(update={"obj": "a", "unified": False}))


def test_all_categories_train_and_are_held_out(finished):
    config = build_trainer(raw(finished, seed=1)).config
    train, val, _ = train_datasets(config)
    assert (len(train), len(val)) == (11, 3)
    counts = [sum(f"data/{obj}/" in str(sample.path) for sample in train.samples + val.samples) for obj in "ab"]
    assert counts == [6, 8] and all(any(f"data/{obj}/" in str(s.path) for s in train.samples) for obj in "ab")


def test_images_of_the_same_name_in_two_categories_have_names_of_their_own(finished):
    names = [sample.name for sample in readers.test_samples(build_trainer(raw(finished)).config)]
    assert len(set(names)) == len(names) == 9 and {"good/a_000", "good/b_000", "square/b_002"} <= set(names)


def test_each_category_has_a_report_of_its_own_images(finished):
    run_dir = finished / "out/st/a+b"
    assert (run_dir / "student.safetensors").exists() and not (run_dir / "metrics.json").exists()
    for name, bad in (("a", 2), ("b", 3)):
        folder = run_dir / name
        report = json.loads((folder / "metrics.json").read_text())
        assert report["config"]["obj"] == name and report["trained_with"]["obj"] == "a+b"
        assert report["per_defect"]["square"]["images"] == bad
        scores = (folder / "scores.csv").read_text().splitlines()[1:]
        assert len(scores) == 2 + bad and all(f"data/{name}/test" in line for line in scores)
        assert (folder / "maps/square/001.png").exists() and not (folder / "student.safetensors").exists()
        assert read_config(folder / "config.yaml") == read_config(run_dir / "config.yaml")


def test_the_figures_are_those_of_the_student_on_each_category(finished):
    trainer = open_run(finished / "out/st/a+b")
    for part in categories_apart(trainer):
        dataset = ImageDataset(readers.test_samples(part.config), part.options)
        assert [sample.name for sample in dataset.samples] == [sample.name for sample in part.test_set[0].samples]
        scores = [line.split(",")[2] for line in (part.run_dir / "scores.csv").read_text().splitlines()[1:]]
        found = trainer.anomaly_map(dataset.batch(range(len(dataset)))["image"]).amax(dim=(1, 2, 3))
        assert found.tolist() == pytest.approx([float(score) for score in scores], rel=1e-4)


def test_without_test_images_those_that_the_student_did_not_see_are_scored(tmp_path):
    for obj in ("a", "b"):
        write_mvtec(tmp_path / "data", obj, 20, 0, 0)
    trainer = build_trainer(raw(tmp_path))
    held_out = {sample.path for sample in train_datasets(trainer.config)[1].samples}
    parts = [{sample.path for sample in part.test_set[0].samples} for part in categories_apart(trainer)]
    assert len(parts) == 2 and all(parts) and set.union(*parts) == held_out


def test_the_student_of_one_category_is_tested_in_its_own_folder(finished):
    trainer = build_trainer(raw(finished, obj="a", unified=False))
    assert list(categories_apart(trainer)) == [trainer]


@pytest.mark.slow
def test_the_script_prints_a_table_with_the_mean_and_pages_lie_in_each_category(finished, monkeypatch, capsys):
    words = ["--config", str(finished / "out/st/a+b/config.yaml")]
    twice = ["phase=test", "obj=[a,b,a]", "unified=true"]
    listed, found = ([f"obj={obj}", "unified=true", "--layers", "2"] for obj in ("[a,b]", "all"))
    calls = [(trainNet, ["phase=test"]), (trainNet, twice), (visualization, ["--layers", "1"])]
    for script, more in [*calls, (visualization, listed), (visualization, [*found[:-1], "3"])]:
        monkeypatch.setattr("sys.argv", ["script", *words, *more])
        run(script.main)
        said = capsys.readouterr().out.strip().splitlines()
        if script is trainNet:
            assert [line.split()[0] for line in said[-4:]] == ["category", "a", "b", "mean"]
    for name in "ab":
        features = finished / "out/st/a+b" / name / "features/square"
        assert all(list(features.glob(f"*_level{level}.png")) for level in (1, 2, 3))


def test_the_folder_of_a_category_is_no_run(finished):
    with pytest.raises(UserError, match="the test of one category of .*a.b: give that folder"):
        open_run(finished / "out/st/a+b/a")


def test_own_validation_sets_are_united(tmp_path):
    for make in (trees.mvtec_ad2, trees.mvtec_loco):
        make(tmp_path)
    config = trees.config_of(tmp_path, ["can", "pushpins"], unified=True)
    assert len(readers.validation_samples(config)) == 6 and len(readers.train_samples(config)) == 8


@pytest.mark.slow
def test_an_interrupted_training_is_resumed_and_a_finished_one_is_only_tested(finished, tmp_path, monkeypatch, capsys):
    top = {"save_path": str(tmp_path)}
    with killed_at_the_first_checkpoint(monkeypatch):
        trainNet.train_and_test(raw(finished, **top))
    folders = trainNet.train_and_test(raw(finished, **top))
    for folder in folders:
        metrics = json.loads((folder / "metrics.json").read_text())["metrics"]
        whole = finished / "out/st/a+b" / folder.name / "metrics.json"
        assert metrics == json.loads(whole.read_text())["metrics"]
        (folder / "metrics.json").unlink()
    capsys.readouterr()
    trainNet.train_and_test(raw(finished, **top))
    assert "already finished; only its test is missing" in capsys.readouterr().err
    assert all((folder / "metrics.json").exists() for folder in folders)


@pytest.mark.slow
def test_decisions_of_each_category_come_from_the_one_calibration(finished, tmp_path):
    for calibration in (0.25, "cross"):
        rates = {"calibration": calibration, "false_reject_rate": 0.6, "save_path": str(tmp_path / str(calibration))}
        for folder in trainNet.train_and_test(raw(finished, **rates)):
            report = json.loads((folder / "metrics.json").read_text())
            assert report["decisions"] and "decision" in (folder / "scores.csv").read_text().splitlines()[0]


@pytest.mark.slow
def test_each_category_may_have_a_region_of_interest(finished, tmp_path):
    for name in ("a", "b"):
        mask = np.zeros((64, 64), np.uint8)
        mask[:, : 40 if name == "a" else 50] = 255
        write_image(finished / f"data/{name}/roi.png", mask)
    top = {"calibration": 0.25, "false_reject_rate": 0.6, "save_path": str(tmp_path), "unified": True}
    where = {"data_path": str(finished / "data"), "obj": ["a", "b"]}
    for folder in trainNet.train_and_test(small("st", {"epochs": 1, "roi": "roi.png"}, **top, **where)):
        report = json.loads((folder / "metrics.json").read_text())
        assert report["decisions"], report["notes"]


@pytest.mark.slow
def test_a_new_threshold_is_that_of_all_categories_and_their_reports_forget_the_other(finished, tmp_path, monkeypatch):
    rates = {"calibration": 0.25, "false_reject_rate": 0.6, "save_path": str(tmp_path / "out")}
    folders = trainNet.train_and_test(raw(finished, **rates))
    for k in range(3):
        write_image(tmp_path / f"new/{k}.png", draw_good(np.random.default_rng(k)))
    said = calibrate.calibrate(open_run(tmp_path / "out/st/a+b"), tmp_path / "new")
    assert any("this threshold is for all categories" in line for line in said)
    said = said[-1]
    assert "the pages still show the earlier threshold" in said
    assert [json.loads((folder / "metrics.json").read_text())["decisions"] for folder in folders] == [None, None]
    monkeypatch.setattr("sys.argv", shlex.split(said.partition("to update them: ")[2])[1:])
    run(trainNet.main)
    assert all(json.loads((folder / "metrics.json").read_text())["decisions"] for folder in folders)


@pytest.mark.slow
def test_reports_of_an_earlier_student_are_not_beside_a_new_one_whose_test_fails(tmp_path, monkeypatch):
    for obj in "ab":
        write_mvtec(tmp_path / "data", obj, 6, 2, 2)
    folders = trainNet.train_and_test(raw(tmp_path))
    before = [(folder / "metrics.json").read_text() for folder in folders]
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(report, "test_report", lambda *_, **__: (_ for _ in ()).throw(KeyboardInterrupt()))
        trainNet.train_and_test(raw(tmp_path, seed=1, overwrite=True))
    assert not any((folder / "metrics.json").exists() or (folder / "report.html").exists() for folder in folders)
    kept = [folder.with_name(f".{folder.name}.previous") for folder in folders]
    assert [(folder / "metrics.json").read_text() for folder in kept] == before
    trainNet.train_and_test(raw(tmp_path, seed=1))
    assert all((folder / "metrics.json").exists() for folder in folders) and not any(each.exists() for each in kept)


def test_data_of_another_place_are_refused_before_the_training(finished, monkeypatch):
    monkeypatch.setattr(engine_run, "train", lambda *_: pytest.fail("trained"))
    for obj in "ab":
        write_mvtec(finished / "other", obj, 6, 2, 2)
    with pytest.raises(UserError, match="holds the report of a test on"):
        trainNet.train_and_test(raw(finished, data_path=str(finished / "other")))
