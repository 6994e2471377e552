"""calibrate.py: a new threshold for a finished run."""

import json
import shutil

import numpy as np
import pytest

import calibrate
from tests.conftest import draw_good, write_image
from trainer import open_run


@pytest.fixture
def images(workplace):
    """20 new good images, some in a subfolder."""
    rng = np.random.default_rng(5)
    for k in range(20):
        write_image(workplace.path / f"new/{'more/' if k % 2 else ''}{k:02}.png", draw_good(rng))
    return workplace.path / "new"


def test_a_new_threshold_comes_from_the_images_and_the_earlier_one_is_kept(workplace, call, images):
    before = open_run(workplace.run)
    said = call(calibrate, workplace.run, "--images", images, "false_reject_rate=0.1")
    assert said.code == 0, said.err
    assert "at most 10 % of good parts are rejected" in said.out and "20 calibration images" in said.out
    assert "the scores of good images have" in said.out and "phase=test" in said.out
    after = open_run(workplace.run)
    assert after.config.false_reject_rate == 0.1  # tests and predictions use it, too
    normal = after.metadata["normal"]
    assert normal["source"] == "calibration images" and len(normal["scores"]) == 20
    assert after.metadata["earlier_calibrations"] == [before.metadata["normal"]]
    assert f"threshold {normal['scores'][-2]:.4g}" in said.out  # 21 x 0.1: two of 21 may be above
    for old, new in zip(before.student.state_dict().values(), after.student.state_dict().values(), strict=True):
        assert old.equal(new)
    call(calibrate, workplace.run, "--images", images, "false_reject_rate=0.01")
    assert len(open_run(workplace.run).metadata["earlier_calibrations"]) == 1  # 1 % needs 99: nothing was changed


def test_scores_are_those_of_a_test(workplace, call, images):
    """The same images in test/good, after a move of the run: bit for bit the same scores."""
    assert call(calibrate, workplace.run, "--images", images, "false_reject_rate=0.1").code == 0
    moved = workplace.path / "elsewhere"
    shutil.move(workplace.run, moved)
    trainer = open_run(moved, ["overwrite=true"])  # the report is of a test before the data moved
    scores = trainer.metadata["normal"]["scores"]
    shutil.rmtree(workplace.path / "data/part/test/good")
    (workplace.path / "data/part/test/good").mkdir()
    for path in images.rglob("*.png"):
        shutil.copy(path, workplace.path / "data/part/test/good")
    trainer.test()
    report = json.loads((moved / "metrics.json").read_text(encoding="utf-8"))
    rows = (moved / "scores.csv").read_text(encoding="utf-8").splitlines()[1:]
    tested = sorted(float(row.split(",")[2]) for row in rows if row.split(",")[1] == "0")
    assert tested == pytest.approx(scores, rel=1e-12) and report["good_scores"]["source"] == "calibration images"


def test_images_of_another_kind_are_said_to_have_changed_the_scores(workplace, call, images):
    assert call(calibrate, workplace.run, "--images", images, "false_reject_rate=0.1").code == 0
    rng = np.random.default_rng(0)
    for k in range(20):
        write_image(workplace.path / f"other/{k:02}.png", rng.integers(0, 256, (64, 64, 3), dtype=np.uint8))
    said = call(calibrate, workplace.run, "--images", workplace.path / "other", "false_reject_rate=0.1")
    assert "the scores of good images have changed: median" in said.out
    said = call(calibrate, workplace.run, "--images", workplace.path / "other", "false_reject_rate=0.1")
    assert "have not changed noticeably" in said.out


def test_a_damaged_report_does_not_stop_a_calibration(workplace, call, images):
    (workplace.run / "metrics.json").write_text("rubbish")
    assert call(calibrate, workplace.run, "--images", images, "false_reject_rate=0.1").code == 0


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["nowhere", "--images", "new"], "there is no finished run"),
        (["results/st/part"], "--images"),
        (["results/st/part", "--images", "nowhere"], "no images"),
        (["results/st/part", "--images", "data/part/train/good"], "which the student may have seen"),
        (["results/st/part", "--images", "new"], "at least 99 good images"),
        (["results/st/part", "--images", "new", "false_reject_rate=2"], "false_reject_rate"),
    ],
)
def test_a_mistake_is_one_sentence_and_changes_nothing(workplace, call, images, words, expected):
    before = workplace.kept()
    said = call(calibrate, *words)
    assert said.code == 2 and said.last.startswith("error: ") and expected in said.last
    kept = {name: content for name, content in workplace.kept().items() if name != "train.log"}
    assert kept == {name: content for name, content in before.items() if name != "train.log"}
