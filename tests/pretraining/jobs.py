"""Small recipes that make a teacher within a second."""

import csv

from pretraining import RECIPES
from tests.conftest import PLACE
from utils.config_file import check_config

SMALL = {
    "classify": {
        "backbone": "resnet18",
        "classes": 3,
        "per_class": 4,
        "img_size": 48,
        "crop_size": 32,
        "batch_size": 4,
    },
    "distil": {"pdn": "small", "backbone": "resnet18", "weights": "random", "pictures": 4, "statistics": 4}
    | {"img_size": 32, "batch_size": 2},
}


def job(recipe, folder, **keys):
    """A recipe of four steps that writes to `folder`, with a row of the log per two steps."""
    raw = {"recipe": recipe, "save_path": str(folder), "steps": 4, "log_every": 2, "precision": "fp32", **PLACE}
    return RECIPES[recipe](check_config(raw | SMALL[recipe] | keys, RECIPES[recipe].Options))


def rows_of(folder):
    with (folder / "log.csv").open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))
