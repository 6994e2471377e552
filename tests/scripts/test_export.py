"""export.py: a run becomes a folder, and predict.py judges with it as with the run."""

import csv
import re
import shlex

import numpy as np
import pytest

import calibrate
import export
import predict
import trainNet
from deploy import card
from tests.conftest import REPO, draw_defect, draw_good, write_image, write_mvtec
from tests.deploy.conftest import SPEED


@pytest.fixture
def calibrated(workplace, call, monkeypatch):
    """The finished run, calibrated with new pictures: `precision: fp32` keeps their scores valid for the export."""
    monkeypatch.setattr(card, "speed", lambda folder: SPEED)
    rng = np.random.default_rng(5)
    for k in range(20):
        write_image(workplace.path / f"new/{k:02}.png", draw_good(rng))
    for k in range(4):
        write_image(workplace.path / f"line/{k}.png", draw_good(rng) if k % 2 else draw_defect(rng)[0])
    assert call(calibrate, "results/st/part", "--images", "new", "false_reject_rate=0.1").code == 0
    return workplace


def rows_of(path):
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


@pytest.mark.slow
def test_a_run_is_exported_and_judges_pictures(calibrated, call):
    said = call(export, "results/st/part", "--format", "onnx", "--images", "new", "--out", "out")
    assert said.code == 0, said.err
    assert "scores differ from PyTorch's by at most" in said.out and "predict.py --model out IMAGES" in said.out
    assert call(predict, "--model", "out", "line", "--out", "judged").code == 0
    assert call(predict, "results/st/part", "line", "--out", "by_run").code == 0
    here, there = (rows_of(calibrated.path / folder / "predictions.csv") for folder in ("judged", "by_run"))
    assert [row["path"] for row in here] == [f"line/{k}.png" for k in range(4)]
    for one, other in zip(here, there, strict=True):
        assert float(one["score"]) == pytest.approx(float(other["score"]), rel=0.02)  # the run may compute in bfloat16
    assert call(predict, "line", "--model", "out", "false_reject_rate=0.5", "--out", "again").code == 0


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["nowhere", "--format", "onnx", "--out", "out"], "there is no finished run"),
        (["results/st/part", "--format", "onnx", "--out", "data"], "--out: data exists and was not written by export"),
        (["results/st/part", "--format", "tflite", "--out", "out"], "--format"),
        (["results/st/part", "--format", "onnx"], "--out"),
        (["results/st/part", "--format", "onnx", "--precision", "bf16", "--out", "out"], "use --format openvino"),
        (["results/st/part", "--format", "onnx", "--out", "out", "data_path=gone"], "there is no folder gone"),
        (["results/st/part", "--format", "onnx", "--out", "out", "false_reject_rate=2"], "false_reject_rate"),
    ],
)
def test_a_mistake_is_one_sentence(workplace, call, words, expected):
    said = call(export, *words)
    assert said.code == 2 and said.last.startswith("error: ") and expected in said.last
    assert not (workplace.path / "out").exists()


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["--model", "nowhere", "data"], "there is no exported model"),
        (["--model", "data"], "give a RUN, or --model EXPORTED, and IMAGES"),
        (["results/st/part", "data", "--model", "nowhere"], "--model: give it in place of RUN"),
    ],
)
def test_a_mistake_with_an_exported_model_is_one_sentence(workplace, call, words, expected):
    said = call(predict, *words)
    assert said.code == 2 and said.last.startswith("error: ") and expected in said.last


@pytest.mark.slow
def test_the_commands_of_the_page_work_one_after_another(tmp_path, monkeypatch, call):
    """docs/export.md, after the first command of docs/on_the_line.md."""
    rng = np.random.default_rng(3)
    write_mvtec(tmp_path / "my_data", "screw", train=100, good=4, bad=4)
    for k in range(20):
        write_image(tmp_path / f"other_good_pictures/{k}.png", draw_good(rng))
        write_image(tmp_path / f"new_pictures/{k}.png", draw_defect(rng)[0])
    monkeypatch.chdir(tmp_path)
    words = ["data_path=my_data", "obj=screw", "calibration=0.2", "false_reject_rate=0.05"]
    assert call(trainNet, *words, "TrainingData.epochs=1", "TrainingData.img_size=64").code == 0
    blocks = re.findall(r"```bash\n(.*?)```", (REPO / "docs/export.md").read_text(encoding="utf-8"), re.DOTALL)
    commands = [shlex.split(line) for block in blocks for line in block.splitlines()]
    assert commands.pop(0) == ["pip", "install", "-r", "requirements-export.txt"] and len(commands) == 5
    for python, script, *words in commands:
        assert python == "python3"
        assert call({"export.py": export, "predict.py": predict}[script], *words).code == 0
    assert len(rows_of(tmp_path / "judged/predictions.csv")) == 20
