"""The table of latencies: every path of a run is a row, and an export that is refused says why."""

import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from benchmarks import inference
from datasets.tiles import Tiles
from deploy.export_check import Refused
from trainer import build_trainer
from utils.errors import UserError


@pytest.fixture
def folder(config):
    trainer = build_trainer(config("st", {"epochs": 1}, precision="fp32"))
    trainer.train()
    return str(trainer.run_dir)


@pytest.mark.slow
def test_every_path_has_a_row_for_each_number_of_threads_and_batch(folder, monkeypatch, capsys):
    pytest.importorskip("onnxruntime")
    monkeypatch.setattr(inference, "SIDE", 64)
    monkeypatch.setattr(inference, "allowed_cores", lambda: 1)
    monkeypatch.setattr(
        sys, "argv", ["inference.py", folder, "--seconds", "0.01", "--paths", "pytorch-bf16", "onnx-fp32"]
    )
    inference.main()
    rows = [line.split(" | ") for line in capsys.readouterr().out.splitlines() if line.startswith(f"| {folder}")]
    assert [row[1:4] for row in rows] == [
        [path, "1", batch] for path in ("pytorch-fp32", "pytorch-bf16", "onnx-fp32") for batch in ("1", "8")
    ]
    assert [row[6] for row in rows[:2]] == ["1.0", "1.0"] and all(float(row[4]) > 0 for row in rows)


def test_a_refused_export_is_a_row_and_not_tried_again(folder, monkeypatch, capsys, tmp_path):
    tried = []

    def refused(*args):
        tried.append(args)
        raise Refused("it differs")

    peaks = []

    def counted(dtype, threads):
        peaks.append((len(peaks) + 1) * 10**12)
        return peaks[-1]

    monkeypatch.setattr(inference, "peak", counted)
    monkeypatch.setattr(inference, "allowed_cores", lambda: 1)
    monkeypatch.setattr(inference, "Export", refused)
    flags = ["--seconds", "0.01", "--paths", "openvino-int8", "--exports", str(tmp_path / "exports")]
    monkeypatch.setattr(sys, "argv", ["inference.py", folder, *flags])
    for peak in ("1000", "2000"):  # each run has one of its own
        inference.main()
        out = capsys.readouterr().out
        assert f"| {folder} | openvino-int8 | it differs |" in out
        rows = [line.split(" | ") for line in out.splitlines() if "| pytorch-fp32 |" in line]
        assert [row[8].rstrip(" |") for row in rows] == [peak] * len(inference.BATCHES)
    assert len(tried) == 1


def test_an_export_that_lacked_a_package_is_tried_again(tmp_path, monkeypatch):
    def missing(*args):
        raise UserError("packages are missing")

    monkeypatch.setattr(inference, "Export", missing)
    with pytest.raises(UserError, match="packages are missing"):
        inference.export_once(Path("run"), "onnx-fp32", tmp_path / "onnx-fp32")
    assert list(tmp_path.iterdir()) == []


def test_the_time_of_an_image_is_that_of_all_its_tiles():
    seen = []

    def maps_of(parts):
        seen.append(parts.shape)
        return np.zeros((len(parts), *parts.shape[-2:]), np.float32)

    inference.measured(maps_of, Tiles((8, 16), (8, 8), 0, 4), 1, (8, 16), 0)
    assert seen == [(2, 3, 8, 8)] * (inference.WARM_UP + inference.LEAST)


def test_an_export_is_kept_for_one_training_of_a_run(tmp_path, monkeypatch):
    (tmp_path / "st/weave").mkdir(parents=True)
    file, names = tmp_path / "st/weave/student.safetensors", []
    for content in (b"one", b"one", b"another"):
        file.write_bytes(content)
        names.append(inference.name_of(file.parent))
    assert names[0] == names[1] != names[2] and all(name.startswith("st/weave-") for name in names)
    monkeypatch.chdir(file.parent)
    assert inference.name_of(Path(".")) == inference.name_of(Path("../weave")) == names[2]


@pytest.mark.parametrize(("side", "expected"), [(4, inference.CONVOLUTION / 2), (2048, 2 * 2048**3 / 1)])
def test_the_peak_is_that_of_the_fastest_work(side, expected, monkeypatch):
    times = iter([0, 5, 5, 7, 7, 8, 8, 12])  # product, convolution, product, convolution
    monkeypatch.setattr(inference, "REPEATED", 2)
    monkeypatch.setattr(inference, "SIDE", side)
    monkeypatch.setattr(inference, "perf_counter", lambda: next(times))
    assert inference.peak(torch.float32, 1) == expected
