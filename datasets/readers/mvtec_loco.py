"""MVTec LOCO AD: as MVTec AD, but with validation/good, and with a folder of masks for each image, one for each defect.

The value of a mask's pixels names an entry of <obj>/defects_config.json, which says how much of the defect must be
found. Bergmann et al., Beyond Dents and Scratches (IJCV 2022).
"""

import json
from pathlib import Path

from datasets.listing import contents, is_folder, list_images, say_left_out
from datasets.readers.layout import Masks, category_folder, check_types, folders_with, good_images, typed_images
from datasets.sample import Sample, Saturation
from utils.config import RunConfig
from utils.console import note
from utils.errors import UserError

CONFIG = "defects_config.json"


def categories(root: Path) -> list[str]:
    return folders_with(root, CONFIG)


def train_samples(config: RunConfig) -> list[Sample]:
    return good_images(category_folder(config) / "train")


def validation_samples(config: RunConfig) -> list[Sample]:
    folder = category_folder(config) / "validation"
    return good_images(folder) if is_folder(folder) else []


def test_samples(config: RunConfig) -> list[Sample]:
    """Raises UserError for a damaged defects_config.json, a folder of masks without an image, and an empty one."""
    root = category_folder(config)
    samples = typed_images(root / "test", root / "ground_truth", masks_of=_mask_folders)
    saturation = _saturation(root / CONFIG)
    return [sample._replace(saturation=saturation if sample.mask else None) for sample in samples]


def _mask_folders(ground_truth: Path, found: dict[str, list[Path]]) -> Masks:
    """<type>/<stem> in `ground_truth` for each image."""
    masks = {}
    _, types, *_ = contents(ground_truth)
    check_types(types)
    for kind in types:
        images = {image.stem: image for image in found.get(kind.name, [])}
        stray, folders, *_ = contents(kind)
        say_left_out(kind, "mask(s) that are not in the folder of an image", stray)
        for folder in folders:
            if folder.name not in images:
                raise UserError(f"{folder}: there is no image {kind.name}/{folder.name} among the test images")
            if not list_images(folder):
                raise UserError(f"{folder}: there is no mask in this folder")
            masks[images[folder.name]] = folder
    return masks


def _saturation(path: Path) -> dict[int, Saturation] | None:
    """By the value of a mask's pixels; None, and a note, if there is no such file."""
    if not path.is_file():
        note(f"{path} is missing, so sPRO is not computed")
        return None
    try:
        entries = json.loads(path.read_text(encoding="utf-8"))
        return {int(each["pixel_value"]): _entry(each) for each in entries}
    except (OSError, ValueError, KeyError, TypeError):
        raise UserError(
            f"{path}: this file is damaged; it must be a list of entries with pixel_value, saturation_threshold and "
            "relative_saturation, as MVTec publishes it"
        ) from None


def _entry(values: dict) -> Saturation:
    entry = Saturation(float(values["saturation_threshold"]), values["relative_saturation"])
    if not isinstance(entry.relative, bool) or not 0 < entry.threshold <= (1 if entry.relative else float("inf")):
        raise ValueError
    return entry
