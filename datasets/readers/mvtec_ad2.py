"""MVTec AD 2: <data_path>/<obj>/{train/good, validation/good, test_public/{good, bad, ground_truth/bad}}.

The labels of test_private and test_private_mixed are not published, so they are not read.
Heckler-Kram et al., The MVTec AD 2 Dataset (arXiv:2503.21622).
"""

from pathlib import Path

from datasets.readers.layout import category_folder, folders_with, typed_images
from datasets.readers.mvtec_loco import train_samples, validation_samples  # noqa: F401, the same folders
from datasets.sample import Sample
from utils.config import RunConfig


def categories(root: Path) -> list[str]:
    return folders_with(root, "test_public")


def test_samples(config: RunConfig) -> list[Sample]:
    root = category_folder(config) / "test_public"
    return typed_images(root, root / "ground_truth")
