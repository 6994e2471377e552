"""The runtime: without torch, and with clear errors."""

import csv
import shutil
import subprocess
import sys

import numpy as np
import pytest

from datasets.images import unit_range
from deploy.predictor import Predictor
from deploy.runtime import ExportedModel
from deploy.runtime.metadata import KEY, Metadata
from models import detector
from tests.conftest import REPO, write_image
from utils.errors import UserError

# All that requirements-runtime.txt does not have. 16-bit colours need cv2, and --watch filelock.
BLOCKED = """
import sys
class Blocker:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {names!r}:
            raise ModuleNotFoundError(f"{{name}} is not installed", name=name)
sys.meta_path.insert(0, Blocker())
import predict
from utils.command import run
run(predict.main)
"""
ABSENT = ["torch", "torchvision", "timm", "cv2", "scipy", "matplotlib", "pydantic", "yaml", "safetensors", "filelock"]
ABSENT += ["huggingface_hub", "onnx", "onnxscript", "nncf"]


def started(*words):
    """predict.py in a process without all these packages."""
    code = BLOCKED.format(names=set(ABSENT))
    return subprocess.run(
        [sys.executable, "-c", code, *map(str, words)], cwd=REPO, capture_output=True, text=True, timeout=300
    )


def predicted(out, *words):
    """The table that it writes, and its exit code."""
    done = started(*words)
    assert done.returncode in (0, 3), done.stderr
    with (out / "predictions.csv").open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file)), done.returncode


@pytest.mark.parametrize("kind", ["onnx", pytest.param("openvino", marks=pytest.mark.slow)])
def test_predict_needs_no_torch_and_decides_as_the_run_on_every_test_image(kind, run_folder, exported, tmp_path):
    run = Predictor(run_folder)
    paths = [sample.path for sample in run.trainer.test_set[0].samples]
    out = tmp_path / "out"
    rows, code = predicted(out, "--model", exported(kind), *paths, "--out", out, "--pictures", "all", "--maps", "npy")
    assert code == 0 and [row["path"] for row in rows] == [str(path) for path in paths]
    expected = [run(path) for path in paths]
    assert {one.decision for one in expected} == {"accept", "reject"}
    assert [row["decision"] for row in rows] == [one.decision for one in expected]
    assert [float(row["p_value"]) for row in rows] == [one.p_value for one in expected]
    assert [float(row["score"]) for row in rows] == pytest.approx([one.score for one in expected], rel=1e-4)
    assert len(list(out.glob("overlays/**/*.png"))) == len(list(out.glob("raw_maps/**/*.npy"))) == len(paths)


def test_a_run_without_torch_is_one_sentence(run_folder, tmp_path):
    write_image(tmp_path / "a.png", np.zeros((64, 64, 3), np.uint8))
    done = started(run_folder, tmp_path, "--out", tmp_path / "out")
    sentence = "error: the package torch is missing: pip install -r requirements.txt\n"
    assert done.returncode == 2 and done.stderr == sentence


def test_16_bit_colours_need_another_reader_and_say_so(exported, tmp_path):
    """Pillow would cut them to 8 bits without a word."""
    write_image(tmp_path / "deep.png", np.full((64, 64, 3), 40000, np.uint16))
    write_image(tmp_path / "gray.png", np.full((64, 64), 40000, np.uint16))
    (deep, gray), code = predicted(tmp_path / "out", "--model", exported("onnx"), tmp_path, "--out", tmp_path / "out")
    assert code == 3 and "pip install opencv-python-headless" in deep["error"]
    assert float(gray["score"]) > 0 and not gray["error"]


def test_pixels_become_numbers_as_with_torch():
    torch = pytest.importorskip("torch")
    for kind in (np.uint8, np.uint16):
        image = np.random.default_rng(0).integers(0, np.iinfo(kind).max + 1, (3, 50, 40), dtype=kind)
        assert (unit_range(image) == detector.unit_range(torch.from_numpy(image)).numpy()).all()


def test_rates_may_be_given_again(exported):
    model = ExportedModel(exported("onnx"), ["false_reject_rate=0.1", "review_rate=0.3"])
    assert (model.calibration.rate, model.calibration.review_rate) == (0.1, 0.3)
    assert ExportedModel(exported("onnx"), ["review_rate=none"]).calibration.review_rate is None
    usual = ExportedModel(exported("onnx")).calibration
    assert usual.rate == 0.25 and model.calibration.threshold > usual.threshold


@pytest.mark.parametrize(
    ("word", "expected"),
    [
        ("false_reject_rate=2", "false_reject_rate must be a number between 0 and 1"),
        ("review_rate=low", "review_rate must be a number between 0 and 1"),
        ("false_reject_rate=0.01", "at least 99 good images"),
        ("review_rate=0.2", "review_rate 0.2 must be above false_reject_rate 0.25"),
        ("device=cuda", "an exported model takes only false_reject_rate=RATE and review_rate=RATE"),
    ],
)
def test_a_wrong_word_is_one_sentence(word, expected, exported):
    with pytest.raises(UserError, match=expected):
        ExportedModel(exported("onnx"), [word])


@pytest.mark.parametrize("kind", ["onnx", "openvino"])
def test_a_damaged_or_foreign_file_is_named(kind, exported, tmp_path):
    folder = shutil.copytree(exported(kind), tmp_path / "model")
    file = folder / {"onnx": "model.onnx", "openvino": "model.xml"}[kind]
    whole = file.read_bytes()
    file.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(UserError, match=f"{file.name} cannot be loaded") as error:
        ExportedModel(folder)
    assert "core.cpp" not in str(error.value)  # OpenVINO's first line; its last one has the reason
    file.write_bytes(whole.replace(KEY.encode(), b"x" * len(KEY)))
    with pytest.raises(UserError, match=f"{file.name} was not written by export.py"):
        ExportedModel(folder)


def test_a_missing_file_is_named(exported, tmp_path):
    folder = shutil.copytree(exported("openvino"), tmp_path / "model")
    shutil.copy(folder / "model.xml", folder / "head.xml")  # an fp32 export copied over one of int8
    assert ExportedModel(folder).engine.head is None
    file = folder / "model.xml"
    file.write_bytes(file.read_bytes().replace(b"&quot;fp32&quot;", b"&quot;int8&quot;"))
    for name in ("head.bin", "head.xml", "model.bin"):
        (folder / name).unlink(missing_ok=True)
        with pytest.raises(UserError, match=f"{name} is missing: copy all files"):
            ExportedModel(folder)


def test_a_file_of_another_version_is_named(exported, tmp_path):
    text = ExportedModel(exported("onnx")).metadata.text()
    assert Metadata.read(text, tmp_path).precision == "fp32"
    with pytest.raises(UserError, match="another version"):
        Metadata.read(text.replace('"format": 1', '"format": 2'), tmp_path)
    with pytest.raises(UserError, match="was not written by export.py"):
        Metadata.read("[]", tmp_path)


def test_a_folder_without_a_model_and_a_missing_engine_are_named(exported, tmp_path, monkeypatch):
    with pytest.raises(UserError, match="there is no exported model"):
        ExportedModel(tmp_path)
    with pytest.raises(UserError, match=r"model.onnx is a file of an exported model: give its folder, .*model$"):
        ExportedModel(exported("onnx") / "model.onnx")
    for kind, package in (("onnx", "onnxruntime"), ("openvino", "openvino")):
        monkeypatch.setitem(sys.modules, package, None)
        with pytest.raises(UserError, match=f"pip install {package}"):
            ExportedModel(exported(kind))
