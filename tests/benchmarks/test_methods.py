"""The table of all methods: which runs it starts, which it does not repeat, and what it reads from them."""

import argparse
import json
from pathlib import Path

import pytest
import yaml

from benchmarks import methods
from tests.conftest import REPO, run_script
from trainer import TRAINERS
from utils.config_file import read_config


def test_every_method_is_found_by_its_file():
    found = methods.files()
    assert set(found) == set(TRAINERS) and set(methods.WORDS) <= set(found)
    assert all(path.parent == REPO / "configs" for path in found.values())


@pytest.fixture
def started(monkeypatch):
    """The commands that would be run."""
    commands = []
    monkeypatch.setattr(methods.subprocess, "run", lambda command, **_: commands.append([*map(str, command)]))
    return commands


@pytest.fixture
def args(tmp_path):
    return argparse.Namespace(data=tmp_path / "data", save=tmp_path / "results")


def test_a_method_that_only_has_a_file_is_run_with_its_own_recipe(tmp_path, monkeypatch, started, args):
    """A new method needs no change here, with any name of its file."""
    monkeypatch.setattr(methods, "CONFIGS", tmp_path)
    recipe = {"distillType": "my", "backbone": "resnet34", "TrainingData": {"epochs": 7, "lr": 0.1}}
    (tmp_path / "anything.yaml").write_text(yaml.safe_dump(recipe), encoding="utf-8")
    methods.run("my", "paper_brown", "bundled", 0, args)
    ((_, script, flag, file, *words),) = started
    assert (script, flag, Path(file).name) == ("trainNet.py", "--config", "anything.yaml")
    keys = {word.partition("=")[0] for word in words}
    assert keys == {"data_path", "obj", "weights", "run", "seed", "save_path", "TrainingData.epochs"}


def test_a_method_that_counts_steps_is_given_no_epochs(started, args):
    methods.run("ead", "weave", "bundled", 0, args)
    (words,) = started
    assert "TrainingData.steps=2000" in words and not any("epochs" in word for word in words)


def test_a_finished_run_is_not_repeated_and_one_of_other_settings_is_replaced(started, args):
    folder = args.save / "st/weave-bundled-1"
    folder.mkdir(parents=True)
    methods.run("st", "weave", "bundled", 1, args)
    (command,) = started
    assert "overwrite=true" not in command
    config = read_config(command[3], command[4:])
    config["TrainingData"]["img_size"] = 256
    for lr, runs in ((config["TrainingData"]["lr"], 1), (0.123, 2)):
        config["TrainingData"]["lr"] = lr
        (folder / "metrics.json").write_text(json.dumps({"config": config}), encoding="utf-8")
        methods.run("st", "weave", "bundled", 1, args)
        assert len(started) == runs
    assert started[-1] == [*command, "overwrite=true"]


def test_another_teacher_is_another_backbone(started, args):
    methods.run("rd", "weave", "lite0", 2, args)
    methods.run("mixed", "weave", "lite0", 0, args)
    first, second = started
    assert {"backbone=tf_efficientnet_lite0.in1k", "weights=imagenet", "seed=2", "run=lite0-2"} <= set(first)
    assert "backbone=[tf_efficientnet_lite0.in1k,tf_efficientnet_lite0.in1k]" in second


def test_a_row_reads_reports_as_utf_8_whatever_the_system_prefers(tmp_path):
    for name, auroc in (("a", 0.91234), ("b", 0.93234)):
        report = {"metrics": {"image_auroc": auroc, "pixel_auroc": 0.5, "aupro": 0.25}, "config": {"obj": "Größe"}}
        report["durations"] = {"test_images_per_second": 8}
        (tmp_path / name).mkdir()
        (tmp_path / name / "metrics.json").write_text(json.dumps(report, ensure_ascii=False), encoding="utf-8")
        (tmp_path / name / "training.csv").write_text("epoch,seconds,ö\n1,2.0,0\n2,4.0,0\n3,9.0,0\n", encoding="utf-8")
    code = f"import pathlib, benchmarks.methods as m; p = pathlib.Path({str(tmp_path)!r}); "
    code += "print(ascii(m.row('`st` | bundled', [p / 'a', p / 'b'])))"
    ascii_only = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
    process = run_script("-c", code, **ascii_only)
    assert process.returncode == 0, process.stderr
    expected = "| `st` | bundled | 92.2 ± 1.0 | 50.0 ± 0.0 | 25.0 ± 0.0 | 4.0 | 125 |"
    assert process.stdout.strip() == ascii(expected)
