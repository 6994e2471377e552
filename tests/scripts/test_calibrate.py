"""calibrate.py: a new threshold for a finished run."""

import json
import shlex
import shutil
import sys

import numpy as np
import pytest
from PIL import Image

import calibrate
import predict
import trainNet
import visualization
from tests.conftest import draw_good, write_image, write_mvtec
from trainer import open_run
from utils.command import run


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
    rates = {"false_reject_rate": 0.01, "review_rate": None}
    assert after.metadata["earlier_calibrations"] == [before.metadata["normal"] | {"rates": rates}]
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


def test_an_earlier_calibration_can_be_restored(workplace, call, images):
    assert "has no earlier calibration" in call(calibrate, workplace.run, "--restore").last
    before = open_run(workplace.run).metadata
    call(calibrate, workplace.run, "--images", images, "false_reject_rate=0.1")
    first = open_run(workplace.run).metadata
    call(calibrate, workplace.run, "--images", images / "more", "false_reject_rate=0.2")
    assert "'review_rate=0.3' cannot be given" in call(calibrate, workplace.run, "--restore", "review_rate=0.3").last
    said = call(calibrate, workplace.run, "--restore")
    assert said.code == 0 and "20 calibration images" in said.out and "phase=test" in said.out
    assert open_run(workplace.run).metadata == first
    assert open_run(workplace.run).config.false_reject_rate == 0.1  # the rates come back, too
    assert "this run decides nothing, as before" in call(calibrate, workplace.run, "--restore").out
    assert open_run(workplace.run).metadata == before | {"earlier_calibrations": []}


def test_an_earlier_calibration_that_was_too_small_for_its_rate_can_be_restored(workplace, call, images):
    call(calibrate, workplace.run, "--images", images, "false_reject_rate=0.1")
    config = workplace.run / "config.yaml"  # as after a training, which only says that 20 images are too few for 1 %
    config.write_text(config.read_text().replace("false_reject_rate: 0.1", "false_reject_rate: 0.01"))
    call(calibrate, workplace.run, "--images", images / "more", "false_reject_rate=0.2")
    said = call(calibrate, workplace.run, "--restore")
    assert said.code == 0 and "needs at least 99 good images" in said.out
    assert open_run(workplace.run).config.false_reject_rate == 0.01


@pytest.mark.slow
def test_the_pattern_of_parts_is_that_of_the_calibration(workplace, call, images):
    for k, path in enumerate(sorted(images.rglob("*.png"))):
        path.rename(path.with_name(f"{k // 2}_{k % 2}.png"))
    for k, path in enumerate(sorted((workplace.path / "data/part/test").rglob("*.png"))):
        path.rename(path.with_name(f"9_{k}.png"))
    shutil.rmtree(workplace.path / "data/part/ground_truth")  # whose names are the earlier ones
    pattern = "part_pattern=^[0-9]+"
    said = call(calibrate, workplace.run, "--images", images, "false_reject_rate=0.1", pattern)
    assert said.code == 0 and "10 calibration parts" in said.out and "are not compared" in said.out
    assert "other settings" not in said.err
    said = call(calibrate, workplace.run, "--images", images)  # the pattern is kept
    assert "10 calibration parts" in said.out and "have not changed noticeably" in said.out
    trainer = open_run(workplace.run)
    assert trainer.config.part_pattern is None  # as trained: it also says which images were held out
    trainer.test()
    decisions = json.loads((workplace.run / "metrics.json").read_text(encoding="utf-8"))["decisions"]
    assert (decisions["unit"], decisions["test_unit"], decisions["misses"]["of"]) == ("parts", "parts", 1)
    said = call(predict, "results/st/part", "new", "--out", "out", "part_pattern=^.")
    assert "nothing is decided, because part_pattern was changed" in said.err
    said = call(predict, "results/st/part", "new", "--out", "out2", pattern)
    assert "nothing is decided" not in said.err and " accept" in said.out
    write_image(workplace.path / "new/without.png", draw_good(np.random.default_rng(0)))
    call(predict, "results/st/part", "new", "--out", "out3")
    rows = (workplace.path / "out3/predictions.csv").read_text(encoding="utf-8").splitlines()
    found = {row.split(",")[0].rpartition("/")[2]: row.split(",")[1] for row in rows[1:]}
    assert found["9_1.png"] == "9" and found["0_0.png"] == "0" and found["without.png"] == ""


def test_another_region_of_interest_does_not_decide(workplace, call, images):
    mask = np.zeros((64, 64), np.uint8)
    mask[:32] = 255
    write_image(workplace.path / "roi.png", mask)
    word = f"TrainingData.roi={workplace.path}/roi.png"
    said = call(calibrate, workplace.run, "--images", images, "false_reject_rate=0.1", word)
    assert said.code == 2 and "cannot change settings that scores depend on (TrainingData.roi)" in said.last
    assert call(calibrate, workplace.run, "--images", images, "false_reject_rate=0.1").code == 0
    said = call(predict, "results/st/part", "new", "--out", "out", word)
    assert "nothing is decided, because TrainingData.roi was changed" in said.err


