"""benchmark.py: one command for many runs."""

import csv
from pathlib import Path

import pytest

import benchmark
from engine.cells import Cell, plan
from engine.study import Study
from trainer import TRAINERS

SMALL = ["backbone=resnet18", "weights=random", "device=cpu", "out_indice=[1,2]", "TrainingData.epochs=1"]
SMALL += ["TrainingData.batch_size=4", "TrainingData.img_size=64"]


@pytest.mark.slow
def test_runs_are_compared_a_failed_one_is_told_and_the_next_call_repeats_only_that(workplace, call):
    (workplace.path / "data/broken/train/good").mkdir(parents=True)
    command = ["--methods", "st", "--seeds", "1", "--data_path", "data", "--save_path", "out", "--jobs", "1", *SMALL]
    said = call(benchmark, *command)
    assert said.code == 3 and "1 of 2 runs failed" in said.out
    assert "st broken default seed 0: " in said.err and "no images to train on" in said.err
    with (workplace.path / "out/benchmark.csv").open(newline="", encoding="utf-8") as file:
        (row,) = csv.DictReader(file)
    assert (row["category"], row["method"], row["seeds"]) == ("part", "st", "1") and float(row["image_auroc"]) >= 0
    assert "| part | st | default | 1 |" in said.out
    assert r"\begin{tabular}" in (workplace.path / "out/benchmark.tex").read_text()
    assert float(row["p50_ms"]) > 0 and float(row["parameters_m"]) > 1 and float(row["peak_memory_mib"]) > 100
    page = (workplace.path / "out/benchmark.html").read_text(encoding="utf-8")
    assert "st/part-default-0/report.html" in page and "--data_path data" in page
    again = call(benchmark, *command)
    assert again.code == 3 and "2 runs, 1 of them finished" in again.out


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["--methods", "xy"], "methods: there is no method 'xy'"),
        (["--methods", "st", "xy", "seed=1"], "methods: there is no method 'xy'"),
        (["--methods", "seed=1"], "such as --methods st rd"),
        (["--methods", "st", "--data_path", "nowhere"], "data_path: there is no data set in"),
        (["--methods", "st", "--seeds", "0"], "must be a whole number from 1"),
        (["--methods", "st", "--obj", "part", "--seeds", "1", "--", "epochs"], "'epochs' is not of the form key=value"),
        ([], "such as --methods st rd"),
        (["--study", "nowhere.yaml"], "nowhere.yaml cannot be read"),
        (["--methods", "st", "--data_path", "data", "--obj", "wave"], "has no category 'wave' (it has: part)"),
        (["--methods", "st", "--data_path", "data", "seed=3"], "a benchmark sets seed for each run; use --seeds"),
        (["--methods", "st", "--teachers", "resnet18=random", "seed=3"], "a benchmark sets seed for each run"),
        (["--methods", "st", "--teachers", "TrainingData.epoch=3"], "unknown key 'TrainingData.epoch'"),
        (
            ["--methods", "st", "--data_path", "data", "--backend", "dask", "--address", "tcp://127.0.0.1:1"],
            "--address: nothing answers at tcp://127.0.0.1:1 (Connection refused)",
        ),
        (
            ["--methods", "st", "--data_path", "data", "--backend", "dask", "--address", "tcp://host:87a6"],
            "--address: tcp://host:87a6 is not an address (Port could not be cast",
        ),
        (
            ["--methods", "st", "--data_path", "data", "--backend", "ray", "--address", "ray://[::1:10001"],
            "--address: ray://[::1:10001 is not an address (Invalid IPv6 URL)",
        ),
    ],
)
def test_a_mistake_is_one_sentence(workplace, call, words, expected):
    said = call(benchmark, *words)
    assert said.code == 2 and said.last.startswith("error: ") and expected in said.last


def test_a_category_of_any_folders_needs_no_folder_of_its_own(tmp_path):
    for own in ({"reader": "folder", "folder": {"good": []}}, {"reader": "auto", "folder": {"good": ["ok"]}}):
        config = {"data_path": str(tmp_path), "obj": "housing"} | own
        benchmark.check_categories([Cell("st", "housing", "default", 0, "", (), tmp_path, config)])


def test_what_an_image_costs_is_measured_once_for_all_that_compute_alike():
    def key(seed=0, **training):
        config = {"distillType": "st", "backbone": "a", "out_indice": [1], "precision": "fp32", "device": "cpu"}
        options = {"epochs": 3, "img_size": [64, 64]} | training
        return benchmark.cost_key(Cell("st", "a", "default", seed, "", (), Path(), config | {"TrainingData": options}))

    assert key() == key(seed=1, epochs=9) != key(img_size=[96, 96])


def test_methods_with_other_keys_have_costs_too(tiny_mvtec, tmp_path):
    """EfficientAD has no out_indice, MixedTeacher a list of them and a pair of backbones."""
    study = Study(methods=list(TRAINERS), data_path=str(tiny_mvtec), save_path=str(tmp_path), seeds=1)
    cells = plan(study, ["part"], benchmark.checked)
    assert not [cell.mistake for cell in cells if cell.mistake]
    assert len({benchmark.cost_key(cell) for cell in cells}) == len(TRAINERS)
