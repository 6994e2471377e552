"""VisA: <data_path>/split_csv/1cls.csv lists images and masks below <data_path>, with their category and split.

`visa_2cls_fewshot` and `visa_2cls_highshot` read the csv file of this name instead; the defective images that it has
for training are left out. Zou et al., SPot-the-Difference (ECCV 2022).
"""

import csv
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from datasets.listing import is_folder
from datasets.readers.layout import check_category, data_root, existing, only_good
from datasets.sample import Sample
from utils.config import RunConfig
from utils.errors import UserError

COLUMNS = ["object", "split", "label", "image", "mask"]


class Row(NamedTuple):
    """Of the csv file; `mask` is empty for a good image."""

    category: str
    split: str
    label: str
    image: str
    mask: str


def categories(root: Path) -> list[str]:
    if not is_folder(root / "split_csv"):
        return []
    files = sorted(path for path in root.glob("split_csv/*.csv") if not path.name.startswith("."))
    return list(dict.fromkeys(row.category for path in files for row in _rows(path)))


def train_samples(config: RunConfig) -> list[Sample]:
    return only_good(_samples(config, "train"), _csv(config))


def test_samples(config: RunConfig) -> list[Sample]:
    return _samples(config, "test")


def _samples(config: RunConfig, split: str) -> list[Sample]:
    """Raises UserError for a missing csv file or image, and for an unknown category."""
    root, path = data_root(config), _csv(config)
    rows = list(_rows(path))
    check_category(config, list(dict.fromkeys(row.category for row in rows)))
    return [_sample(root, path, row) for row in rows if (row.category, row.split) == (config.obj, split)]


def _sample(root: Path, path: Path, row: Row) -> Sample:
    image = existing(root / row.image, path)
    if row.label == "normal":
        return Sample(image, None, "good")
    return Sample(image, existing(root / row.mask, path) if row.mask else None, row.label)


def _csv(config: RunConfig) -> Path:
    name = config.reader.removeprefix("visa_") if config.reader.startswith("visa_") else "1cls"
    return Path(config.data_path, "split_csv", f"{name}.csv")


def _rows(path: Path) -> Iterator[Row]:
    """Raises UserError if the file cannot be read, or has other columns."""
    try:
        with path.open(encoding="utf-8", newline="") as file:
            head, *rows = csv.reader(file)
    except (OSError, ValueError, csv.Error) as error:
        raise UserError(
            f"{path}: cannot be read as VisA's csv file ({getattr(error, 'strerror', None) or error or 'it is empty'})"
        ) from None
    for number, row in enumerate([head, *rows], 1):
        if len(row) != len(COLUMNS) or (number == 1 and row != COLUMNS):
            raise UserError(f"{path}: line {number} must have the columns {', '.join(COLUMNS)}")
        if number > 1:
            yield Row(*row)
