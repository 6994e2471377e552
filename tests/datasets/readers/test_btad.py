"""BTAD: folders that are called ok and ko."""

import pytest

from datasets import readers
from tests.datasets.readers import trees
from tests.datasets.readers.trees import config_of
from utils.errors import UserError


def test_masks_may_have_another_format_than_their_images(tmp_path):
    trees.btad(tmp_path)
    samples = [sample for sample in readers.test_samples(config_of(tmp_path, "01")) if sample.mask]
    assert [(sample.path.name, sample.mask.name) for sample in samples] == [("6.bmp", "6.png"), ("7.bmp", "7.png")]


def test_a_folder_in_another_case_is_named(tmp_path):
    trees.btad(tmp_path)
    (tmp_path / "01/test/ok").rename(tmp_path / "01/test/OK")
    with pytest.raises(UserError, match="test/OK: rename this folder to 'ok', in lower case"):
        readers.test_samples(config_of(tmp_path, "01"))
