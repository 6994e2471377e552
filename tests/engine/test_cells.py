"""The cells of a comparison: which are planned, which are finished, and what becomes of one whose worker is killed."""

import json
import os
import signal
import subprocess
import sys
import threading
import time
from argparse import Namespace
from pathlib import Path

import joblib
import pytest

from benchmark import backend, checked
from engine import cells
from engine.cells import begin, end, plan, run_cell, run_cells
from engine.study import Study
from utils.errors import UserError

SMALL = ["backbone=resnet18", "weights=random", "device=cpu", "out_indice=[1,2]", "TrainingData.epochs=1"]
SMALL += ["TrainingData.batch_size=4", "TrainingData.img_size=64"]


def cells_of(data, save, methods=("st",), objs=("part",), teachers=("default",), seeds=1, words=SMALL, where=()):
    about = {"methods": list(methods), "teachers": list(teachers), "seeds": seeds, "words": list(words)}
    return plan(Study(**about, data_path=str(data), save_path=str(save), where=list(where)), objs, checked)


def test_cells_are_all_combinations_each_with_its_own_folder(tmp_path):
    cells = cells_of(tmp_path, tmp_path, ["st", "rd"], ["a", "b"], ["default", "resnet18=bundled"], 3)
    assert len(cells) == len({cell.folder for cell in cells}) == 24
    assert [cell.category for cell in cells] == ["a"] * 12 + ["b"] * 12
    assert cells[-1].folder == tmp_path / "rd/b-resnet18-bundled-2" and "seed=2" in cells[-1].words


@pytest.mark.parametrize(
    ("teacher", "method", "words"),
    [
        ("default", "st", []),
        ("bundled", "st", ["weights=bundled"]),
        ("resnet34", "rd", ["backbone=resnet34"]),
        ("teachers/mine.safetensors", "rd", ["weights=teachers/mine.safetensors"]),
        ("resnet18=a/b=c.pth", "rd", None),
        ("tf_efficientnet_lite0.in1k=imagenet", "mixed", None),
    ],
)
def test_a_teacher_is_a_backbone_and_weights(tmp_path, teacher, method, words):
    (cell,) = cells_of(tmp_path, tmp_path, [method], teachers=[teacher], words=())
    if words is None:
        words = {
            "rd": ["backbone=resnet18=a/b", "weights=c.pth"],
            "mixed": [
                "backbone=[tf_efficientnet_lite0.in1k,tf_efficientnet_lite0.in1k]",
                "weights=imagenet",
                "TrainingData.border=1",
            ],
        }[method]
    assert list(cell.words[5:]) == words
    assert cell.folder.parent == tmp_path / method


@pytest.mark.parametrize(
    ("obj", "word"),
    [
        ("01", "TrainingData.lr=1e-3"),
        ("part", "TrainingData.img_size=[64,96]"),
        ("part", "reader=folder"),
        ("part", "folder.good=ok"),
        ("part", "run=other"),
    ],
)
def test_a_finished_cell_is_known_however_its_values_are_written(tmp_path, obj, word):
    (cell,) = cells_of(tmp_path, tmp_path, objs=[obj], words=[*SMALL, word])
    report = {"config": json.loads(json.dumps(cell.config))}
    cell.folder.mkdir(parents=True)
    (cell.folder / "metrics.json").write_text(json.dumps(report), encoding="utf-8")
    assert cell.finished()
    (other,) = cells_of(tmp_path, tmp_path, objs=[obj], words=[*SMALL, word, "TrainingData.sigma=2"])
    (elsewhere,) = cells_of(tmp_path, tmp_path, objs=[obj], words=[*SMALL, word, "device=auto", "workers=0"])
    assert not other.finished() and elsewhere.finished()
    report["config"].pop("protocol")  # of an earlier version, which had no such key
    (cell.folder / "metrics.json").write_text(json.dumps(report), encoding="utf-8")
    assert cell.finished()
    for damaged in ("{", "[]", "{}"):
        (cell.folder / "metrics.json").write_text(damaged, encoding="utf-8")
        assert not cell.finished()


def test_a_mistake_in_one_cell_is_no_obstacle_for_the_others(tmp_path):
    wrong, right = cells_of(tmp_path, tmp_path, ["ead", "st"], words=["TrainingData.epochs=3"])
    assert not wrong.finished() and right.config["TrainingData"]["epochs"] == 3
    assert "use the key steps" in run_cell(wrong, 1, tmp_path).error


def test_a_mistake_in_all_cells_is_one_error(tmp_path):
    with pytest.raises(UserError, match=r"unknown key 'TrainingData.epoch'"):
        cells_of(tmp_path, tmp_path, objs=["a", "b"], seeds=2, words=["TrainingData.epoch=3"])


def test_an_unfinished_training_of_other_settings_is_not_resumed(tmp_path, monkeypatch):
    def started(command, **_):
        raise OSError(command[-1])

    monkeypatch.setattr(subprocess, "Popen", started)
    (first,), (other,) = (cells_of(tmp_path, tmp_path, words=[*SMALL, f"TrainingData.lr={lr}"]) for lr in (0.1, 0.2))
    assert first.folder == other.folder
    last = [run_cell(cell, 1, tmp_path).error for cell in (first, first, other)]
    assert last == ["threads=1", "threads=1", "overwrite=true"]
    (own,) = cells_of(tmp_path, tmp_path / "own", words=[*SMALL, "threads=3"])
    assert run_cell(own, 1, tmp_path).error == "threads=3"


