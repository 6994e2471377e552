"""The life of a run: its folder, its training, its test."""

import contextlib
import json
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout
from torch import nn

from datasets.dataset import ImageDataset
from engine.device import Compute, environment
from engine.distributed import from_main
from engine.fit import Method, fit
from engine.loading import Batches, loader, training_batches
from engine.scoring import Scoring
from engine.state import changes
from engine.student_file import check_metadata, load_student, read_metadata, save_student
from evaluation.score import HELD_OUT, TRAINING, yardstick
from models.detector import Detector
from utils.config import RunConfig, result_settings
from utils.console import note
from utils.errors import UserError
from utils.files import check_writable
from utils.ranks import is_main

TestSet = tuple[ImageDataset, list[str]]  # and sentences about what it lacks


def train(
    method: Method, compute: Compute, folder: "RunFolder", metadata: dict[str, Any], test_set: TestSet | None
) -> dict[str, Any] | None:
    """Fit the student, or finish an interrupted training, and write the folder; returns the completed metadata.

    None if a finished student is there that only lacks its test. Raises UserError for unusable data (`test_set` is
    read too), a folder that cannot be written, is in use or holds another run, or a loss that is no longer finite.
    """
    recipe, config = method.recipe(), method.config
    with folder.locked() if is_main() else contextlib.nullcontext():
        origin = result_settings(config) | {"teacher (hash)": metadata["teacher"], "arithmetic": str(compute)}
        from_main(lambda: folder.check_replaceable(origin))
        batches = training_batches(
            config, method.detector.teacher, compute, recipe.augment, recipe.epoch_length, test_set and test_set[0]
        )
        train_batches, val_batches = batches
        inputs = {f"{key} (hash)": value for key, value in method.on_fit_start(train_batches).items()}
        images = "".join(part.loader.dataset.fingerprint() for part in batches if is_main())
        origin |= inputs | {"good images (hash)": images}
        if from_main(lambda: folder.awaits_test(origin)):
            note("this training is finished already; only its test is missing")
            return None
        state = fit(method, compute, *batches, folder.checkpoint, origin)
        state.restore_best()
        method.on_fit_end(val_batches)
        seconds = sum(row["seconds"] for row in state.history)
        metadata = metadata | {"origin": origin, "best_epoch": state.kept, "train_seconds": seconds}
        if is_main():
            metadata["normal"] = _yardstick(method.detector, compute, config, *batches)
            folder.replace_student(method.detector, metadata, config, state.history, state.best_epoch)
    return metadata


def test(
    detector: Detector, compute: Compute, config: RunConfig, folder: "RunFolder", metadata: dict, test_set: TestSet
) -> dict[str, float]:
    """Score the test images and write the report; returns the metrics that the data allow, as fractions.

    Raises UserError for unusable data, or a folder that cannot be written, is in use or tested on other data.
    """
    from evaluation import report  # draws: loads matplotlib

    dataset, notes = test_set
    with folder.locked():
        folder.check_retestable(config)
        results = Scoring(detector, compute, loader(dataset, config, compute.device), "testing")
        tested = report.test_report(folder.path, dataset.samples, results, notes, metadata.get("normal"))
        about = {
            "teachers": metadata["teachers"],
            "teacher_sha256": metadata["teacher"],
            "seed": metadata["settings"]["seed"],
            "best_epoch": metadata.get("best_epoch"),
            "good_scores": metadata.get("normal"),
            "durations": {
                "train_seconds": metadata.get("train_seconds"),
                "test_seconds": results.seconds,
                "test_images_per_second": len(dataset) / results.seconds,
            },
            **environment(compute),
            "trained_with": metadata["settings"],
            "config": config.model_dump(mode="json"),
        }
        report.write_metrics(folder.path, tested, about)
    return tested.metrics


def _yardstick(detector: Detector, compute: Compute, config: RunConfig, train: Batches, val: Batches) -> dict[str, Any]:
    """From held-out images, or where there are none from the first training images."""
    source, dataset = (HELD_OUT, val.loader.dataset) if val.images else (TRAINING, train.loader.dataset.first(64))
    # As in a test: without the recipe's augmentation.
    results = Scoring(detector, compute, loader(dataset, config, compute.device), source)
    return yardstick(results, len(dataset), source)


