"""DAGM 2007: what is wrong with its folders."""

import pytest

from datasets import readers
from tests.datasets.readers import trees
from tests.datasets.readers.trees import config_of
from utils.errors import UserError


def test_a_mask_without_image_is_named(tmp_path):
    trees.dagm(tmp_path)
    (tmp_path / "Class1/Test/0007.PNG").unlink()
    with pytest.raises(UserError, match="Label/0007_label.PNG: there is no image 0007 in .*Class1/Test"):
        readers.test_samples(config_of(tmp_path, "Class1"))


def test_no_good_images_to_train_on_is_an_error(tmp_path):
    trees.dagm(tmp_path)
    for k in range(4):
        (tmp_path / f"Class1/Train/{k:04}.PNG").unlink()
    with pytest.raises(UserError, match="Class1/Train: no good images to train on"):
        readers.train_samples(config_of(tmp_path, "Class1"))
