"""`protocol: paper`: the epoch that is best on the test images is reported, and changes nothing else."""

import csv
import json

import pytest
import torch

from engine.paper import beside, best_on_test
from tests.conftest import killed_at_the_first_checkpoint, write_mvtec
from trainer import build_trainer
from utils.errors import UserError


def rows_of(trainer):
    with (trainer.run_dir / "training.csv").open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


@pytest.mark.slow
@pytest.mark.parametrize("method", ["st", "ead"])
def test_the_student_and_its_metrics_are_those_of_an_honest_run(config, method):
    training = {"epochs": 3} if method == "st" else {}
    trainers, metrics = [], []
    for protocol in ("honest", "paper"):
        trainers.append(build_trainer(config(method, training, protocol=protocol, run=protocol)))
        trainers[-1].train()
        metrics.append(trainers[-1].test())
    honest, paper = trainers
    assert metrics[0] == metrics[1]
    for a, b in zip(honest.student.state_dict().values(), paper.student.state_dict().values(), strict=True):
        assert torch.equal(a, b)
    report = json.loads((paper.run_dir / "metrics.json").read_text(encoding="utf-8"))
    best, rows = report["best_on_test"], rows_of(paper)
    means = [sum(float(row[f"test_{key}"]) for key in ("image_auroc", "pixel_auroc", "aupro")) for row in rows]
    assert len(rows) == best["epochs"] > 1 and means[best["epoch"] - 1] == max(means)
    assert report["metrics"] == metrics[0] and best["sentence"] in report["notes"]
    chosen = rows[report["best_epoch"] - 1] if isinstance(report["best_epoch"], int) else rows[-1]
    assert float(chosen["test_aupro"]) == pytest.approx(metrics[1]["aupro"])
    assert not any(key.startswith("test_") for key in rows_of(honest)[0])


@pytest.mark.slow
def test_an_interrupted_training_has_the_same_rows(config, monkeypatch):
    raw = config("st", {"epochs": 3}, protocol="paper")
    whole = build_trainer(raw | {"run": "whole"})
    whole.train()
    with killed_at_the_first_checkpoint(monkeypatch):
        build_trainer(raw | {"run": "cut"}).train()
    again = build_trainer(raw | {"run": "cut"})
    again.train()
    columns = [key for key in rows_of(whole)[0] if key.startswith("test_")]
    assert [[row[key] for key in columns] for row in rows_of(again)] == [
        [row[key] for key in columns] for row in rows_of(whole)
    ]


@pytest.mark.parametrize("images", [{"good": 2, "bad": 0}, {"good": 0, "bad": 2, "masks": False}], ids=str)
def test_without_a_metric_nothing_is_trained(config, tmp_path, images):
    root = write_mvtec(tmp_path / "data", **images)
    with pytest.raises(UserError, match="protocol: paper needs defective test images, and .*use protocol=honest"):
        build_trainer(config("st", {"epochs": 1}, data_path=str(root), protocol="paper")).train()


def test_the_best_epoch_has_the_highest_mean_of_what_there_is():
    history = [
        {"epoch": 1, "test_image_auroc": 0.7, "test_aupro": 0.9, "test_pixel_ap": 0.1},
        {"epoch": 2, "test_image_auroc": 0.9, "test_aupro": 0.8, "test_pixel_ap": 0.2},
        {"epoch": 3, "test_image_auroc": 0.8, "test_aupro": 0.8, "test_pixel_ap": 0.9},
    ]
    best = best_on_test(history)
    assert best == {"epoch": 2, "epochs": 3, "metrics": {"image_auroc": 0.9, "aupro": 0.8, "pixel_ap": 0.2}}
    found = beside(best, {"image_auroc": 0.85, "aupro": 0.81})
    assert found["differences"] == pytest.approx({"image_auroc": 0.05, "aupro": -0.01})
    assert "epoch 2 of 3" in found["sentence"] and "image_auroc 0.9000 (+0.0500)" in found["sentence"]
