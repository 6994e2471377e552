"""MVTec AD: <data_path>/<obj>/{train/good, test/<defect type>, ground_truth/<defect type>}; also MPDD and your own.

Hidden folders, such as .ipynb_checkpoints, are ignored. Folder names are in lower case, as written here.
Bergmann et al., The MVTec Anomaly Detection Dataset (IJCV 2021); Jezek et al., Deep learning-based defect detection of
metal parts (ICUMT 2021).
"""

from pathlib import Path

from datasets.listing import contents
from datasets.readers.layout import category_folder, check_case, folders_with, good_images, typed_images
from datasets.sample import Sample
from utils.config import RunConfig


def categories(root: Path) -> list[str]:
    return folders_with(root, "train/good")


def train_samples(config: RunConfig) -> list[Sample]:
    return good_images(category(config) / "train")


def test_samples(config: RunConfig) -> list[Sample]:
    root = category(config)
    return typed_images(root / "test", root / "ground_truth")


def category(config: RunConfig) -> Path:
    """The folder of `obj`. Raises UserError listing the existing categories, and for a name such as Train."""
    root = category_folder(config)
    check_case(contents(root).folders, ["train", "test", "ground_truth"])
    return root