@pytest.mark.slow
def test_test_images_that_calibrate_measure_nothing(workplace, call, images):
    test = workplace.path / "data/part/test"
    said = call(calibrate, workplace.run, "--images", test, "false_reject_rate=0.1")
    assert said.code == 2 and "has the defective test image data/part/test/square/000.png" in said.last
    for k, path in enumerate(sorted(images.rglob("*.png"))):
        shutil.copy(path, test / f"good/new_{k}.png")
    assert call(calibrate, workplace.run, "--images", images, "false_reject_rate=0.1").code == 0  # copies of them
    trainer = open_run(workplace.run)
    trainer.test()
    report = json.loads((workplace.run / "metrics.json").read_text(encoding="utf-8"))
    assert (report["decisions"]["false_rejects"]["of"], report["decisions"]["misses"]["of"]) == (1, 2)  # 000.png
    assert (
        "20 good test images do not count in the measured rates, because the threshold comes from them"
        in report["notes"]
    )


def test_images_that_trained_measure_nothing(workplace, call, images):
    """Without test images, the held-out or the training images are scored instead."""
    assert call(calibrate, workplace.run, "--images", images, "false_reject_rate=0.1").code == 0
    for name in ("test", "ground_truth"):
        shutil.rmtree(workplace.path / "data/part" / name)
    trainer = open_run(workplace.run)
    trainer.test()
    report = json.loads((workplace.run / "metrics.json").read_text(encoding="utf-8"))
    assert report["decisions"]["false_rejects"]["of"] == 0 and report["decisions"]["threshold"] > 0


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
    "word", ["TrainingData.img_size=96", "precision=bf16", "TrainingData.sigma=2", "out_indice=[1]"]
)
def test_a_key_that_changes_scores_is_refused(workplace, call, images, word):
    before = (workplace.run / "student.safetensors").read_bytes()
    said = call(calibrate, workplace.run, "--images", images, "false_reject_rate=0.1", word)
    assert said.code == 2 and word.partition("=")[0] in said.last
    assert (workplace.run / "student.safetensors").read_bytes() == before


@pytest.mark.slow
@pytest.mark.parametrize("word", ["part_pattern=^..", "threads=1", "cache_mb=0", "save_path=x"])
def test_a_key_that_changes_no_score_is_taken(workplace, call, images, word):
    earlier = open_run(workplace.run).metadata["normal"]
    assert call(calibrate, workplace.run, "--images", images, "false_reject_rate=0.1", word).code == 0
    metadata = open_run(workplace.run).metadata
    rates = {"false_reject_rate": 0.01, "review_rate": None}
    assert metadata["earlier_calibrations"] == [earlier | {"rates": rates}]
    assert metadata["normal"]["source"] == "calibration images"


@pytest.mark.slow
def test_a_prediction_in_another_arithmetic_decides_with_a_note(workplace, call, images):
    call(calibrate, workplace.run, "--images", images, "false_reject_rate=0.1")
    trainer = open_run(workplace.run)
    assert trainer.metadata["normal"]["arithmetic"] == str(trainer.compute)
    trainer.metadata["normal"]["arithmetic"] = "float16 on cuda"
    trainer.save()
    said = call(predict, "results/st/part", "new", "--out", "out")
    assert said.code == 0 and said.err.count("computed in float16 on cuda, but this machine computes in") == 1
    assert "python3 calibrate.py results/st/part --images FOLDER" in said.err and " accept" in said.out


@pytest.mark.slow
def test_changed_settings_are_named_where_nothing_is_decided(workplace, call, images):
    call(calibrate, workplace.run, "--images", images, "false_reject_rate=0.1")
    said = call(predict, "results/st/part", "new", "--out", "out", "TrainingData.sigma=2")
    assert said.code == 0 and "nothing is decided, because TrainingData.sigma was changed" in said.err
    assert "calibrate.py" not in said.err


@pytest.mark.slow
@pytest.mark.parametrize("moved", ["moved here/st/part", "moved/st/part-again", "results/st/part"])
def test_the_printed_command_tests_this_run_from_elsewhere(workplace, call, images, moved, monkeypatch):
    if moved != "results/st/part":
        shutil.copytree(workplace.run, workplace.path / moved)
    before = workplace.kept()
    said = call(calibrate, moved, "--images", images, "false_reject_rate=0.1")
    command = said.out.partition("to update them: ")[2]
    (workplace.path / "elsewhere").mkdir()
    monkeypatch.chdir(workplace.path / "elsewhere")
    monkeypatch.setattr(sys, "argv", shlex.split(command)[1:])
    run(trainNet.main)
    report = json.loads((workplace.path / moved / "metrics.json").read_text(encoding="utf-8"))
    assert report["decisions"]["images"] == 20
    assert (workplace.kept() == before) == (moved != "results/st/part")


