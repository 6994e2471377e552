"""What decides in a run: its calibration, or its folds; and what a user should know about it."""

import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from datasets.dataset import ImageDataset
from datasets.parts import parts_of
from datasets.regions import EACH, region_digest
from engine.cross import Folds, p_values
from engine.device import Compute
from engine.splits import place
from evaluation.calibration import Calibration, Verdict, by_part
from evaluation.cross import CrossCalibration
from evaluation.score import CALIBRATION, HELD_OUT, TRAINING
from utils.config import RunConfig, result_settings
from utils.errors import UserError

Decider = Calibration | CrossCalibration


def decider(
    config: RunConfig, compute: Compute, run_dir: Path, metadata: dict[str, Any], folds: Folds | None
) -> tuple[Decider | None, list[str]]:
    """What decides, and notes about it. `metadata` are the loaded student's.

    None if nothing was calibrated, or if scores mean something else now because settings were changed.
    Raises UserError for wrong rates, and for a fold whose student is missing.
    """
    normal = metadata.get("normal")
    found = Calibration.of(normal, config.false_reject_rate, config.review_rate)
    keys = _changed(config, metadata)
    if keys:
        return None, [f"nothing is decided, because {', '.join(keys)} {'was' if len(keys) == 1 else 'were'} changed"]
    if found is None and folds is not None:
        found = folds.calibration()
        if found is None:
            return None, ["nothing is decided, because the students of the folds have other settings: train again"]
        normal = folds.trainers[0].metadata["normal"]
    then = found and normal.get("arithmetic")  # earlier versions did not store it
    return found, [_of_another_arithmetic(then, str(compute), run_dir)] if then not in (None, str(compute)) else []


def _changed(config: RunConfig, metadata: dict[str, Any]) -> list[str]:
    """The keys because of which a student that could decide cannot."""
    normal, trained = metadata.get("normal"), metadata["settings"]
    uncalibrated = {config.calibration, trained.get("calibration", "none")} == {"none"}
    if normal is None or (uncalibrated and not metadata.get("earlier_calibrations")):
        return []
    if normal["source"] in (CALIBRATION, HELD_OUT, TRAINING):  # `RunFolder.load` compares what else scores depend on
        return [*_other_pattern(config, trained, normal), *other_region(config, normal)]
    # The teacher itself and the categories are compared elsewhere.
    now = result_settings(config) | {key: trained.get(key) for key in ("weights", "obj")}
    return [key for key in trained | now if trained.get(key) != now.get(key)]


def _other_pattern(config: RunConfig, trained: dict[str, Any], normal: dict[str, Any]) -> list[str]:
    known = (trained.get("part_pattern"), calibrated_by(trained, normal))
    return [] if config.part_pattern in known else ["part_pattern"]


def pattern_of_new(config: RunConfig, metadata: dict[str, Any]) -> str | None:
    """The `part_pattern` for new good images: that of the calibration, unless another one is given."""
    trained = metadata["settings"]
    given = config.part_pattern != trained.get("part_pattern")
    return config.part_pattern if given else calibrated_by(trained, metadata.get("normal") or {})


def calibrated_by(trained: dict[str, Any], normal: dict[str, Any]) -> str | None:
    """The `part_pattern` of the calibration: calibrate.py may have another one than the training."""
    return normal.get("part_pattern", trained.get("part_pattern"))


def other_region(config: RunConfig, normal: dict[str, Any]) -> list[str]:
    """The highest value of another part of a picture is another score.

    Where the images of the data set have several masks, a single one for other images is no mistake.
    """
    digests = {normal["region"], region_digest(config)} if "region" in normal else {None}
    return ["TrainingData.roi"] if len(digests) > 1 and (None in digests or EACH not in digests) else []


def _of_another_arithmetic(then: str, now: str, run_dir: Path) -> str:
    if not (run_dir / "student.safetensors").exists():  # the folder of one of several categories
        run_dir = run_dir.parent
    return (
        f"the scores of the calibration were computed in {then}, but this machine computes in {now}, which changes "
        f"scores a little; set the threshold again: python3 calibrate.py {shlex.quote(str(run_dir))} --images FOLDER"
    )


def promised(found: Decider | None) -> tuple[Decider | None, list[str]]:
    """What decides; None and the reason if it cannot promise its rates."""
    try:
        _ = found and found.promise
    except UserError as error:
        return None, [f"no decisions: {error}"]
    return found, []


def verdicts_of(
    found: Decider | None, scores: Sequence[float], folds: Folds | None, dataset: ImageDataset, config: RunConfig
) -> list[Verdict]:
    """For each of N images with these scores [N]; none if nothing decides."""
    if isinstance(found, CrossCalibration):
        values = p_values(found, folds.maps(dataset.tiles), dataset, config)
    else:
        values = map(found.p_value, scores) if found else ()
    return [(value, found.decision(value)) for value in values]


def took_no_part(config: RunConfig, dataset: ImageDataset, normal: dict[str, Any]) -> tuple[np.ndarray, list[str]]:
    """Which test images [N] bool neither trained the student nor calibrated it, and notes about the others.

    Only these can measure its rates.
    """
    if dataset.of_training:  # a note says so already
        return np.zeros(len(dataset.samples), bool), []
    used = set(normal.get("of_test", []))
    unseen = np.array([place(config, sample) not in used for sample in dataset.samples], bool)
    if unseen.all():
        return unseen, []
    return unseen, [
        f"{sum(~unseen)} good test images do not count in the measured rates, because the threshold comes from them"
    ]


def measured(
    found: Decider, verdicts: Sequence[Verdict], dataset: ImageDataset, counted: np.ndarray, pattern: str | None
) -> tuple[dict[str, Any], list[str]]:
    """The promise, and what the test images that are `counted` [N] bool show about it; and notes.

    Images of one defect type that show one part, by `pattern`, count once: each type may number its parts anew.
    """
    paths, notes = [sample.path for sample in dataset.samples], []
    try:
        shown = parts_of(paths, pattern)
    except UserError as error:
        shown, notes = parts_of(paths, None), [f"each test image is counted as a part of its own: {error}"]
    kept = np.flatnonzero(counted).tolist()
    keys = [f"{dataset.samples[k].defect_type}/{shown[k]}" for k in kept]
    lowest, defective = by_part([verdicts[k][0] for k in kept], keys, dataset.defective[kept])
    unit = "parts" if len(lowest) < len(kept) else "images"
    return found.measured([found.decision(value) for value in lowest], defective, unit), notes
