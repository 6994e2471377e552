"""The scripts as a user runs them: the documented commands work, a mistake is one sentence and exit code 2."""

import os
import shutil
import sys

import numpy as np
import pytest

import trainNet
import visualization
from tests.conftest import REPO, assert_one_sentence, run_script, write_image, write_mvtec
from utils.command import run
from utils.ranks import world_size

TINY = ["distillType=st", "backbone=resnet18", "weights=random", "obj=part"]
TINY += ["TrainingData.epochs=1", "TrainingData.batch_size=4", "TrainingData.img_size=64", "TrainingData.crop_size=64"]


def call(script, *words, monkeypatch, capsys):
    """The script's main() in this process: (exit code, last line it said on stderr, its output)."""
    monkeypatch.setattr(sys, "argv", ["script", *map(str, words)])
    code = 0
    try:
        run(script.main)
    except SystemExit as stop:
        code = stop.code
    out, err = capsys.readouterr()
    return code, (err.strip().splitlines() or [""])[-1], out


def test_train_test_and_visualise_from_the_command_line(tiny_mvtec, tmp_path):
    words = [*TINY, f"data_path={tiny_mvtec}", f"save_path={tmp_path}"]
    trained = run_script("trainNet.py", *words)
    assert trained.returncode == 0, trained.stderr
    for label in ("image AUROC", "pixel AP", "AUPRO@0.3", "square", "teacher weights: random"):
        assert label in trained.stdout
    tested = run_script("trainNet.py", "--config", tmp_path / "st/part/config.yaml", "phase=test")
    assert tested.returncode == 0, tested.stderr
    assert tested.stdout == trained.stdout
    shown = run_script("visualization.py", *words, "--channels", "2", "--layers", "1,3")
    assert shown.returncode == 0, shown.stderr
    pages = sorted(p.relative_to(tmp_path / "st/part/features") for p in (tmp_path / "st/part/features").rglob("*.png"))
    assert len(pages) == 6 and {p.parts[0] for p in pages} == {"good", "square"}
    assert sum("level1" in p.name for p in pages) == sum("level3" in p.name for p in pages) == 2


def test_the_quick_start_draws_its_own_data(tmp_path):
    """The shipped config.yaml in an empty folder: nothing downloaded, nothing there before."""
    words = ["--config", REPO / "config.yaml", "weights=auto", "TrainingData.epochs=1", "TrainingData.img_size=64"]
    process = run_script(REPO / "trainNet.py", *words, "TrainingData.crop_size=64", cwd=tmp_path, HF_HUB_OFFLINE="1")
    assert process.returncode == 0, process.stderr
    assert "bundled" in process.stderr and "teacher weights: bundled" in process.stdout
    assert len(list((tmp_path / "demo_data/weave/train/good").iterdir())) == 60
    assert (tmp_path / "results/st/weave/metrics.json").is_file()


@pytest.fixture
def data(tmp_path):
    return write_mvtec(tmp_path / "data", train=5, good=1, bad=1)


@pytest.fixture
def trained(tmp_path, data):
    """A run folder that a mistake must leave untouched, and what is in it."""
    folder = tmp_path / "results/st/part"
    folder.mkdir(parents=True)
    for name in ("student.safetensors", "metrics.json", "scores.csv"):
        (folder / name).write_text("earlier result")
    return folder


def no_train_folder(data):
    shutil.rmtree(data / "part/train")


def empty_train_folder(data):
    for path in (data / "part/train/good").iterdir():
        path.unlink()


def corrupt_training_image(data):
    (data / "part/train/good/002.png").write_bytes(b"\x89PNG\r\n\x1a\nrubbish")


def mask_of_another_size(data):
    write_image(data / "part/ground_truth/square/000_mask.png", np.zeros((32, 32), np.uint8))


