"""KolektorSDD: <data_path>/kos01/{Part0.jpg, Part0_label.bmp, ...}: surfaces of 50 items of one product.

An image is defective if its mask is not empty. There is no folder of a category: `obj` is fold1, fold2 or fold3, whose
items are tested after a training on the good images of the others. The authors also evaluate three folds of whole
items, but publish them in a format that must not be read from strangers (pickle); ours are every third item.
Tabernik et al., Segmentation-based deep-learning approach for surface-defect detection (JIM 2020).
"""

from pathlib import Path

from datasets.listing import contents
from datasets.readers.layout import check_category, data_root, marked, only_good
from datasets.sample import Sample
from utils.config import RunConfig

FOLDS = ["fold1", "fold2", "fold3"]
MASK = "_label"


def categories(root: Path) -> list[str]:
    return FOLDS if any(root.glob(f"kos*/*{MASK}.bmp")) else []


def train_samples(config: RunConfig) -> list[Sample]:
    return only_good(_samples(config, tested=False), Path(config.data_path))


def test_samples(config: RunConfig) -> list[Sample]:
    return _samples(config, tested=True)


def _samples(config: RunConfig, tested: bool) -> list[Sample]:
    """Raises UserError for a fold that does not exist, and an image without a mask."""
    root = data_root(config)
    check_category(config, FOLDS)
    items = [folder for folder in contents(root).folders if folder.name.startswith("kos")]
    own = [item for k, item in enumerate(items) if (FOLDS[k % len(FOLDS)] == config.obj) == tested]
    images = [path for item in own for path in contents(item).images if not path.stem.endswith(MASK)]
    masks = [path.with_name(f"{path.stem}{MASK}.bmp") for path in images]
    return [
        Sample(image, mask, "defect" if bad else "good", own_name=f"{image.parent.name}_{image.stem}")
        for image, mask, bad in zip(images, masks, marked(masks), strict=True)
    ]
