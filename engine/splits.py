"""Which images of a data set train a run, are held out, calibrate it, or test it."""

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from datasets import readers
from datasets.dataset import ImageDataset
from datasets.listing import list_given_images
from datasets.parts import parts_of
from datasets.regions import common_roi
from datasets.sample import Sample
from utils.config import RunConfig
from utils.console import note
from utils.errors import UserError


def split_train(size: int, val_ratio: float, seed: int, calibration: float | str = "none") -> tuple[list[int], ...]:
    """Disjoint (train, validation, calibration) positions; validation is ceil(val_ratio * size).

    The permutation is that of scikit-learn's train_test_split, which STPM's published code uses. Validation does not
    depend on a ratio for calibration, whose ceil(ratio * size) images are taken from those that would train. A fold
    such as "2/5" is every fifth image of the permutation, and validation is taken from the others.
    """
    held_out, order = int(np.ceil(val_ratio * size)), np.random.RandomState(seed).permutation(size).tolist()
    if isinstance(calibration, float):
        end = max(size - int(np.ceil(calibration * size)), held_out)
        order, kept = order[:end], order[end:]
    elif "/" in calibration:
        number, folds = map(int, calibration.split("/"))
        kept = order[number - 1 :: folds]
        order = [place for k, place in enumerate(order) if k % folds != number - 1]
    else:
        kept = []
    return sorted(order[held_out:]), sorted(order[:held_out]), sorted(kept)


def train_datasets(config: RunConfig) -> tuple[ImageDataset, ImageDataset, ImageDataset]:
    """Training, validation and calibration part of the good training images; the last two may be empty.

    If the data set has a validation set of its own, validation is that, and no training images are held out for it.
    Raises UserError naming the folder when there are too few images.
    """
    samples, validation = readers.train_samples(config), readers.validation_samples(config)
    places = split_paths([sample.path for sample in samples], config, bool(validation))
    split = [[samples[place] for place in way] for way in places]
    split[1] = validation or split[1]
    return tuple(ImageDataset(part, config.TrainingData) for part in split)


def split_paths(paths: Sequence[Path], config: RunConfig, own_validation: bool) -> list[list[int]]:
    """The positions of the training, validation and calibration images among all good training images.

    Raises UserError naming their folder if none are left to train on.
    """
    val_ratio = 0.0 if own_validation else config.TrainingData.val_ratio
    shown = parts_of(paths, config.part_pattern)
    names = list(dict.fromkeys(shown))  # all pictures of a part go the same way
    ways = [{names[i] for i in way} for way in split_train(len(names), val_ratio, config.seed, config.calibration)]
    if not ways[0]:
        what = "image(s)" if config.part_pattern is None else "part(s)"
        shares = f"a val_ratio of {val_ratio:g}" + (
            "" if config.calibration in ("none", "cross") else f" and calibration={config.calibration}"
        )
        raise UserError(
            f"{paths[0].parent}: {len(names)} {what} and {shares} leave none to train on; add images, or lower "
            "val_ratio (0 means no held-out images, if the method allows it) or calibration"
        )
    return [[place for place, part in enumerate(shown) if part in way] for way in ways]


def short_digests(dataset: ImageDataset) -> list[str]:
    """Short hashes of the pixels that the networks see of each image, after `read_all`: equal for copies."""
    return [digest.hex()[:16] for digest in dataset.digests]


def other_good_images(config: RunConfig, folder: Path, metadata: Mapping[str, Any]) -> tuple[ImageDataset, list[str]]:
    """The images in a folder and its subfolders, given by a flag `--images`, as good ones that did not train; and the
    places of the test images that are among them, or of which copies are. `metadata` are the student's.

    Raises UserError for a folder without images, with images that the student has seen, with defective test images,
    with copies of either, or with an image twice.
    """
    paths, train = list_given_images(folder), Path(config.data_path, config.obj, "train").resolve()
    if not paths:
        raise UserError(f"--images: there are no images (png, jpg, bmp, tif, webp) in or below {folder}")
    if any(train in path.resolve().parents for path in paths):
        raise UserError(f"--images: {folder} has images of {train}, which the student may have seen; give new ones")
    of_test = _among_test(config, paths, folder)
    for sample in of_test:
        if sample.defect_type != "good":
            raise UserError(
                f"--images: {folder} has the defective test image {sample.path}, or a copy of it; give good images only"
            )
    roi = common_roi(config)
    dataset = ImageDataset([Sample(path, None, "good", roi) for path in paths], config.TrainingData)
    dataset.read_all(config.cache_mb * 2**20)
    _check_new(dataset, folder, metadata)
    return dataset, [place(config, sample) for sample in of_test]