MISTAKES = {
    "typo": (["bakcbone=x"], ["bakcbone", "backbone"]),
    "wrong type": (["TrainingData.epochs=many"], ["TrainingData.epochs", "many"]),
    "negative": (["TrainingData.lr=-1"], ["TrainingData.lr", "-1"]),
    "missing category": (["obj=prat"], ["obj", "prat", "part"]),
    "missing data": (["data_path=nowhere"], ["data_path", "nowhere"]),
    "no config": (["--config", "nowhere.yaml"], ["nowhere.yaml"]),
    "unknown method": (["distillType=sp"], ["distillType", "sp", "st"]),
    "unknown backbone": (["backbone=resnet81"], ["backbone", "resnet81"]),
    "bad level": (["out_indice=[1, 9]"], ["out_indice", "9"]),
    "unwritable": (["save_path=/proc/nothing"], ["save_path", "/proc/nothing"]),
    "no cuda": (["device=cuda:7"], ["device", "cuda:7"]),
    "no such weights": (["weights=nowhere.pth"], ["weights", "nowhere.pth"]),
    "no folder": (no_train_folder, ["train/good"]),
    "empty folder": (empty_train_folder, ["train/good"]),
    "corrupt image": (corrupt_training_image, ["002.png"]),
    "untrained": (["phase=test", "save_path=elsewhere"], ["student.safetensors", "train first"]),
    "damaged student": (["phase=test"], ["student.safetensors", "damaged"]),
}


@pytest.mark.parametrize("name", MISTAKES)
def test_a_mistake_is_one_sentence_and_costs_nothing(name, data, trained, tmp_path, monkeypatch, capsys):
    action, expected = MISTAKES[name]
    words = [*TINY, f"data_path={data}", f"save_path={tmp_path / 'results'}"]
    if callable(action):
        action(data)
    else:
        words += action
    monkeypatch.chdir(tmp_path)
    config = [] if "--config" in words else ["--config", REPO / "config.yaml"]
    code, said, _ = call(trainNet, *config, *words, monkeypatch=monkeypatch, capsys=capsys)
    assert code == 2 and said.startswith("error: ")
    for word in expected:
        assert word in said
    assert {p.read_text() for p in trained.iterdir()} == {"earlier result"} and len(list(trained.iterdir())) == 3


def test_a_mask_of_another_size_is_named_before_old_figures_are_replaced(data, tmp_path, monkeypatch, capsys):
    words = ["--config", REPO / "config.yaml", *TINY, f"data_path={data}", f"save_path={tmp_path / 'r'}"]
    assert call(trainNet, *words, monkeypatch=monkeypatch, capsys=capsys)[0] == 0
    before = (tmp_path / "r/st/part/metrics.json").read_text()
    mask_of_another_size(data)
    code, said, _ = call(trainNet, *words, "phase=test", monkeypatch=monkeypatch, capsys=capsys)
    assert code == 2 and "000_mask.png" in said
    assert (tmp_path / "r/st/part/metrics.json").read_text() == before


@pytest.mark.parametrize(
    ("flags", "expected"),
    [
        (["--images", "square/404"], ["--images", "square/404"]),
        (["--layers", "9"], ["--layers", "9"]),
        (["obj=prat"], ["prat"]),
    ],
)
def test_mistakes_in_visualisation(flags, expected, data, tmp_path, monkeypatch, capsys):
    words = ["--config", REPO / "config.yaml", *TINY, f"data_path={data}", f"save_path={tmp_path / 'r'}"]
    assert call(trainNet, *words, monkeypatch=monkeypatch, capsys=capsys)[0] == 0
    code, said, _ = call(visualization, *words, *flags, monkeypatch=monkeypatch, capsys=capsys)
    assert code == 2
    for word in expected:
        assert word in said


def test_a_mistake_as_the_shell_sees_it(tmp_path):
    assert_one_sentence(run_script("trainNet.py", "bakcbone=x", f"save_path={tmp_path}"), "bakcbone", "backbone")
    assert_one_sentence(run_script("makeDemo.py", "--size", "3", "--root", tmp_path / "d"), "size")
    assert not list(tmp_path.iterdir())


def test_help_names_the_flags():
    process = run_script("trainNet.py", "--help")
    assert process.returncode == 0 and "--config" in process.stdout and "key=value" in process.stdout


def test_one_process_unless_torchrun_says_otherwise(monkeypatch):
    monkeypatch.delenv("WORLD_SIZE", raising=False)
    assert world_size() == 1 and "RANK" not in os.environ
