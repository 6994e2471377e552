"""The training and the test of a run."""

import contextlib
from collections import defaultdict
from typing import Any

import numpy as np
import torch

from datasets import readers
from datasets.dataset import ImageDataset
from datasets.fit import aspect_ratios
from datasets.parts import parts_of
from datasets.regions import digest_of
from engine.cross import FOLDS, Folds
from engine.decisions import calibrated_by, decider, measured, promised, took_no_part, verdicts_of
from engine.device import Compute
from engine.distributed import from_main
from engine.fit import fit
from engine.folder import RunFolder
from engine.loading import Batches, cache_teacher, loader, training_batches
from engine.loggers import check_installed, log_test
from engine.machine import GPU_PEAK, environment, forget_gpu_peak, gpu_peak
from engine.method import Method
from engine.paper import beside, best_on_test, check_choosable, test_after_each_epoch
from engine.retest import check_retestable, how_to_test, relative_data_path
from engine.splits import short_digests
from engine.state import threads_of
from engine.stream import Scoring
from engine.student_file import read_metadata
from engine.threads import take_threads
from evaluation.calibration import Calibration, check_rates
from evaluation.cross import CrossCalibration
from evaluation.score import CALIBRATION, HELD_OUT, TRAINING, normal_scores
from models.detector import Detector
from models.teachers.teacher import Teacher, TeacherPair
from utils.config import RunConfig, TrainingData, result_settings
from utils.console import note
from utils.errors import UserError
from utils.ranks import is_main, world_size

TestSet = tuple[ImageDataset, list[str]]  # and notes about what is missing


def train(
    method: Method, compute: Compute, folder: RunFolder, metadata: dict[str, Any], test_set: TestSet | None
) -> dict[str, Any] | None:
    """Train the student, or finish an interrupted training, and write the folder; returns the completed metadata.

    None if the student is already finished and only its test is missing. Raises UserError for unusable data
    (`test_set` is read too), a folder that cannot be written, is in use or has another run, or a non-finite loss.
    """
    recipe, config, tested = method.recipe(), method.config, test_set and test_set[0]
    check_rates(config.false_reject_rate, config.review_rate)  # now, although they only matter afterwards
    check_installed(config)
    forget_gpu_peak(compute.device)
    with folder.locked() if is_main() else contextlib.nullcontext():
        origin = result_settings(config) | {"teacher (hash)": metadata["teacher"]}
        origin |= {"arithmetic": str(compute), "processes": world_size()}
        from_main(lambda: folder.check_replaceable(origin))
        from_main(lambda: _check_calibration(folder, config))
        from_main(lambda: check_retestable(folder, config))
        if config.protocol == "paper":
            from_main(lambda: check_choosable(tested))
        if config.resume and config.threads == "auto":
            take_threads(from_main(lambda: threads_of(folder.checkpoint)))  # before anything is computed
        *batches, calibration = training_batches(
            config, method.detector.teacher, compute, recipe.augment, recipe.epoch_length, tested
        )
        train_set, val_set = (part.dataset for part in batches)
        used = [train_set, val_set, *([calibration] if len(calibration) else [])]
        images = "".join(dataset.fingerprint() for dataset in used if is_main())
        for reason in [*_notes_before(config, train_set, val_set, calibration), *_notes_on_copies(config, used)]:
            note(reason)  # now, not after hours of training
        origin = from_main(lambda: origin | {"good images (hash)": images})  # only it has read the held-out ones
        if from_main(lambda: folder.awaits_test(origin)):
            note("this training is already finished; only its test is missing")
            from_main(lambda: folder.checkpoint.unlink(missing_ok=True))  # left by a kill after the student was written
            return None
        if isinstance(config.TrainingData, TrainingData) and config.TrainingData.standardise:
            metadata = metadata | {"standardise": _standardise(method.detector.teacher, batches[0])}
        cache_teacher(config, *batches, calibration, tested)
        inputs = {f"{key} (hash)": value for key, value in method.on_fit_start(batches[0]).items()}
        origin = from_main(lambda: origin | inputs)
        from_main(lambda: folder.check_replaceable(origin))
        with folder.log():
            measure = None
            if config.protocol == "paper":
                measure = test_after_each_epoch(method, compute, tested, batches[1])
            state = fit(method, compute, *batches, folder.checkpoint, origin, measure)
            state.restore_best()
            method.on_fit_end(batches[1])
            seconds = sum(row["seconds"] for row in state.history)
            metadata = metadata | {"origin": origin, "best_epoch": state.kept, "train_seconds": seconds}
            metadata |= {"threads": torch.get_num_threads(), **gpu_peak(compute.device)}
            if measure:
                metadata["best_on_test"] = best_on_test(state.history)
            if is_main():
                metadata["seen"] = [*short_digests(train_set), *short_digests(val_set)]
                metadata["data"] = relative_data_path(folder.places(config))
                metadata["normal"] = _normal_scores(method.detector, compute, config, train_set, val_set, calibration)
                folder.replace_student(method.detector, metadata, config, state.history, state.best_epoch)
    return metadata


