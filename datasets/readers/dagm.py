"""DAGM 2007: <data_path>/<obj>/{Train, Test}/{0001.PNG, ..., Label/0001_label.PNG}; obj is Class1 to Class10.

An image is defective if it has a mask, which is an ellipse around the defect: its labels are weak. The good images of
Train are those to train on; the defective ones are left out. Wieler and Hahn, Weakly Supervised Learning for Industrial
Optical Inspection (DAGM symposium 2007).
"""

from pathlib import Path

from datasets.listing import contents
from datasets.readers.layout import category_folder, folders_with, only_good
from datasets.sample import Sample
from utils.config import RunConfig
from utils.errors import UserError

MASK = "_label"


def categories(root: Path) -> list[str]:
    return folders_with(root, "Train/Label")


def train_samples(config: RunConfig) -> list[Sample]:
    folder = category_folder(config) / "Train"
    return only_good(_samples(folder), folder)


def test_samples(config: RunConfig) -> list[Sample]:
    return _samples(category_folder(config) / "Test")


def _samples(folder: Path) -> list[Sample]:
    """Raises UserError for a mask without image."""
    images = {path.stem: path for path in contents(folder).images}
    masks = {path.stem.removesuffix(MASK): path for path in contents(folder / "Label").images}
    for stem, mask in masks.items():
        if stem not in images:
            raise UserError(f"{mask}: there is no image {stem} in {folder}")
    return [Sample(path, masks.get(stem), "defect" if stem in masks else "good") for stem, path in images.items()]
