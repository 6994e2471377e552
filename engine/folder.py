"""A run's folder: its files, its lock, and what may be replaced."""

import contextlib
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from torch import nn

from engine.student_file import changes, check_metadata, load_student, read_metadata, save_student
from models.detector import Detector
from utils.config import RunConfig
from utils.console import log_to, note
from utils.errors import UserError
from utils.files import check_writable, locked

NOT_IN_SCORES = ("part_pattern", "weights", "TrainingData.batch_size")  # of settings; the teacher itself is compared
TRAINED = ("config.yaml", "student.safetensors", "training.csv", "training.png")  # files of a training
TESTED = "metrics.json scores.csv pixels.npz maps features report.html report_pictures".split()
TESTED += ["scores.png", "curves.png", "contact.png"]


class RunFolder:
    """`<save_path>/<distillType>/<obj>[-<run>]/`, or wherever such a folder was moved to."""

    def __init__(self, config: RunConfig, moved_to: Path | None = None):
        name = config.obj if config.run is None else f"{config.obj}-{config.run}"
        self.path = moved_to or Path(config.save_path, config.distillType, name)
        self.overwrite = config.overwrite
        self.student_file = self.path / "student.safetensors"
        self.checkpoint = self.path / "checkpoint.pt"
        self.metrics_file = self.path / "metrics.json"
        self.previous = self.path.with_name(f".{self.path.name}.previous")

    def locked(self) -> contextlib.AbstractContextManager[None]:
        """Lock the folder, so that no other process trains or tests in it.

        Raises UserError for a folder that cannot be written, or naming the process that uses it.
        """
        check_writable(self.path)
        return locked(self.path)

    def log(self) -> contextlib.AbstractContextManager[None]:
        """Write the messages of the block to train.log, too."""
        return log_to(self.path / "train.log")

    def check_replaceable(self, origin: dict[str, Any]) -> None:
        """Raises UserError if a finished student of another origin would be replaced without `overwrite`.

        `origin` may be incomplete if not everything is known yet.
        """
        if not self.student_file.exists() or self.overwrite:
            return
        try:
            there = read_metadata(self.student_file).get("origin")
        except UserError as error:
            raise UserError(f"{error}, or replace it with overwrite=true") from None
        if there is None:
            raise UserError(f"{self.student_file} was saved without a training: replace it with overwrite=true")
        if changed := changes({key: value for key, value in there.items() if key in origin}, origin):
            raise UserError(
                f"{self.path} holds a finished run with other settings ({changed}): give this run its own name "
                "with run=NAME, or replace that run with overwrite=true"
            )

    def awaits_test(self, origin: dict[str, Any]) -> bool:
        """Whether a finished student of this origin only lacks its test.

        `origin` may be incomplete. Raises as `check_replaceable`.
        """
        self.check_replaceable(origin)
        if not self.student_file.exists() or self.metrics_file.exists():
            return False
        with contextlib.suppress(UserError):  # damaged, and may be overwritten
            there = read_metadata(self.student_file).get("origin", {})
            return not changes({key: value for key, value in there.items() if key in origin}, origin)
        return False

    def places(self, config: RunConfig) -> dict[str, Path]:
        """Where the data and this folder are, from the root."""
        return {"data": Path(config.data_path).resolve(), "folder": self.path.resolve()}

    def load(self, student: nn.Module, expected: dict[str, Any]) -> dict[str, Any]:
        """Fill the student from its file; returns its metadata.

        Raises UserError when the file is missing, damaged, or of another network or teacher than `expected`.
        """
        metadata = read_metadata(self.student_file)
        check_metadata(self.student_file, metadata, expected)
        load_student(self.student_file, student)
        if self.checkpoint.exists():
            note(f"{self.path} also holds an unfinished training; this is the student of the last finished one")
        both = (metadata["settings"], expected["settings"])
        changed = changes(*({key: each[key] for key in each if key not in NOT_IN_SCORES} for each in both))
        if changed and metadata.get("normal"):
            note(f"the student was trained with other settings ({changed}): do not compare scores with its good images")
            metadata["normal"]["source"] = "good images, other settings"
        return metadata

    @contextlib.contextmanager
    def tested(self) -> Iterator[None]:
        """A test. When it is finished, the run that this one replaces is deleted; if it fails, that run is kept."""
        try:
            yield
        except BaseException:
            if self.previous.exists():
                note(f"the run that was to be replaced is kept in {self.previous}")
            raise
        shutil.rmtree(self.previous, ignore_errors=True)

    def set_aside(self, names: list[str]) -> None:
        """Move these files of an earlier tested run out of the way, until `tested` deletes them."""
        if not self.metrics_file.exists():
            return
        shutil.rmtree(self.previous, ignore_errors=True)
        self.previous.mkdir(exist_ok=True)  # a file that another program has open stays on Windows
        for name in names:
            if (self.path / name).exists():
                shutil.move(self.path / name, self.previous / name)

    def replace_student(
        self,
        detector: Detector,
        metadata: dict[str, Any],
        config: RunConfig,
        history: list[dict],
        best_epoch: dict[str, int],
    ) -> None:
        """Write the finished student and how it was trained; the files of an earlier run are set aside."""
        from evaluation.report import write_training_report  # draws: loads matplotlib

        self.path.mkdir(parents=True, exist_ok=True)  # the results folder may have been deleted meanwhile
        self.set_aside([*TESTED, *TRAINED])
        write_training_report(self.path, config, history, best_epoch)
        save_student(self.student_file, detector.student, metadata)  # last: this file marks a finished training
        self.checkpoint.unlink(missing_ok=True)
