"""A run's folder: one process at a time, and no finished run is lost unless the user asks for it."""

import json
import os
import shutil
import subprocess
import sys
from types import SimpleNamespace

import pytest
import torch

from engine.folder import RunFolder
from engine.retest import check_retestable
from engine.unified import set_aside
from evaluation import report
from tests.conftest import REPO, write_mvtec
from trainer import build_trainer
from utils.errors import UserError
from utils.files import write_json


@pytest.fixture
def trained(config):
    """A configuration whose training and test are finished."""
    raw = config("st", {"epochs": 1})
    trainer = build_trainer(raw)
    trainer.train()
    trainer.test()
    return raw


def contents(folder):
    return {path: path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def test_a_second_process_is_told_who_works_there(config):
    folder = build_trainer(config("st")).folder
    code = f"""
import sys, time
sys.path.insert(0, {str(REPO)!r})
from filelock import FileLock
with FileLock({str(folder.path.with_name(".part.lock"))!r}):
    print("locked", flush=True)
    time.sleep(60)
"""
    folder.path.mkdir(parents=True)
    other = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
    try:
        assert other.stdout.readline() == "locked\n"
        folder.path.with_name(".part.owner").write_text(str(other.pid))
        with pytest.raises(UserError, match=f"process {other.pid} is working there"), folder.locked():
            pass
    finally:
        other.kill()
        other.wait()
    with folder.locked():  # a killed process leaves no lock behind
        assert folder.path.with_name(".part.owner").read_text() == str(os.getpid())


def test_the_lock_leaves_nothing_in_the_folder(trained):
    folder = build_trainer(trained).folder
    with folder.locked():
        assert not [path for path in folder.path.iterdir() if path.name.startswith(".")]


@pytest.mark.parametrize("words", [["seed=1"], ["TrainingData.lr=0.1"]])
def test_other_settings_do_not_replace_a_finished_run(trained, words):
    before = contents(build_trainer(trained).run_dir)
    with pytest.raises(UserError, match=r"finished run with other settings .*run=NAME.*overwrite=true"):
        build_trainer(trained, words).train()
    assert contents(build_trainer(trained).run_dir) == before
    build_trainer(trained, [*words, "overwrite=true"]).train()


def test_other_images_do_not_replace_a_finished_run(trained, tmp_path):
    write_mvtec(tmp_path / "other", train=9)
    before = contents(build_trainer(trained).run_dir)
    with pytest.raises(UserError, match="report of a test on .*overwrite=true"):  # refused before anything is read
        build_trainer(trained, [f"data_path={tmp_path / 'other'}"]).train()
    build_trainer(trained).folder.metrics_file.unlink()
    with pytest.raises(UserError, match="good images changed"):
        build_trainer(trained, [f"data_path={tmp_path / 'other'}"]).train()
    assert {path for path in before if path.name != "metrics.json"} == set(contents(build_trainer(trained).run_dir))


def test_a_run_of_its_own_name_has_its_own_folder(trained):
    trainer = build_trainer(trained, ["seed=1", "run=second"])
    trainer.train()
    assert trainer.run_dir.name == "part-second" and trainer.run_dir.parent == build_trainer(trained).run_dir.parent
    trainer.load()


def test_the_same_settings_train_again_to_the_same_student(trained):
    first = build_trainer(trained, ["phase=test"])
    first.load()
    again = build_trainer(trained)
    again.train()
    for key, value in first.student.state_dict().items():
        assert torch.equal(value, again.student.state_dict()[key])


def test_the_report_of_a_test_on_other_data_is_not_replaced(trained, tmp_path):
    write_mvtec(tmp_path / "other", good=2)
    words = ["phase=test", f"data_path={tmp_path / 'other'}"]
    trainer = build_trainer(trained, words)
    trainer.load()
    with pytest.raises(UserError, match="report of a test on .*overwrite=true"):
        trainer.test()
    trainer = build_trainer(trained, [*words, "overwrite=true"])
    trainer.load()
    assert "aupro" in trainer.test()


def test_such_a_report_is_not_replaced_although_it_has_a_name_of_bytes_that_are_no_text(tmp_path):
    keys = {"save_path": tmp_path, "distillType": "st", "obj": "part", "run": None, "overwrite": False}
    config = SimpleNamespace(data_path=tmp_path / "data", **keys)
    folder = RunFolder(config)
    folder.path.mkdir(parents=True)
    places = {"data": str(tmp_path / "other"), "folder": str(folder.path), "notes": ["\udcff.png: cut off"]}
    write_json(folder.metrics_file, places)
    with pytest.raises(UserError, match="report of a test on .*other: replace it with overwrite=true"):
        check_retestable(folder, config)


def test_the_same_data_by_another_spelling_of_its_path_may_be_tested_again(trained, tmp_path):
    link = tmp_path / "link"
    link.symlink_to(trained["data_path"])
    before = json.loads(build_trainer(trained).folder.metrics_file.read_text(encoding="utf-8"))["metrics"]
    trainer = build_trainer(trained, ["phase=test", f"data_path={link}"])
    trainer.load()
    assert trainer.test() == before


@pytest.mark.slow
def test_a_run_that_moved_together_with_its_data_may_be_tested_again(trained, tmp_path):
    raw = trained | {"data_path": str(tmp_path / "here/data"), "save_path": str(tmp_path / "here/results")}
    shutil.copytree(trained["data_path"], raw["data_path"])
    first = build_trainer(raw)
    first.train()
    before = first.test()
    shutil.copytree(tmp_path / "here", tmp_path / "there")
    there = {key: str(tmp_path / "there" / name) for key, name in {"data_path": "data", "save_path": "results"}.items()}
    moved = build_trainer(raw | there | {"phase": "test"})
    moved.load()
    assert moved.test() == before
    elsewhere = build_trainer(raw | {"save_path": there["save_path"], "phase": "test"})
    elsewhere.load()
    with pytest.raises(UserError, match="report of a test on .*there/data.*overwrite=true"):
        elsewhere.test()


def test_a_student_that_was_saved_without_a_training_is_not_replaced(config):
    trainer = build_trainer(config("st"))
    trainer.run_dir.mkdir(parents=True)
    trainer.save()
    with pytest.raises(UserError, match="was saved without a training.*overwrite=true"):
        trainer.train()


def test_what_is_left_of_a_finished_training_goes_with_its_test(trained):
    """A kill between the student and the end of its training leaves a checkpoint of the same origin."""
    folder = build_trainer(trained).folder
    folder.metrics_file.unlink()
    folder.checkpoint.write_bytes(b"left by a kill")
    build_trainer(trained).train()
    assert not folder.checkpoint.exists()


@pytest.mark.parametrize("several", [False, True])
def test_an_earlier_run_is_kept_although_a_file_of_the_one_before_could_not_be_deleted(config, monkeypatch, several):
    trainer = build_trainer(config("st"))
    folder = trainer.folder
    monkeypatch.setattr(shutil, "rmtree", lambda *_, **__: None)
    monkeypatch.setattr(report, "write_training_report", lambda *_: None)
    for path in (folder.path, folder.previous):
        path.mkdir(parents=True)
        (path / "metrics.json").write_text(path.name)
    if several:
        set_aside(trainer)
    else:
        folder.replace_student(trainer.detector, trainer.metadata, trainer.config, [], {})
    assert folder.student_file.exists() != several and not folder.metrics_file.exists()
    assert (folder.previous / "metrics.json").read_text() == folder.path.name


def test_a_student_of_another_version_is_not_replaced(trained):
    folder: RunFolder = build_trainer(trained).folder
    folder.student_file.write_bytes(b"older")
    with pytest.raises(UserError, match="overwrite=true"):
        build_trainer(trained).train()
