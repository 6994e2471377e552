"""The table of latencies: every path of a run is a row, and an export that is refused says why."""

import sys

import pytest

from benchmarks import inference
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
        raise UserError("it differs")

    monkeypatch.setattr(inference, "SIDE", 64)
    monkeypatch.setattr(inference, "allowed_cores", lambda: 1)
    monkeypatch.setattr(inference, "Export", refused)
    flags = ["--seconds", "0.01", "--paths", "openvino-int8", "--exports", str(tmp_path / "exports")]
    monkeypatch.setattr(sys, "argv", ["inference.py", folder, *flags])
    for _ in range(2):
        inference.main()
        assert f"| {folder} | openvino-int8 | it differs |" in capsys.readouterr().out
    assert len(tried) == 1
