"""The methods by their `distillType`, and the function that builds them."""

import functools
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from utils.console import note
from utils.errors import UserError

if TYPE_CHECKING:
    from trainer.base import BaseTrainer
    from utils.config import RunConfig

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


def build_trainer(
    source: str | Path | Mapping, overrides: Iterable[str] = (), run_dir: Path | None = None
) -> "BaseTrainer":
    """A trainer with its networks built, from a YAML file or a dict; `overrides` are key=value words.

    `run_dir` is the folder of the run, if it is not where the config says. Raises UserError naming the wrong key.
    """
    trainer, config = read_run(source, overrides)
    return trainer(config, run_dir)


def read_run(source: str | Path | Mapping, overrides: Iterable[str] = ()) -> "tuple[type[BaseTrainer], RunConfig]":
    """The method and the checked configuration of a run, without its networks. Raises as `build_trainer`."""
    from utils.config_file import check_config, place, read_config  # not needed to import one method

    overrides, trainers = list(overrides), _trainers()
    raw = read_config(source, overrides)
    name = "config" if isinstance(source, Mapping) else str(source)
    method = raw.get("distillType")
    if not isinstance(method, str) or method not in trainers:
        where = place(source, overrides, "distillType")
        found = f"got {method!r}" if "distillType" in raw else "it is missing"
        raise UserError(f"{where}: 'distillType' must be one of {', '.join(trainers)} ({found})")
    if overrides and read_config(source).get("distillType") != method:
        note(f"{name} has another method's recipe; use the file of {method} in configs/, if there is one")
    models = {key: trainer.Config[trainer.Options] for key, trainer in trainers.items()}
    return trainers[method], check_config(raw, models[method], name, overrides, models)


def open_run(folder: str | Path, overrides: Iterable[str] = ()) -> "BaseTrainer":
    """The trainer of a finished run, its student loaded, from the run's folder, wherever that is now.

    Raises UserError for a folder that is not a finished run, and as `build_trainer`.
    """
    from engine.retest import data_override

    path = Path(folder)
    if not (path / "config.yaml").is_file():
        raise UserError(f"{path}: there is no finished run; give the folder of one, such as results/st/screw")
    if not (path / "student.safetensors").exists() and (path.parent / "student.safetensors").exists():
        raise UserError(f"{path} has the test of one category of {path.parent}: give that folder")
    trainer = build_trainer(path / "config.yaml", [*data_override(path), *overrides, "phase=test"], path)
    trainer.load()
    return trainer
