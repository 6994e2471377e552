"""What decides in a run, and what is said about it."""

from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from datasets.dataset import Sample
from datasets.regions import EACH, region_digest
from engine.decisions import decider, measured
from engine.device import Compute
from evaluation.calibration import Calibration
from tests.conftest import small, write_image
from trainer import read_run
from utils.config import result_settings

HERE = Compute(torch.device("cpu"), torch.float32)
SCORES = {"scores": [1.0] * 99}


def config(*words):
    return read_run(small("st", {}, data_path="data"), words)[1]


def metadata(source="calibration images", words=(), **normal):
    return {"normal": SCORES | {"source": source} | normal, "settings": result_settings(config(*words))}


@pytest.mark.parametrize("normal", [{}, {"arithmetic": "float32 on cpu"}])  # earlier versions did not store it
def test_nothing_is_said_of_scores_of_the_same_arithmetic(normal):
    found, notes = decider(config(), HERE, Path("run"), metadata(**normal), None)
    assert isinstance(found, Calibration) and notes == []


def test_scores_of_another_arithmetic_decide_with_a_note(tmp_path):
    run = tmp_path / "a run"
    for folder in (run, run / "part"):  # where a category of several is tested
        folder.mkdir()
        (run / "student.safetensors").touch()
        found, (note,) = decider(config(), HERE, folder, metadata(arithmetic="bfloat16 on cuda"), None)
        assert found.threshold == 1.0
        assert "computed in bfloat16 on cuda, but this machine computes in float32 on cpu" in note
        assert f"python3 calibrate.py '{run}' --images FOLDER" in note


def test_a_changed_mask_of_the_same_name_does_not_decide(tmp_path):
    (tmp_path / "part").mkdir()
    here = config(f"data_path={tmp_path}", "obj=part", "TrainingData.roi=roi.png", "calibration=0.2")
    write_image(tmp_path / "part/roi.png", np.eye(8, dtype=np.uint8))
    there = metadata(region=region_digest(here), words=["calibration=0.2"])
    assert decider(here, HERE, Path("run"), there, None)[1] == []
    write_image(tmp_path / "part/other.png", np.eye(8, dtype=np.uint8) * 255)  # the same pixels are white
    other = here.model_copy(update={"TrainingData": here.TrainingData.model_copy(update={"roi": "other.png"})})
    assert decider(other, HERE, Path("run"), there, None)[1] == []
    write_image(tmp_path / "part/other.png", np.eye(8, dtype=np.uint8)[::-1])
    found, (note,) = decider(other, HERE, Path("run"), there, None)
    assert found is None and note == "nothing is decided, because TrainingData.roi was changed"
    there["normal"]["region"] = EACH  # one mask for other images is no mistake
    assert decider(other, HERE, Path("run"), there, None)[1] == []
    (note,) = decider(config("calibration=0.2"), HERE, Path("run"), there, None)[1]
    assert "TrainingData.roi was changed" in note  # none at all is one
    del there["normal"]["region"]  # earlier versions did not store it
    assert decider(other, HERE, Path("run"), there, None)[1] == []


def test_changed_keys_are_named_where_a_student_could_decide():
    changed = config("TrainingData.sigma=2", "TrainingData.img_size=96", "TrainingData.crop_size=96")
    found, notes = decider(changed, HERE, Path("run"), metadata("good images, other settings"), None)
    assert found is None and notes == []  # nothing was calibrated
    there = metadata("good images, other settings") | {"earlier_calibrations": [SCORES]}
    found, (note,) = decider(changed, HERE, Path("run"), there, None)
    keys = "TrainingData.img_size, TrainingData.crop_size, TrainingData.sigma"
    assert found is None and note == f"nothing is decided, because {keys} were changed"
    there = metadata("good images, other settings", ["calibration=0.2"])
    found, (note,) = decider(config("calibration=0.2", "weights=auto", "seed=1"), HERE, Path("run"), there, None)
    assert found is None and note == "nothing is decided, because seed was changed"


def dataset(names):
    samples = [Sample(Path(name), None, Path(name).parent.name) for name in names]
    return SimpleNamespace(samples=samples, defective=np.array([each.defect_type != "good" for each in samples]))


NAMES = ["good/1_a.png", "good/1_b.png", "good/2_a.png", "scratch/1_a.png", "scratch/1_b.png", "hole/1_a.png"]
VERDICTS = [(0.5, "accept"), (0.1, "reject"), (0.9, "accept"), (0.1, "reject"), (0.9, "accept"), (0.8, "accept")]


def test_a_test_counts_parts_of_each_defect_type():
    found, notes = measured(Calibration(range(9), 0.1), VERDICTS, dataset(NAMES), np.ones(6, bool), "^[0-9]+")
    assert notes == [] and found["test_unit"] == "parts"
    assert [(found[key]["count"], found[key]["of"]) for key in ("false_rejects", "misses")] == [(1, 2), (1, 2)]
    assert found["false_rejects"]["interval"] == pytest.approx((0.0126, 0.9874), abs=1e-4)


def test_images_that_do_not_count_are_left_out():
    counted = np.array([True, False, True, False, True, False])
    found, _ = measured(Calibration(range(9), 0.1), VERDICTS, dataset(NAMES), counted, "^[0-9]+")
    assert found["test_unit"] == "images"  # one of each part
    assert [(found[key]["count"], found[key]["of"]) for key in ("false_rejects", "misses")] == [(0, 2), (1, 1)]


@pytest.mark.parametrize(("pattern", "said"), [(None, []), ("^x", ["each test image is counted as a part of its own"])])
def test_without_a_pattern_that_fits_a_test_counts_images(pattern, said):
    found, notes = measured(Calibration(range(9), 0.1), VERDICTS, dataset(NAMES), np.ones(6, bool), pattern)
    assert [note.partition(":")[0] for note in notes] == said
    assert found["test_unit"] == "images" and found["false_rejects"]["of"] == found["misses"]["of"] == 3
