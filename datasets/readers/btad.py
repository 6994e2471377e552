"""BTAD, the beanTech data set: <data_path>/<obj>/{train/ok, test/ok, test/ko, ground_truth/ko}; obj is 01, 02 or 03.

Masks may have another format than their images. Mishra et al., VT-ADL (ISIE 2021).
"""

from pathlib import Path

from datasets.readers.layout import category_folder, folders_with, good_images, typed_images
from datasets.sample import Sample
from utils.config import RunConfig


def categories(root: Path) -> list[str]:
    return folders_with(root, "train/ok")


def train_samples(config: RunConfig) -> list[Sample]:
    return good_images(category_folder(config) / "train", "ok")


def test_samples(config: RunConfig) -> list[Sample]:
    root = category_folder(config)
    return typed_images(root / "test", root / "ground_truth", "ok")
