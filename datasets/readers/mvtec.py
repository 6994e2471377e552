"""A data set in MVTec layout: <data_path>/<obj>/{train/good, test/<kind>, ground_truth/<kind>}."""

from pathlib import Path

import numpy as np

from datasets.dataset import MVTecDataset, Sample
from datasets.images import list_images
from utils.config import Config
from utils.errors import UserError


def split_train(size: int, val_ratio: float, seed: int) -> tuple[list[int], list[int]]:
    """Disjoint (train, validation) positions; ceil(val_ratio * size) of them for validation.

    The permutation is the one scikit-learn's train_test_split draws, which STPM's published code uses.
    """
    held_out = int(np.ceil(val_ratio * size))
    order = np.random.RandomState(seed).permutation(size).tolist()
    return sorted(order[held_out:]), sorted(order[:held_out])


def train_datasets(config: Config) -> tuple[MVTecDataset, MVTecDataset]:
    """Training and validation part of train/good; validation is empty when val_ratio is 0.

    Raises UserError naming the folder when there are too few images.
    """
    folder = category(config) / "train" / "good"
    images = list_images(folder)
    if not images:
        raise UserError(f"{folder}: no images to train on (png, jpg, bmp, tif or webp)")
    options = config.TrainingData
    train, val = split_train(len(images), options.val_ratio, config.seed)
    if not train:
        raise UserError(
            f"{folder}: of {len(images)} image(s) a val_ratio of {options.val_ratio:g} leaves none to train on; lower "
            "it (0 holds none out, where the method can do without) or add images"
        )
    samples = [Sample(path, None, "good") for path in images]
    return tuple(MVTecDataset([samples[i] for i in part], options) for part in (train, val))


def test_dataset(config: Config) -> tuple[MVTecDataset, list[str]]:
    """The images below test/, and sentences about what the folder lacks.

    Without test images the held-out good ones stand in, so that a set of good parts alone can be tried.
    Raises UserError for pictures outside the kinds' folders, two images of one name, a mask without image, or
    masks for only some defective images.
    """
    root = category(config)
    folder = root / "test"
    stray = list_images(folder)
    if stray:
        raise UserError(f"{stray[0]}: test images belong into a folder per kind, such as {folder / 'good'}")
    kinds = sorted(p.name for p in folder.iterdir() if p.is_dir()) if folder.is_dir() else []
    found = {kind: _unique(list_images(folder / kind)) for kind in kinds}
    masks = _masks(root / "ground_truth", found)
    samples = [Sample(path, masks.get(path), kind) for kind in kinds for path in found[kind]]
    notes = []
    if not samples:
        train, val = train_datasets(config)
        samples = val.samples or train.samples
        which = "held-out" if val.samples else "training (val_ratio is 0)"
        notes.append(f"no images in {folder}: the {len(samples)} {which} good images are scored instead")
    _check_masks(samples, root / "ground_truth")
    return MVTecDataset(samples, config.TrainingData), notes


def category(config: Config) -> Path:
    """The folder of `obj`. Raises UserError listing the ones there are."""
    root = Path(config.data_path)
    folder = root / config.obj
    if folder.is_dir():
        return folder
    if not root.is_dir():
        raise UserError(f"data_path: there is no folder {root}")
    there = sorted(p.name for p in root.iterdir() if p.is_dir() and not p.name.startswith("."))
    raise UserError(f"obj: {root} has no category '{config.obj}' (it has: {', '.join(there) or 'none'})")


def _masks(ground_truth: Path, found: dict[str, list[Path]]) -> dict[Path, Path]:
    """Mask of each defective image: <kind>/<stem>_mask.png as in MVTec, or <kind>/<stem>.png; any image format."""
    masks = {}
    for folder in sorted(p for p in ground_truth.iterdir() if p.is_dir()) if ground_truth.is_dir() else []:
        images = {image.stem: image for image in found.get(folder.name, [])}
        for mask in _unique(list_images(folder), "_mask"):
            stem = mask.stem.removesuffix("_mask")
            if stem not in images:
                raise UserError(f"{mask}: there is no image {folder.name}/{stem} among the test images")
            masks[images[stem]] = mask
    return masks


def _unique(images: list[Path], ending: str = "") -> list[Path]:
    """The same images. Masks and result pictures are told apart by the name, so raises UserError where two share it."""
    seen: dict[str, Path] = {}
    for image in images:
        other = seen.setdefault(image.stem.removesuffix(ending), image)
        if other != image:
            raise UserError(f"{image}: {other.name} has the same name; rename one of them")
    return images


def _check_masks(samples: list[Sample], folder: Path) -> None:
    defective = [s for s in samples if s.kind != "good"]
    without = [s for s in defective if s.mask is None]
    if without and len(without) < len(defective):
        raise UserError(
            f"{without[0].path}: no mask in {folder} ({len(without)} of {len(defective)} defective images "
            "lack one; give all of them a mask, or none)"
        )
