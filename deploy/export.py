"""From a finished run to a folder with a model that needs no torch, checked against the run, and its card."""

import os
import tempfile
from collections.abc import Iterator, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

import torch

from datasets.dataset import stacked
from datasets.listing import SYSTEM_FILES
from deploy import card
from deploy.export_check import LIMITS, Found, Judged, MapsOf, check_files, compare, differences
from deploy.export_data import RunData
from deploy.export_formats import build, check_possible
from deploy.export_graph import Graphs, on_cpu
from deploy.predictor import Predictor
from deploy.runtime import ExportedModel
from deploy.runtime.metadata import FILES, Metadata
from engine.decisions import verdicts_of
from engine.device import DTYPES, Compute
from engine.scoring import AnomalyMaps
from engine.student_file import read_metadata
from evaluation.calibration import Calibration, described
from evaluation.cross import CrossCalibration
from evaluation.report import Tested, evaluate
from evaluation.score import CALIBRATION, Scored
from utils.errors import UserError
from utils.files import check_writable, replacing

PRECISIONS = {dtype: name for name, dtype in DTYPES.items()}
SIZES = ("img_size", "crop_size", "tile")  # of TrainingData
WRITTEN = {card.CARD, card.PAGE, *FILES}
FLOAT32 = str(Compute(torch.device("cpu"), torch.float32))


def check_free(out: Path) -> None:
    """Raises UserError for a folder that has something else than an earlier export, or cannot be replaced."""
    place = out.resolve()
    if os.path.ismount(place) or Path.cwd().resolve().is_relative_to(place):
        raise UserError(
            f"--out: {out} cannot be replaced, because it is a drive, the current folder or one above it; give a "
            f"folder in it, such as {out / 'exported'}"
        )
    names = {path.name for path in place.iterdir()} - {*SYSTEM_FILES, ".DS_Store"} if place.is_dir() else set()
    if place.exists() and card.CARD not in names and (names or not place.is_dir()):
        raise UserError(f"--out: {out} exists and was not written by export.py; give another folder")
    if names - WRITTEN:
        raise UserError(
            f"--out: a new export would delete {out / min(names - WRITTEN)}; move it to another place, or give "
            "another folder"
        )
    check_writable(place.parent, "--out")