def test_a_folder_that_no_command_finds_is_to_be_moved(workplace, call, images):
    shutil.copytree(workplace.run, workplace.path / "moved_run")
    said = call(calibrate, "moved_run", "--images", images, "false_reject_rate=0.1")
    assert f"move {workplace.path / 'moved_run'} to SAVE_PATH/st/part" in said.out and "results/st" not in said.out


def test_a_moved_runs_own_configuration_does_not_test_another_run(workplace, call):
    shutil.copytree(workplace.run, workplace.path / "moved/st/part")
    before = workplace.kept()
    for script in (trainNet, visualization):
        said = call(script, "--config", "moved/st/part/config.yaml", "phase=test")
        assert said.code == 2 and "belongs to a run in results/st/part, but this file is in another folder" in said.last
        assert "save_path=" in said.last and workplace.kept() == before


def test_a_training_does_not_delete_a_threshold(workplace, call, images):
    call(calibrate, workplace.run, "--images", images, "false_reject_rate=0.1")
    call(trainNet, "phase=test", "false_reject_rate=0.1")
    before = workplace.kept()
    said = call(trainNet)
    assert said.code == 2 and "a threshold of calibrate.py, which a new training would delete" in said.last
    assert workplace.kept() == before
    assert call(calibrate, workplace.run, "--restore").code == 0
    assert call(trainNet).code == 0


def test_copies_of_images_that_trained_are_refused(workplace, call, images):
    shutil.copy(workplace.path / "data/part/train/good/001.png", images / "more/renamed.png")
    said = call(calibrate, workplace.run, "--images", images, "false_reject_rate=0.1")
    assert said.code == 2 and f"has seen, or copies of them ({images}/more/renamed.png); give new" in said.last


def test_images_that_trained_are_refused_wherever_they_are_now(workplace, call, images, monkeypatch):
    train, held = workplace.path / "data/part/train/good", workplace.path / "held"
    shutil.copytree(train, held)
    Image.open(train / "001.png").save(images / "again.bmp")
    shutil.rmtree(workplace.path / "data")
    monkeypatch.chdir(held)
    for folder in (held, images):
        said = call(calibrate, workplace.run, "--images", folder, "false_reject_rate=0.1")
        assert said.code == 2 and "images that the student has seen, or copies of them" in said.last


def test_a_run_knows_the_shapes_of_its_good_images(workplace, call, images):
    assert open_run(workplace.run).metadata["normal"]["aspect_ratios"] == [1, 1]
    write_image(images / "wide.png", draw_good(np.random.default_rng(7))[:32])
    call(calibrate, workplace.run, "--images", images, "false_reject_rate=0.1")
    assert open_run(workplace.run).metadata["normal"]["aspect_ratios"] == [1, 2]


def test_copies_among_the_new_images_are_refused(workplace, call, images):
    shutil.copy(images / "00.png", images / "more/copy.png")
    said = call(calibrate, workplace.run, "--images", images, "false_reject_rate=0.1")
    assert said.code == 2 and f"{images}/more/copy.png is a copy of {images}/00.png" in said.last


def test_a_fault_of_the_test_data_does_not_hide_that_images_are_defective(workplace, call):
    test = workplace.path / "data/part/test"
    shutil.copy(test / "good/000.png", test / "stray.png")
    before = workplace.kept()
    said = call(calibrate, workplace.run, "--images", test / "square", "false_reject_rate=0.4")
    assert said.code == 2 and "stray.png" in said.last and workplace.kept() == before


def test_the_data_of_a_run_are_found_from_another_folder(workplace, monkeypatch):
    write_mvtec(workplace.path / "elsewhere/data", train=2)
    monkeypatch.chdir(workplace.path / "elsewhere")
    assert open_run(workplace.run).config.data_path == str(workplace.path / "data")
    assert open_run(workplace.run, ["data_path=data"]).config.data_path == "data"
    monkeypatch.chdir(workplace.path)
    assert open_run(workplace.run).config.data_path == "data"


def test_a_student_of_an_older_version_is_calibrated_with_a_note(workplace, call, images):
    trainer = open_run(workplace.run)
    del trainer.metadata["seen"], trainer.metadata["data"]
    trainer.save()
    said = call(calibrate, workplace.run, "--images", images, "false_reject_rate=0.1")
    assert said.code == 0 and f"images of {images} were not compared with the training images" in said.err


def test_a_data_set_that_is_gone_is_said(workplace, call, images):
    assert "was not checked" not in call(calibrate, workplace.run, "--images", images, "false_reject_rate=0.1").err
    shutil.move(workplace.path / "data", workplace.path / "other")
    said = call(calibrate, workplace.run, "--images", images, "false_reject_rate=0.1")
    assert said.code == 0 and f"it was not checked whether {images} has images of the test (" in said.err
    said = call(calibrate, workplace.run, "--images", images, "false_reject_rate=0.1", "data_path=other")
    assert said.code == 0 and "was not checked" not in said.err and f"data_path={workplace.path}/other" in said.out


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
