"""KolektorSDD2: <data_path>/{train, test}/{10000.png, 10000_GT.png, ...}; obj is kolektor2.

An image is defective if its mask is not empty. The good images of train are those to train on; the defective ones are
left out. Bozic et al., Mixed supervision for surface-defect detection (Computers in Industry 2021).
"""

from pathlib import Path

from datasets.listing import contents, say_left_out
from datasets.readers.layout import check_category, data_root, marked, only_good
from datasets.sample import Sample
from utils.config import RunConfig

NAME = "kolektor2"
MASK = "_GT"
COPY = " (copy)"  # the published archive has an image and its mask twice


def categories(root: Path) -> list[str]:
    return [NAME] if any(root.glob(f"train/*{MASK}.png")) else []


def train_samples(config: RunConfig) -> list[Sample]:
    return only_good(_samples(config, "train"), Path(config.data_path, "train"))


def test_samples(config: RunConfig) -> list[Sample]:
    return _samples(config, "test")


def _samples(config: RunConfig, split: str) -> list[Sample]:
    """Raises UserError for another category, and an image without a mask."""
    folder = data_root(config) / split
    check_category(config, categories(data_root(config)))
    images = [path for path in contents(folder).images if not path.stem.removesuffix(COPY).endswith(MASK)]
    say_left_out(folder, "copies of other images", [path for path in images if path.stem.endswith(COPY)])
    images = [path for path in images if not path.stem.endswith(COPY)]
    masks = [path.with_name(f"{path.stem}{MASK}.png") for path in images]
    kinds = ["defect" if bad else "good" for bad in marked(masks)]
    return [Sample(*each) for each in zip(images, masks, kinds, strict=True)]