class RunFolder:
    """`<save_path>/<distillType>/<obj>[-<run>]/`."""

    def __init__(self, config: RunConfig):
        name = config.obj if config.run is None else f"{config.obj}-{config.run}"
        self.path = Path(config.save_path, config.distillType, name)
        self.overwrite = config.overwrite
        self.student_file = self.path / "student.safetensors"
        self.checkpoint = self.path / "checkpoint.pt"
        self.metrics_file = self.path / "metrics.json"

    @contextlib.contextmanager
    def locked(self) -> Iterator[None]:
        """Nobody else trains or tests in this folder meanwhile.

        Raises UserError for a folder that cannot be written, or naming the process that works there.
        """
        check_writable(self.path)
        owner = self.path.with_name(f".{self.path.name}.owner")
        lock = FileLock(self.path.with_name(f".{self.path.name}.lock"))
        try:
            lock.acquire(timeout=0)
        except Timeout:
            with contextlib.suppress(OSError):
                raise UserError(f"{self.path}: process {owner.read_text(encoding='utf-8')} is working there") from None
            raise UserError(f"{self.path}: another process is working there") from None
        try:
            owner.write_text(str(os.getpid()), encoding="utf-8")
            yield
        finally:
            owner.unlink(missing_ok=True)
            lock.release()

    def check_replaceable(self, origin: dict[str, Any]) -> None:
        """Raises UserError where a finished student of another origin would be replaced without having been asked to.

        `origin` may be a part of it, when more is not known yet.
        """
        if not self.student_file.exists() or self.overwrite:
            return
        try:
            there = read_metadata(self.student_file).get("origin", {})
        except UserError as error:
            raise UserError(f"{error}, or replace it with overwrite=true") from None
        changed = changes({key: value for key, value in there.items() if key in origin}, origin)
        if changed:
            raise UserError(
                f"{self.path} holds a finished run with other settings ({changed}): give this run a name of its own "
                "with run=NAME, or replace that one with overwrite=true"
            )

    def awaits_test(self, origin: dict[str, Any]) -> bool:
        """Whether there is a finished student of this origin without a test. Raises as `check_replaceable`."""
        self.check_replaceable(origin)
        return self.student_file.exists() and not self.overwrite and not self.metrics_file.exists()

    def check_retestable(self, config: RunConfig) -> None:
        """Raises UserError where the report of a test on other data would be replaced without being asked to."""
        there = config.data_path
        with contextlib.suppress(OSError, ValueError, KeyError, TypeError):  # a damaged report protects nothing
            there = json.loads(self.metrics_file.read_text(encoding="utf-8"))["config"]["data_path"]
        if Path(there).resolve() != Path(config.data_path).resolve() and not self.overwrite:
            raise UserError(f"{self.path} holds the report of a test on {there}: replace it with overwrite=true")

    def load(self, student: nn.Module, expected: dict[str, Any]) -> dict[str, Any]:
        """Fill the student from its file; returns its metadata.

        Raises UserError when the file is missing, damaged, or of another network or teacher than `expected`.
        """
        metadata = read_metadata(self.student_file)
        check_metadata(self.student_file, metadata, expected)
        load_student(self.student_file, student)
        if self.checkpoint.exists():
            note(f"{self.path} also holds an unfinished training; this is the student of the last finished one")
        # The teacher itself was compared above, whatever `weights` calls it.
        then, now = ({k: v for k, v in each["settings"].items() if k != "weights"} for each in (metadata, expected))
        changed = changes(then, now)
        if changed and metadata.get("normal"):
            note(
                f"the student was trained with other settings ({changed}): scores cannot be compared with its good ones"
            )
            metadata["normal"]["source"] = "good images, other settings"
        return metadata

    def replace_student(
        self,
        detector: Detector,
        metadata: dict[str, Any],
        config: RunConfig,
        history: list[dict],
        best_epoch: dict[str, int],
    ) -> None:
        """The finished student and how it was trained, in the place of an earlier one and of what describes it."""
        from evaluation.report import write_training_report  # draws: loads matplotlib

        for path in (self.metrics_file, self.path / "scores.csv"):
            path.unlink(missing_ok=True)
        for name in ("maps", "features"):
            shutil.rmtree(self.path / name, ignore_errors=True)
        save_student(self.student_file, detector.student, metadata)
        write_training_report(self.path, config, history, best_epoch)
        self.checkpoint.unlink(missing_ok=True)
