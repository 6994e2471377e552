"""The methods by their `distillType`, and the function that builds them."""

import functools
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from utils.console import note
from utils.errors import UserError

if TYPE_CHECKING:
    from trainer.base import BaseTrainer

    TRAINERS: dict[str, type[BaseTrainer]]


@functools.cache
def _trainers() -> "dict[str, type[BaseTrainer]]":
    # Imported when TRAINERS is first used, so that importing one method does not load the others.
    from trainer.dbfad import DBFADTrainer
    from trainer.efficientad import EfficientADTrainer
    from trainer.mixed import MixedTrainer
    from trainer.rd import RDTrainer
    from trainer.rdpp import RDPPTrainer
    from trainer.remembering import RNRDTrainer, RNSTTrainer
    from trainer.stpm import STPMTrainer

    return {
        "st": STPMTrainer,
        "rd": RDTrainer,
        "rdpp": RDPPTrainer,
        "ead": EfficientADTrainer,
        "dbfad": DBFADTrainer,
        "mixed": MixedTrainer,
        "rnst": RNSTTrainer,
        "rnrd": RNRDTrainer,
    }


def __getattr__(name: str) -> object:
    if name == "TRAINERS":
        return _trainers()
    raise AttributeError(f"module 'trainer' has no attribute '{name}'")


def build_trainer(source: str | Path | Mapping, overrides: Iterable[str] = ()) -> "BaseTrainer":
    """A trainer with its networks built, from a YAML file or a dict; `overrides` are key=value words.

    Raises UserError naming the wrong key.
    """
    from utils.config_file import check_config, place, read_config  # not needed to import one method

    overrides, trainers = list(overrides), _trainers()
    raw = read_config(source, overrides)
    name = "config" if isinstance(source, Mapping) else str(source)
    method = raw.get("distillType")
    if not isinstance(method, str) or method not in trainers:
        where = place(source, overrides, "distillType")
        raise UserError(f"{where}: 'distillType' must be one of {', '.join(trainers)} (got {method!r})")
    if overrides and read_config(source).get("distillType") != method:
        note(f"{name} has another method's recipe; the file in configs/ with distillType: {method} has the right one")
    trainer = trainers[method]
    return trainer(check_config(raw, trainer.Config[trainer.Options], name, overrides))
