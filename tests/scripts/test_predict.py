"""predict.py: pictures of any kind, judged as a test judges them."""

import csv
import json

import cv2
import numpy as np
import pytest

import calibrate
import predict
import trainNet
from tests.conftest import draw_defect, draw_good, write_image


@pytest.fixture
def calibrated(workplace, call):
    """A run that decides, and new pictures: 3 good ones, 2 with a square, in two folders."""
    rng = np.random.default_rng(5)
    for k in range(20):
        write_image(workplace.path / f"new/{k:02}.png", draw_good(rng))
    assert call(calibrate, "results/st/part", "--images", "new", "false_reject_rate=0.1").code == 0
    for k in range(3):
        write_image(workplace.path / f"line/a/{k}.png", draw_good(rng))
    for k in range(2):
        write_image(workplace.path / f"line/b/{k}.png", draw_defect(rng)[0])
    return workplace


def rows_of(folder):
    with (folder / "predictions.csv").open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    lines = [json.loads(line) for line in (folder / "predictions.jsonl").read_text(encoding="utf-8").splitlines()]
    assert [row["path"] for row in rows] == [line["path"] for line in lines]
    return rows, lines


RATE = "false_reject_rate=0.1"


def test_a_folder_is_judged_and_pictures_are_drawn_in_their_own_size(calibrated, call):
    write_image(calibrated.path / "line/b/wide.png", np.full((40, 200, 3), 250, np.uint8))
    said = call(predict, "results/st/part", "line", "--out", "out", "--pictures", "all")
    assert said.code == 0, said.err
    rows, lines = rows_of(calibrated.path / "out")
    assert len(rows) == 6 and all(float(row["milliseconds"]) > 0 for row in rows)
    for row, line in zip(rows, lines, strict=True):
        assert row["decision"] == ("reject" if line["regions"] else "accept")
        assert (float(row["p_value"]) <= 0.1) == (row["decision"] == "reject")
        assert float(row["score"]) == line["score"]
        if line["regions"]:
            assert line["regions"][0]["score"] == line["score"]
    wide = lines[-1]
    for what in ("overlays", "maps", "masks"):
        assert cv2.imread(str(calibrated.path / f"out/{what}/b/wide.png.png")).shape == (40, 200, 3)
    for left, top, right, bottom in (region["box"] for region in wide["regions"]):
        assert 0 <= left < right <= 200 and 0 <= top < bottom <= 40


def test_scores_are_those_of_the_test(calibrated, call):
    assert call(trainNet, "phase=test", RATE).code == 0
    with (calibrated.run / "scores.csv").open(newline="", encoding="utf-8") as file:
        tested = {row["path"]: row for row in csv.DictReader(file)}
    assert call(predict, "results/st/part", "data/part/test", "--out", "out").code == 0
    rows, _ = rows_of(calibrated.path / "out")
    assert len(rows) == len(tested) == 3
    for row in rows:
        assert float(row["score"]) == pytest.approx(float(tested[row["path"]]["score"]), rel=1e-4)
        assert row["decision"] == tested[row["path"]]["decision"] and row["p_value"] == tested[row["path"]]["p_value"]


def test_files_that_cannot_be_read_are_reported_and_the_rest_goes_on(calibrated, call):
    (calibrated.path / "line/a/broken.png").write_bytes(b"no picture")
    (calibrated.path / "list.txt").write_text("line/a/0.png\nline/a/broken.png\nline/gone.png\nline/b/1.png\n")
    said = call(predict, "results/st/part", "list.txt", "--out", "out")
    assert said.code == 3 and "2 failed" in said.out
    rows, _ = rows_of(calibrated.path / "out")
    assert [bool(row["error"]) for row in rows] == [False, True, True, False]
    assert "broken.png" in rows[1]["error"] and rows[1]["score"] == rows[1]["decision"] == ""


def test_patterns_files_and_folders_name_each_picture_once(calibrated):
    paths = predict.images_of(["line/a", "line/a/0.png", "line/*/1.png"])
    assert list(map(str, paths)) == ["line/a/0.png", "line/a/1.png", "line/a/2.png", "line/b/1.png"]


def test_a_run_without_calibration_scores_and_says_how_to_decide(workplace, call):
    said = call(predict, "results/st/part", "data/part/test", "--out", "out")
    assert said.code == 0 and "calibrate.py results/st/part --images FOLDER" in said.err
    rows, _ = rows_of(workplace.path / "out")
    assert all(row["score"] and not row["decision"] for row in rows)


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["nowhere", "data/part/test"], "there is no finished run"),
        (["results/st/part", "nowhere"], "no images"),
        (["results/st/part", "data/part/test", "--out", "results"], "already has predictions"),
        (["results/st/part", "data/part/test", "obj=other"], "obj"),
        (["results/st/part", "data/part/test", "--out", "config.yaml"], "--out: cannot write into config.yaml"),
        (["results/st/part", "bad.txt"], "bad.txt cannot be read as a list of paths"),
    ],
)
def test_a_mistake_is_one_sentence(workplace, call, words, expected):
    (workplace.path / "results/predictions.csv").write_text("")
    (workplace.path / "bad.txt").write_bytes(b"\xff\xfe\x00")
    said = call(predict, *words)
    assert said.code == 2 and said.last.startswith("error: ") and expected in said.last