def _check_new(dataset: ImageDataset, folder: Path, metadata: Mapping[str, Any]) -> None:
    """Raises UserError if the student has seen one of the images, or if one is there twice."""
    if "seen" not in metadata:
        note(
            f"images of {folder} were not compared with the training images: an older version of the toolkit trained "
            "this student, and did not store which images it saw"
        )
    paths, shown = [sample.path for sample in dataset.samples], short_digests(dataset)
    seen = set(metadata.get("seen", []))
    known = [path for path, digest in zip(paths, shown, strict=True) if digest in seen]
    if known:
        more = f" and {len(known) - 1} more" if len(known) > 1 else ""
        raise UserError(
            f"--images: {folder} has images that the student has seen, or copies of them ({known[0]}{more}); "
            "give new ones"
        )
    first = dict(zip(reversed(shown), reversed(paths), strict=True))
    for path, digest in zip(paths, shown, strict=True):
        if first[digest] != path:
            raise UserError(f"--images: {path} is a copy of {first[digest]}; remove copies, because they count twice")


def _among_test(config: RunConfig, paths: Sequence[Path], folder: Path) -> list[Sample]:
    """The test images that are among the files, or of which copies are; none, and a note, if the data set is gone.

    Raises as the reader does for a fault of the data set: it would hide defective images.
    """
    try:
        samples = readers.test_samples(config)
    except UserError as error:
        if readers.is_there(config):
            raise
        note(
            f"it was not checked whether {folder} has images of the test ({error}); if the data set was moved, give "
            "its new place: data_path=FOLDER"
        )
        return []
    known = {path.resolve() for path in paths}
    copies = set(_copies([sample.path for sample in samples if sample.path.resolve() not in known], paths))
    return [sample for sample in samples if sample.path.resolve() in known or sample.path in copies]


def _good_samples(config: RunConfig) -> list[list[Sample]]:
    """The training and the held-out images of a category, as its student was trained."""
    if not config.unified:
        return [part.samples for part in train_datasets(config)[:2]]
    # One student of several categories was trained on a split of all of them.
    whole = config.model_copy(update={"obj": "+".join(config.unified)})
    own = {sample.path for sample in [*readers.train_samples(config), *readers.validation_samples(config)]}
    return [[sample for sample in part.samples if sample.path in own] for part in train_datasets(whole)[:2]]


def place(config: RunConfig, sample: Sample) -> str:
    """Where an image is, from the data set's folder if it is inside: the same after that folder was moved."""
    path, root = sample.path.resolve(), Path(config.data_path).resolve()
    return (path.relative_to(root) if path.is_relative_to(root) else path).as_posix()


def _copies(paths: Sequence[Path], used: Iterable[Path]) -> list[Path]:
    """Those of the files whose content one of the others has. Only files of one size are read."""
    sizes = {path.stat().st_size for path in paths}
    seen = {_content(path) for path in used if path.is_file() and path.stat().st_size in sizes}
    return [path for path in paths if seen and _content(path) in seen]


def _content(path: Path) -> bytes:
    return hashlib.sha256(path.read_bytes()).digest()


def test_dataset(config: RunConfig) -> tuple[ImageDataset, list[str]]:
    """The test images, and notes about what is missing.

    Without test images the held-out good images are used, so that a data set with only good parts can be tried.
    Raises as the reader does.
    """
    samples, notes = readers.test_samples(config), []
    of_training = not samples
    if of_training:
        train, val = _good_samples(config)
        samples, which = (val, "held-out") if val else (train, "training (none is held out)")
        notes.append(f"there are no test images: the {len(samples)} {which} good images are scored instead")
    elif not any(sample.defect_type == "good" for sample in samples):
        types = ", ".join(sorted({sample.defect_type for sample in samples})[:5])
        notes.append(f"there are no good test images: all test images count as defective ({types})")
    dataset = ImageDataset(samples, config.TrainingData)
    dataset.of_training = of_training
    return dataset, notes
