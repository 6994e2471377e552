"""One student for several categories (the multi-class protocol): it is trained once, and tested on each one apart."""

import copy
from collections.abc import Iterator
from pathlib import Path
from typing import Protocol, TypeVar

from engine.cross import Folds
from engine.folder import TESTED, RunFolder
from engine.loggers import MLFLOW_ID
from utils.config import RunConfig
from utils.files import write_bytes


class Unified(Protocol):
    """What is used of a trainer."""

    config: RunConfig
    folder: RunFolder
    run_dir: Path
    folds: Folds | None


AnyTrainer = TypeVar("AnyTrainer", bound=Unified)


def categories_apart(trainer: AnyTrainer) -> Iterator[AnyTrainer]:
    """For each category a trainer with the same student, whose test writes into <run>/<category>/.

    The trainer itself, if its student is for one category.
    """
    if not trainer.config.unified:
        yield trainer
        return
    for name in trainer.config.unified:
        part = copy.copy(trainer)
        part.config = trainer.config.model_copy(update={"obj": name})
        part.folder = RunFolder(part.config, trainer.run_dir / name)
        part.run_dir = part.folder.path
        part.__dict__.pop("test_set", None)  # of all categories, if it was read
        part.folds = trainer.folds
        yield part


def set_aside(part: Unified) -> None:
    """Move a category's report of an earlier student out of the way. It is deleted when the new one is tested."""
    (part.folder.path / MLFLOW_ID).unlink(missing_ok=True)  # the new student's tests are another run
    part.folder.set_aside(TESTED)


def repeatable(run_dir: Path, part: Path) -> None:
    """Copy config.yaml into a category's folder, because the page of its test says how to repeat the run."""
    source = run_dir / "config.yaml"
    if part != run_dir and source.is_file():  # not of a student that was saved without a training
        part.mkdir(parents=True, exist_ok=True)
        write_bytes(part / "config.yaml", source.read_bytes())
