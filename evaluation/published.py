"""Published figures of known categories, to stand beside measured ones: `published.yaml`."""

from functools import cache
from pathlib import Path
from typing import NamedTuple

import yaml

PAGE = Path(__file__).with_name("published.yaml")


class Published(NamedTuple):
    """Metrics of a method on a category, as fractions, with the protocol and the source that they come from."""

    metrics: dict[str, float]
    protocol: str
    source: str


@cache
def _page() -> dict:
    return yaml.safe_load(PAGE.read_text(encoding="utf-8"))


def published(method: str, category: str) -> Published | None:
    """None if nothing that can be checked is known for this category's name."""
    entry = _page().get(method)
    if entry is None or category not in entry["categories"]:
        return None
    values = [percent / 100 for percent in entry["categories"][category]]
    return Published(dict(zip(entry["metrics"], values, strict=True)), entry["protocol"], entry["source"])