def _check_calibration(folder: RunFolder, config: RunConfig) -> None:
    """Raises UserError if a new training would delete what calibrate.py has done, without `overwrite`."""
    tested = folder.student_file.exists() and folder.metrics_file.exists()  # else only its test is missing
    if tested and not folder.overwrite and read_metadata(folder.student_file).get("earlier_calibrations"):
        raise UserError(
            f"{folder.path} holds a finished run with a threshold of calibrate.py, which a new training would delete; "
            "give this run its own name with run=NAME, replace that run with overwrite=true, or test it again: "
            f"{how_to_test(config, folder.path)}"
        )


def test(
    detector: Detector,
    compute: Compute,
    config: RunConfig,
    folder: RunFolder,
    metadata: dict[str, Any],
    test_set: TestSet,
    folds: Folds | None,
) -> dict[str, float]:
    """Score the test images and write the report; returns the metrics that are possible with the data, as fractions.

    `folds` decide; without them, the run's calibration does, if it has one.
    Raises UserError for unusable data, or a folder that cannot be written, is in use or tested on other data.
    """
    from evaluation import report  # draws: loads matplotlib

    dataset, notes = test_set
    forget_gpu_peak(compute.device)
    with folder.locked(), folder.tested():
        check_retestable(folder, config)
        results = scoring(detector, compute, config, dataset, "testing", levels=True)
        normal = metadata.get("normal")
        found, known = decider(config, compute, folder.path, metadata, folds)
        calibration, reasons = promised(found)
        with folder.log():
            tested, small = report.test_report(folder.path, dataset, results, [*notes, *known, *reasons], normal)
            verdicts = verdicts_of(calibration, tested.scores.tolist(), folds, dataset, config)
            report.write_scores(folder.path, dataset.samples, tested, verdicts)
        decisions, uncounted = None, []
        if calibration:
            pattern = calibrated_by(metadata["settings"], normal or {})
            unseen, uncounted = took_no_part(config, dataset, normal or {})
            decisions, more = measured(calibration, verdicts, dataset, tested.counted & unseen, pattern)
            uncounted.extend(more)
        tested.notes.extend(uncounted)
        tested.notes.extend(f"{path}: {what}" for what, path in dataset.said.items())
        best = metadata.get("best_on_test") and beside(metadata["best_on_test"], tested.metrics)
        tested.notes.extend([best["sentence"]] if best else [])
        about = {
            **{key: str(path) for key, path in folder.places(config).items()},
            "teachers": metadata["teachers"],
            "teacher_sha256": metadata["teacher"],
            "seed": metadata["settings"]["seed"],
            "best_epoch": metadata.get("best_epoch"),
            "best_on_test": best,
            "intervals": report.intervals(dataset.samples, tested, config.obj),
            "good_scores": normal,
            "decisions": decisions,
            "durations": {
                "train_seconds": metadata.get("train_seconds"),
                "test_seconds": results.seconds,
                "test_images_per_second": len(dataset) / results.seconds,
            },
            **environment(compute, metadata.get(GPU_PEAK)),
            "trained_with": metadata["settings"],
            "config": config.model_dump(mode="json"),
        }
        report.write_pages(folder.path, dataset.samples, tested, small, verdicts, about)
        report.write_metrics(folder.path, tested, about)  # last: it marks a finished test
        log_test(config, folder.path, tested.metrics)
    return tested.metrics


