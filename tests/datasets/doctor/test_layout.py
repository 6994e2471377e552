"""Which faults of folders are found: all of them, where a training stops at the first."""

import shutil

import numpy as np
import pytest

from datasets.doctor.layout import Picture, listing
from tests.conftest import small, write_image, write_mvtec
from trainer import read_run
from utils.errors import UserError


def config_of(root, **top):
    return read_run(small("st", data_path=str(root), **top))[1]


@pytest.fixture
def root(tmp_path):
    return write_mvtec(tmp_path, train=2, good=1, bad=2, size=48)


def said(root):
    """Kind, first word of the sentence and files of each finding."""
    return {finding.sentence: list(finding.files) for finding in listing(config_of(root)).findings}


def test_a_right_data_set_has_no_findings_and_its_pictures_know_their_masks(root):
    found = listing(config_of(root))
    part = root / "part"
    assert found.findings == [] and found.root == part
    assert [each[1:] for each in found.pictures] == [
        ("train", "good", None),
        ("train", "good", None),
        ("test", "good", None),
        ("test", "square", part / "ground_truth/square/000_mask.png"),
        ("test", "square", part / "ground_truth/square/001_mask.png"),
    ]
    assert found.pictures[0] == Picture(part / "train/good/000.png", "train", "good")


def test_all_faults_are_found_at_once(root):
    part, blank = root / "part", np.zeros((16, 16), np.uint8)
    for name in ("train/bad/x.png", "train/y.png", "test/z.png", "test/square/000.bmp", "ground_truth/square/009.png"):
        write_image(part / name, blank)
    write_image(part / "ground_truth/square/001.png", blank)
    write_image(part / "ground_truth/stray.png", blank)
    (part / "train/good/notes.txt").write_text("x")
    (part / "test/square/gone.png").symlink_to("nowhere.png")
    assert said(root) == {
        "in train/good 1 file or folder is left out": ["train/good/notes.txt"],
        "in train/, but not in train/good, 2 files or folders are left out": ["train/bad", "train/y.png"],
        "1 picture directly in test/": ["test/z.png"],
        "links that lead to nothing": ["test/square/gone.png"],
        "pictures with the same name in test/square": ["test/square/000.bmp", "test/square/000.png"],
        "2 masks without a picture": ["ground_truth/stray.png", "ground_truth/square/009.png"],
        "a second mask of 1 picture": ["ground_truth/square/001_mask.png"],
        "1 of 3 defective pictures have no mask": ["test/square/000.bmp"],
    }


def test_folders_in_capitals_are_a_fault_and_read_all_the_same(root):
    shutil.move(root / "part/test/good", root / "part/test/Good")
    shutil.move(root / "part/train", root / "part/Train")
    found = listing(config_of(root))
    assert [finding.files for finding in found.findings] == [["Train"], ["test/Good"]]
    assert [each.split for each in found.pictures] == ["train", "train", "test", "test", "test"]
    assert found.pictures[2].defect_type == "good"


def test_defective_pictures_may_all_be_without_masks_and_a_test_may_be_missing(root):
    shutil.rmtree(root / "part/ground_truth")
    assert said(root) == {}
    shutil.rmtree(root / "part/test")
    assert said(root) == {}
    shutil.rmtree(root / "part/train/good")
    assert said(root) == {"there are no pictures in train/good": []}


def test_folders_with_other_names_are_found(root):
    """Pictures in tests/ were no test pictures, and good ones in test/ok counted as defective, without a word."""
    shutil.move(root / "part/test/good", root / "part/test/ok")
    shutil.move(root / "part/ground_truth", root / "part/groundtruth")
    write_image(root / "part/roi/mask.png", np.ones((48, 48), np.uint8))
    found = listing(read_run(small("st", {"roi": "roi/mask.png"}, data_path=str(root)))[1]).findings
    assert [(finding.sentence, list(finding.files)) for finding in found] == [
        ("the pictures in 1 folder beside train, test and ground_truth are not used", ["groundtruth"]),
        ("there are no pictures in test/good, so all in test/ count as defective (ok, square)", []),
    ]


def test_an_unknown_category_is_an_error(root):
    with pytest.raises(UserError, match="has no category 'other'"):
        listing(config_of(root, obj="other"))
    with pytest.raises(UserError, match="there is no folder"):
        listing(config_of(root / "nowhere"))


def test_other_layouts_come_from_their_reader_and_its_complaint_about_the_test_is_a_finding(tmp_path):
    for name in ("ok/0.png", "ok/1.png", "bad/dent/2.png"):
        write_image(tmp_path / name, np.zeros((16, 16), np.uint8))
    folder = {"good": ["ok"], "bad": ["bad"], "test_good": ["ok/1.png"]}
    found = listing(config_of(tmp_path, reader="folder", folder=folder))
    assert [(each.path.name, each.split, each.defect_type) for each in found.pictures] == [
        ("0.png", "train", "good"),
        ("1.png", "test", "good"),
        ("2.png", "test", "dent"),
    ]
    assert found.findings == []
    shutil.move(tmp_path / "bad/dent", tmp_path / "bad/good")
    (finding,) = listing(config_of(tmp_path, reader="folder", folder=folder)).findings
    assert finding.kind == "folders" and "is in a folder named 'good'" in finding.sentence
