"""MVTec AD 2: what is read of its folders."""

import pytest

from datasets import readers
from tests.datasets.readers import trees
from tests.datasets.readers.trees import config_of
from utils.errors import UserError


def test_only_the_public_test_set_is_read(tmp_path):
    trees.mvtec_ad2(tmp_path)
    samples = readers.test_samples(config_of(tmp_path, "can"))
    assert all("test_public" in sample.path.parts for sample in samples)
    masks = {sample.stem: sample.mask.name for sample in samples if sample.mask}
    assert masks == {name: f"{name}_mask.png" for name in ("000_overexposed", "000_regular")}


def test_an_image_without_mask_is_named(tmp_path):
    trees.mvtec_ad2(tmp_path)
    (tmp_path / "can/test_public/ground_truth/bad/000_regular_mask.png").unlink()
    with pytest.raises(UserError, match=r"bad/000_regular.png: this image has no mask \(1 of 2 defective"):
        readers.test_samples(config_of(tmp_path, "can"))