def test_a_teacher_file_made_again_makes_its_runs_again(tmp_path):
    """Also where the first training with the new file was interrupted: metrics.json is then the old file's."""

    def cell_now(content=None, file=tmp_path / "teacher.safetensors"):
        if content:
            file.write_bytes(content)
        return cells_of(tmp_path, tmp_path, words=[*SMALL, f"weights={file}"])[0]

    first = cell_now(b"first")
    assert begin(first) == []
    (first.folder / "metrics.json").write_text(json.dumps({"config": first.config}), encoding="utf-8")
    end(first, {})
    assert cell_now().finished()
    second = cell_now(b"second")
    assert second.folder == first.folder and not second.finished()
    replacing = ["resume=false", "overwrite=true"]
    assert begin(second) == replacing and not cell_now().finished()
    assert begin(second) == ["overwrite=true"]  # its own training may be resumed
    end(second, {})
    assert cell_now().finished()
    (tmp_path / "teacher.json").write_text('{"mean": [0, 0, 0], "std": [1, 1, 1]}', encoding="utf-8")
    os.utime(tmp_path / "teacher.safetensors", (1, 1))
    assert not cell_now().finished()
    (tmp_path / "teacher.safetensors").unlink()
    assert cell_now().finished()  # nothing to compare with


def test_a_file_that_cannot_be_written_fails_only_its_own_run(tmp_path, monkeypatch):
    """An exception in a worker would end them all."""

    def trained(cell, threads, folder):
        if cell.category == "a":
            raise UserError("cannot write cell.json: the disk is full")

    monkeypatch.setattr(cells, "_trained", trained)
    with joblib.parallel_config(backend="threading"):
        outcomes = list(run_cells(cells_of(tmp_path, tmp_path, objs=["a", "b"]), 1, 1))
    found = {outcome.cell.category: outcome.error for outcome in outcomes}
    assert found == {"a": "cannot write cell.json: the disk is full", "b": None}


def test_rules_that_leave_out_everything_are_a_mistake(tmp_path):
    with pytest.raises(UserError, match="the rules leave out all runs"):
        cells_of(tmp_path, tmp_path, where=[{"skip": True}])


@pytest.mark.slow
def test_a_cell_is_a_run_that_is_done_once_and_one_that_fails_says_why(tmp_path, tiny_mvtec):
    good, bad = cells_of(tiny_mvtec, tmp_path / "save", objs=["part", "gone"])
    assert not good.finished()
    with joblib.parallel_config(backend="threading"):
        outcomes = {outcome.cell.folder: outcome.error for outcome in run_cells([good, bad], 2, 1)}
    assert outcomes[good.folder] is None and "obj: " in outcomes[bad.folder] and "'gone'" in outcomes[bad.folder]
    assert good.finished() and not bad.finished()
    for name in ("student.safetensors", "metrics.json", "scores.csv", "cell.json"):
        assert (good.folder / name).is_file()
    written = (good.folder / "metrics.json").stat().st_mtime_ns
    assert run_cell(good, 1, Path.cwd()).error is None
    assert (good.folder / "metrics.json").stat().st_mtime_ns == written
    (other,) = cells_of(tiny_mvtec, tmp_path / "save", words=[*SMALL, "TrainingData.lr=0.1"])
    assert other.folder == good.folder and not other.finished()


def trainings(save):
    """Processes of trainNet.py that write below `save`, and the processes that wait for them."""
    found = {}
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            command = path.read_bytes().split(b"\0")
            if f"save_path={save}".encode() in command:
                status = (path.parent / "stat").read_text()
                found[int(path.parent.name)] = int(status.rpartition(")")[2].split()[1])
        except (OSError, IndexError):
            continue
    return found


def kill_a_worker(save, killed):
    """Kill the first worker that has a training; the training must not outlive it."""
    own = {os.getpid()}
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline:
        time.sleep(0.1)
        for training, worker in trainings(save).items():
            if worker not in own:
                time.sleep(1)
                os.kill(worker, signal.SIGKILL)
                killed.append(training)
                return


BACKENDS = ["loky", "dask", "ray"]


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="looks for processes in /proc")
@pytest.mark.parametrize("name", BACKENDS)
def test_a_cell_whose_worker_is_killed_is_done_again(tmp_path, tiny_mvtec, name):
    cells, killed = cells_of(tiny_mvtec, tmp_path / "save", seeds=3), []
    killer = threading.Thread(target=kill_a_worker, args=[tmp_path / "save", killed])
    with backend(Namespace(backend=name, address=None, jobs=2), 3) as (jobs, threads):
        killer.start()
        assert jobs == 2 and threads >= 1
        outcomes = list(run_cells(cells, jobs, 1))
    killer.join()
    assert killed and sorted(outcome.cell.folder for outcome in outcomes) == [cell.folder for cell in cells]
    assert [outcome.error for outcome in outcomes] == [None] * 3 and all(cell.finished() for cell in cells)
    assert not trainings(tmp_path / "save")


def test_a_teacher_with_a_long_path_has_a_folder_of_its_own(tmp_path):
    teachers = [f"resnet18={tmp_path}/{name}/{'x' * 200}/resnet18.safetensors" for name in "ab"]
    cells = cells_of(tmp_path, tmp_path, teachers=teachers, words=SMALL)
    assert len({cell.folder for cell in cells}) == 2 and not any(cell.mistake for cell in cells)
    assert all(len(cell.folder.name) < 120 and "resnet18.safetensors" in cell.folder.name for cell in cells)