class Export:
    """A finished run with the images that it needs. `images` is a folder of good ones; None: the run's own.

    Raises UserError for a folder that is no finished run, for data that is not there, for packages that are missing,
    and for a precision that the format lacks.
    """

    def __init__(self, run: Path, kind: str, precision: str, images: Path | None, overrides: Sequence[str]):
        check_possible(kind, precision)
        self.kind, self.precision = kind, precision
        self.predictor = Predictor(run, [*overrides, "compile=false"])
        self.trainer = self.predictor.trainer
        self.config, self.options = self.trainer.config, self.trainer.options
        self.data = RunData(self.trainer, images)
        trained = read_metadata(self.trainer.folder.student_file)  # loading it with other settings has changed `normal`
        decides = trained["settings"].get("calibration") == "cross"
        decides = decides or (trained.get("normal") or {}).get("source") == CALIBRATION
        if decides and not self.predictor.calibration and images is None:  # the predictor has said why
            raise UserError(
                "--images: the run's thresholds do not belong to these settings; leave the changed keys out, or give "
                "good images that did not train the student: --images FOLDER"
            )
        if isinstance(self.predictor.calibration, CrossCalibration) and images is None:
            raise UserError(
                "--images: with calibration=cross several students decide, but an export has one; give good images "
                "that it was not trained with, for a threshold: --images FOLDER"
            )
        compute = Compute(torch.device("cpu"), torch.float32)
        self.detector = compute.place(on_cpu(self.trainer.detector))
        maps = AnomalyMaps(self.detector, compute)
        self.float32: MapsOf = lambda images: maps(stacked(images))

    def write(self, out: Path) -> dict[str, Any]:
        """Write the folder and return its card. Raises UserError, and writes nothing, if it computes something else."""
        images = [] if self.precision == "fp32" else self.data.samples()
        model = build(self.kind, self.precision, Graphs(self.detector, self.options.input_size), images)
        metadata = self._metadata()
        with tempfile.TemporaryDirectory() as first:  # a file that is loaded must not be replaced
            model.save(Path(first), metadata._replace(normal=None))
            metadata = metadata._replace(normal=self._normal_scores(ExportedModel(first)))
        with replacing(out.resolve()) as folder:  # a link stays, and what it leads to is replaced
            model.save(folder, metadata)
            exported, found, test = ExportedModel(folder), [], self.data.test
            tested = evaluate(test.samples, self._compared(exported, found), self.data.notes, test.fit)
            check = differences(found, self.precision, PRECISIONS[self.trainer.compute.dtype])
            check_files(exported, found, LIMITS[self.precision])
            if isinstance(self.predictor.calibration, CrossCalibration):
                check |= self._beside_folds(found)
            card.write_card(folder, self._card(folder, exported, check, tested))
        return card.read_card(out)

    def _metadata(self) -> Metadata:
        height, width = self.options.input_size
        about = {
            "method": self.config.distillType,
            "category": self.config.obj,
            "input": f"image: float32 [batch, 3, {height}, {width}], RGB, from 0 to 1, resized as by Pillow's BILINEAR",
            "outputs": f"map: float32 [batch, 1, {height}, {width}]; score: float32 [batch], the map's maximum, which "
            "is a picture's score only without padding, tiles and region of interest",
        }
        options = {key: (size := getattr(self.options, key)) and list(size) for key in SIZES}
        options |= {
            "fit": self.options.fit,
            "overlap": self.options.overlap,
            "batch_size": min(self.options.batch_size, 16),
        }
        rates = (self.config.false_reject_rate, self.config.review_rate)
        roi = self.predictor.roi and self.predictor.roi.text()
        return Metadata(options, self.predictor.normal, *rates, self.precision, about, roi)

    def _normal_scores(self, exported: ExportedModel) -> dict[str, Any] | None:
        """The run's, by the exported model; the run's own scores where nothing is decided, or they are the same.

        Raises UserError if they are not, and the images that they come from are not known.
        """
        normal = self.predictor.normal
        own_scores = normal is not None and normal["source"] == CALIBRATION
        if self.data.calibration is not None:
            return self.data.normal_scores(exported.maps_of, exported.batch_size)
        if self.predictor.calibration and not (own_scores and self._same_scores):
            raise UserError(
                "--images: the thresholds must be computed again for this export, but the images that they come from "
                "are not known; give good images that did not train the student: --images FOLDER"
            )
        return normal

    @property
    def _same_scores(self) -> bool:
        """Whether the calibration and the export compute alike, except for rounding."""
        calibrated = self.predictor.normal.get("arithmetic", FLOAT32)  # not known of older students
        return self.precision == "fp32" and self._run_maps is self.float32 and calibrated == FLOAT32

    @property
    def _run_maps(self) -> MapsOf:
        """As the run computes: its precision may be lower, and its device another one."""
        compute = self.trainer.compute
        here = compute.dtype == torch.float32 and compute.device.type == "cpu"
        return self.float32 if here else self.predictor.maps_of

    def _compared(self, exported: ExportedModel, found: list[Found]) -> Iterator[Scored]:
        """Both decide by their own scores of the same images."""
        normal, rates = self.predictor.normal, (self.config.false_reject_rate, self.config.review_rate)
        if self.data.folder is not None:
            normal = self.data.normal_scores(self._run_maps, self.predictor.batch_size)
        run = Judged(self._run_maps, Calibration.of(normal, *rates))
        ours = Judged(exported.maps_of, exported.calibration)
        return compare(self.data.test, self.float32, run, ours, exported.batch_size, found)

    def _beside_folds(self, found: list[Found]) -> dict[str, Any]:
        """How many decisions differ from those of a run with further students; the exported model has only one."""
        decider, folds, test = self.predictor.calibration, self.trainer.folds, self.data.test
        verdicts = verdicts_of(decider, [], folds, test, self.config)
        pairs = zip(found, verdicts, strict=True)
        other = [each.path for each, (_, decision) in pairs if each.judgements[1].decision != decision]
        words = (
            f"{len(other)} of {len(found)} differ from the run's, where {len(decider.scores)} further students decide "
            "(calibration=cross) in place of a threshold"
        )
        return {"decisions": words, "other_decisions": other}

    def _card(self, folder: Path, exported: ExportedModel, check: dict[str, Any], tested: Tested) -> dict[str, Any]:
        tiles = len(exported.tiles) if exported.tiles else 1
        promise = exported.calibration and exported.calibration.promise
        return {
            "run": str(self.trainer.run_dir),
            "date": datetime.now().astimezone().isoformat(timespec="seconds"),
            "model": {
                **exported.metadata.about,
                "format": self.kind,
                "precision": self.precision,
                **card.amounts(self.detector, self.options.input_size, tiles),
            },
            "teachers": card.teachers(self.detector),
            "data": self.data.described(),
            "metrics": tested.metrics,
            "notes": tested.notes,
            "calibration": promise and promise | {"sentences": described(promise)},
            "check": check,
            "speed": card.speed(folder),
            "files": card.file_sizes(folder),
            "made_with": card.surroundings(),
            "must_not_be_used_for": list(card.NOT_FOR),
            "config": self.config.model_dump(mode="json"),
        }
