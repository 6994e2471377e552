"""What an exported file knows besides its networks: JSON under one key of the file's own metadata."""

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NamedTuple

from utils.errors import UserError

KEY = "anomaly_detector"
FORMAT = 1
MODELS = {"onnx": "model.onnx", "openvino": "model.xml"}
HEAD = "head.xml"  # with OpenVINO, what follows networks of a lower precision, in float32
FILES = (*MODELS.values(), "model.bin", HEAD, "head.bin")


class Metadata(NamedTuple):
    """`options` are those of TrainingData that say what becomes of a picture before the networks see it.

    `normal` has the student's scores of good parts, computed by this file.
    """

    options: dict[str, Any]
    normal: dict[str, Any] | None
    false_reject_rate: float
    review_rate: float | None
    precision: str
    about: dict[str, str]  # for people: what the file is, its input and its outputs
    roi: str | None = None  # the mask of what is looked at, as `datasets.regions.Roi.text`

    def text(self) -> str:
        return json.dumps(self._asdict() | {"format": FORMAT})

    @classmethod
    def read(cls, text: str | None, path: Path) -> "Metadata":
        """Raises UserError naming a file that was not exported by this toolkit, or by another version of it."""
        try:
            found = json.loads(text)
            version = found.pop("format")
            metadata = cls(**found) if version == FORMAT else None
        except (AttributeError, KeyError, TypeError, ValueError):  # a foreign file has no such text
            raise UserError(f"{path} was not written by export.py, or it is damaged") from None
        if metadata is None:
            raise UserError(f"{path} was written by another version of export.py: export the run again")
        return metadata

    @property
    def training_data(self) -> SimpleNamespace:
        """The options as attributes and sizes as tuples, as in a configuration."""
        return SimpleNamespace(**{k: tuple(v) if isinstance(v, list) else v for k, v in self.options.items()})


def with_rates(metadata: Metadata, words: list[str]) -> Metadata:
    """The rates replaced by key=value words. Raises UserError for another key, and for a value that is no rate."""
    for word in words:
        key, _, value = word.partition("=")
        if key not in ("false_reject_rate", "review_rate"):
            raise UserError(f"{word}: an exported model takes only false_reject_rate=RATE and review_rate=RATE")
        metadata = metadata._replace(**{key: _rate(key, value)})
    return metadata


def _rate(key: str, value: str) -> float | None:
    if key == "review_rate" and value in ("null", "none"):
        return None
    try:
        rate = float(value)
    except ValueError:
        rate = 0.0
    if not 0 < rate < 1:
        raise UserError(f"{key} must be a number between 0 and 1 (got {value!r})")
    return rate