def scoring(
    detector: Detector,
    compute: Compute,
    config: RunConfig,
    dataset: ImageDataset,
    what: str,
    levels: bool = False,
) -> Scoring:
    """The images of a data set with their maps, one by one; `what` names them on the progress bar."""
    return Scoring(detector, compute, loader(dataset, config, compute.device), what, dataset.tiles, levels)


def _standardise(teacher: Teacher | TeacherPair, train: Batches) -> list[tuple[list[float], list[float]]]:
    """Standardise the teacher over the training images, and its copy in `train`; returns what does the same again.

    Raises UserError for features that are never negative: many students end in the same ReLU.
    """
    levels = train.channel_statistics()
    nets = [teacher.first, teacher.second] if isinstance(teacher, TeacherPair) else [teacher]
    backbones = [net.backbone for net in nets for _ in net.channels]
    for backbone, level in zip(backbones, levels, strict=True):
        if level.lowest >= 0:
            raise UserError(
                f"TrainingData.standardise: leave this key out; the features of '{backbone}' are never negative, "
                "because they end in a ReLU; the key is for networks with negative features, such as EfficientNet"
            )
    moments = [level.moments for level in levels]
    for net in (teacher, train.teacher):
        net.standardise(moments)
    return [(mean.tolist(), std.tolist()) for mean, std in moments]


def _notes_before(config: RunConfig, train: ImageDataset, val: ImageDataset, calibration: ImageDataset) -> list[str]:
    """What a user should know of the calibration before the training. Raises UserError for too few good images."""
    unit = "images" if config.part_pattern is None else "parts"
    wanted = (config.false_reject_rate, config.review_rate, unit)
    if config.calibration == "cross":
        own = readers.validation_samples(config)  # a validation set of the data set is in no fold
        folded = len({*parts(train, config), *([] if own else parts(val, config))})
        if folded < FOLDS:
            raise UserError(f"calibration=cross needs at least {FOLDS} good {unit}; there are {folded}")
        cost = f"calibration=cross: {FOLDS} further students are trained after this one, each in about the same time"
        return [cost, *promised(CrossCalibration([np.arange(folded)], *wanted))[1]]
    if not isinstance(config.calibration, float):  # a fold decides together with the others, or there is nothing
        return []
    return promised(Calibration(range(len(set(parts(calibration, config)))), *wanted))[1]


def _notes_on_copies(config: RunConfig, used: list[ImageDataset]) -> list[str]:
    """What a user should know of images for calibration that are also there as another part."""
    if config.calibration != "cross" and not isinstance(config.calibration, float):  # of a fold, the run has said it
        return []
    shown = defaultdict(set)
    for dataset in used:
        pairs = zip(short_digests(dataset), parts(dataset, config), strict=is_main())  # only it has read all images
        for digest, part in pairs:
            shown[digest].add(part)
    of = used if config.calibration == "cross" else used[-1:]
    count = sum(len(shown[digest]) > 1 for dataset in of for digest in short_digests(dataset))
    if not count:
        return []
    return [
        f"{count} of the images for calibration have copies in train/good, so the threshold may be too low; "
        "checkData.py lists copies"
    ]


def _normal_scores(
    detector: Detector,
    compute: Compute,
    config: RunConfig,
    train: ImageDataset,
    val: ImageDataset,
    calibration: ImageDataset,
) -> dict[str, Any]:
    """From the images for calibration, or else from held-out images, or from the first training images."""
    if len(calibration):
        source, dataset = CALIBRATION, calibration
    else:
        source, dataset = (HELD_OUT, val) if len(val) else (TRAINING, train.first(64))
    # As in a test: without the recipe's augmentation.
    return good_scores(detector, compute, config, dataset, source)


def good_scores(
    detector: Detector, compute: Compute, config: RunConfig, dataset: ImageDataset, source: str
) -> dict[str, Any]:
    """`normal_scores` of the images of a data set, and what they belong to; `source` names the images."""
    found = normal_scores(scoring(detector, compute, config, dataset, source), source, parts(dataset, config))
    region = digest_of(sample.roi for sample in dataset.samples)
    found |= {"part_pattern": config.part_pattern, "region": region, "arithmetic": str(compute)}
    return found | {"aspect_ratios": aspect_ratios(dataset.shapes)}


def parts(dataset: ImageDataset, config: RunConfig) -> list[str]:
    """The part that each image of a data set shows."""
    return parts_of([sample.path for sample in dataset.samples], config.part_pattern)
