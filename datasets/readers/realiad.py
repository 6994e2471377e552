"""Real-IAD: <data_path>/realiad_jsons/<obj>.json lists the images and masks of <data_path>/realiad_1024/<obj>.

Images may also be in realiad_512, realiad_256 or realiad_raw; the first of these folders that is there is used. The
json files may be one folder deeper, as in the published archive. `realiad_sv` reads realiad_jsons_sv, which has one of
the five views. Wang et al., Real-IAD (CVPR 2024).
"""

import json
from pathlib import Path
from typing import Any

from datasets.listing import is_folder
from datasets.readers.layout import check_category, data_root, existing
from datasets.sample import Sample
from utils.config import RunConfig
from utils.errors import UserError

IMAGES = ("realiad_1024", "realiad_512", "realiad_256", "realiad_raw")
SPLITS = {"realiad_sv": "realiad_jsons_sv"}  # the folder of a reader's json files; realiad_jsons for the others


def categories(root: Path) -> list[str]:
    """The names of the json files."""
    folders = [_json_folder(root, name) for name in ("realiad_jsons", *SPLITS.values())]
    return sorted({name for folder in folders for name in _names(folder)})


def _names(folder: Path) -> list[str]:
    return sorted(path.stem for path in folder.glob("*.json") if not path.name.startswith("."))


def train_samples(config: RunConfig) -> list[Sample]:
    """Raises UserError for a missing or damaged json file, a defective image among those to train on, and others."""
    samples, path = _samples(config, "train")
    wrong = [sample for sample in samples if sample.defect_type != "good"]
    if wrong or not samples:
        what = f"{wrong[0].path}, which is defective" if wrong else "no images"
        raise UserError(f"{path}: its list 'train' names {what}; only good images can train")
    return samples


def test_samples(config: RunConfig) -> list[Sample]:
    return _samples(config, "test")[0]


def _samples(config: RunConfig, split: str) -> tuple[list[Sample], Path]:
    """The images of a split, and the json file that lists them."""
    root = data_root(config)
    folder = _json_folder(root, SPLITS.get(config.reader, "realiad_jsons"))
    path = folder / f"{config.obj}.json"
    if not path.is_file():
        check_category(config, _names(folder))
    content = _read(path)
    images = next((root / name for name in IMAGES if is_folder(root / name)), None)
    if images is None:
        raise UserError(f"data_path: {root} has no folder of images ({', '.join(IMAGES)})")
    try:
        normal = content["meta"]["normal_class"]
        return [_sample(images / content["meta"]["prefix"], path, normal, each) for each in content[split]], path
    except (KeyError, TypeError):
        raise UserError(f"{path}: this file is damaged; it must have meta, train and test, as published") from None


def _sample(folder: Path, path: Path, normal: str, entry: dict[str, Any]) -> Sample:
    image, kind, mask = existing(folder / entry["image_path"], path), entry["anomaly_class"], entry["mask_path"]
    if kind == normal:
        return Sample(image, None, "good")
    return Sample(image, existing(folder / mask, path) if mask else None, kind)


def _json_folder(root: Path, name: str) -> Path:
    return root / name / name if is_folder(root / name / name) else root / name


def _read(path: Path) -> Any:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UserError(f"{path}: cannot be read as Real-IAD's json file ({error})") from None
