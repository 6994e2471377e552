"""MVTec LOCO AD: masks in folders, and defects_config.json."""

import json

import numpy as np
import pytest

from datasets import readers
from datasets.dataset import ImageDataset
from datasets.sample import Saturation
from tests.conftest import write_image
from tests.datasets.readers import trees
from tests.datasets.readers.trees import DATA, config_of
from utils.errors import UserError


@pytest.fixture
def root(tmp_path):
    trees.mvtec_loco(tmp_path)
    return tmp_path / "pushpins"


def test(root):
    return readers.test_samples(config_of(root.parent, "pushpins", reader="mvtec_loco"))


test.__test__ = False  # a short name of the reader's function, not a test


def test_saturation_areas_are_those_of_the_config(root):
    expected = {255: Saturation(49, False), 254: Saturation(0.5, True), 253: Saturation(1.0, True)}
    for sample in test(root):
        assert sample.saturation == (None if sample.defect_type == "good" else expected)


def test_without_saturation_areas_a_note_says_so(root, capsys):
    (root / "defects_config.json").unlink()
    assert {sample.saturation for sample in test(root)} == {None}
    assert "defects_config.json is missing, so sPRO is not computed" in capsys.readouterr().err


@pytest.mark.parametrize(
    "entry",
    [
        {},
        {"pixel_value": 255, "saturation_threshold": 1.5, "relative_saturation": True},
        {"pixel_value": 255, "saturation_threshold": 0, "relative_saturation": False},
        {"pixel_value": 255, "saturation_threshold": 7, "relative_saturation": "no"},
        {"pixel_value": "x", "saturation_threshold": 7, "relative_saturation": False},
    ],
)
def test_a_damaged_config_is_named(root, entry):
    for content in (json.dumps([entry]), json.dumps(entry)[:-1]):
        (root / "defects_config.json").write_text(content)
        with pytest.raises(UserError, match="defects_config.json: this file is damaged; it must be a list of entries"):
            test(root)


def test_masks_of_no_image_are_named(root):
    (root / "test/logical_anomalies/000.png").rename(root / "test/logical_anomalies/007.png")
    with pytest.raises(UserError, match="logical_anomalies/000: there is no image logical_anomalies/000"):
        test(root)


def test_a_folder_without_masks_is_named(root):
    (root / "ground_truth/structural_anomalies/000/000.png").unlink()
    with pytest.raises(UserError, match="structural_anomalies/000: there is no mask in this folder"):
        test(root)


def test_a_file_among_the_folders_of_masks_is_left_out_and_said(root, capsys):
    write_image(root / "ground_truth/logical_anomalies/001.png", trees.EMPTY)
    assert len(test(root)) == 4
    assert "logical_anomalies: left out 1 mask(s) that are not in the folder of an image" in capsys.readouterr().err


def test_a_mask_of_another_size_is_named(root):
    write_image(root / "ground_truth/logical_anomalies/000/001.png", np.full((32, 64), 254, np.uint8))
    with pytest.raises(UserError, match=r"000/001.png: the mask is 64 x 32 px but .*000.png is 64 x 64 px"):
        ImageDataset(test(root), DATA).read_all(0)


def test_without_a_validation_set_val_ratio_decides(root):
    (root / "validation").rename(root / "elsewhere")
    assert readers.validation_samples(config_of(root.parent, "pushpins")) == []
