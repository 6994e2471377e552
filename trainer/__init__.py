"""The methods by their `distillType`, and the one way to build them."""

from collections.abc import Iterable, Mapping
from pathlib import Path

from trainer.base import BaseTrainer
from trainer.dbfad import DBFADTrainer
from trainer.efficientad import EfficientADTrainer
from trainer.mixed import MixedTrainer
from trainer.rd import RDTrainer
from trainer.rdpp import RDPPTrainer
from trainer.remembering import RNRDTrainer, RNSTTrainer
from trainer.stpm import STPMTrainer
from utils.config import check_config, read_config
from utils.console import note
from utils.errors import UserError

TRAINERS: dict[str, type[BaseTrainer]] = {
    "st": STPMTrainer,
    "rd": RDTrainer,
    "rdpp": RDPPTrainer,
    "ead": EfficientADTrainer,
    "dbfad": DBFADTrainer,
    "mixed": MixedTrainer,
    "rnst": RNSTTrainer,
    "rnrd": RNRDTrainer,
}


def build_trainer(source: str | Path | Mapping, overrides: Iterable[str] = ()) -> BaseTrainer:
    """A trainer with its networks built, from a YAML file or a dict; `overrides` are key=value words.

    Raises UserError naming the key at fault.
    """
    overrides = list(overrides)
    raw = read_config(source, overrides)
    name = "config" if isinstance(source, Mapping) else str(source)
    method = raw.get("distillType")
    if not isinstance(method, str) or method not in TRAINERS:
        raise UserError(f"{name}: 'distillType' must be one of {', '.join(TRAINERS)} (got {method!r})")
    if overrides and read_config(source).get("distillType") != method:
        note(f"{name} holds another method's recipe; the file in configs/ with distillType: {method} holds its own")
    trainer = TRAINERS[method]
    return trainer(check_config(raw, trainer.Config[trainer.Options], name, overrides))
