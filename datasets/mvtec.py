"""A data set in MVTec layout: <data_path>/<obj>/{train/good, test/<kind>, ground_truth/<kind>}."""

import hashlib
import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset, Sampler

from datasets.images import fit_image, fit_mask, list_images, normalise, read_image, read_mask
from utils.config import Config, TrainingData
from utils.console import progress
from utils.errors import UserError


class Sample(NamedTuple):
    path: Path
    mask: Path | None  # None: no ground truth for this image (all of a good image counts as normal)
    kind: str  # "good", or the defect type: the name of the folder below test/


class MVTecDataset(Dataset):
    """Samples as dicts, the index obeyed: the same index is always the same image."""

    def __init__(self, samples: list[Sample], options: TrainingData):
        self.samples = samples
        self.img_size, self.crop_size = options.img_size, options.crop_size
        self.decoded: list[tuple[np.ndarray, np.ndarray]] | None = None  # set by cache()

    def __len__(self) -> int:
        return len(self.samples)

    def __getitem__(self, index: int) -> dict:
        """image [3,H,W] float32 normalised, mask [H,W] bool, label 0/1, kind, path, index."""
        return {key: values[0] for key, values in self.batch([index]).items()}

    def batch(self, indices: list[int]) -> dict:
        """The same of several images: image [B,3,H,W], mask [B,H,W], label and index [B], lists of kind and path."""
        pixels, masks = zip(*(self.read(i) if self.decoded is None else self.decoded[i] for i in indices), strict=True)
        samples = [self.samples[i] for i in indices]
        one_depth = len({image.dtype for image in pixels}) == 1
        return {
            "image": normalise(np.stack(pixels)) if one_depth else torch.stack([normalise(p) for p in pixels]),
            "mask": torch.from_numpy(np.stack(masks)),
            "label": torch.tensor([int(sample.kind != "good") for sample in samples]),
            "index": torch.tensor(indices),
            "kind": [sample.kind for sample in samples],
            "path": [str(sample.path) for sample in samples],
        }

    __getitems__ = batch  # what DataLoader calls where a data set makes whole batches

    def read(self, index: int) -> tuple[np.ndarray, np.ndarray]:
        """Pixels [3,H,W] uint8 or uint16 and mask [H,W] bool, resized and cropped."""
        sample = self.samples[index]
        image = read_image(sample.path)
        pixels = fit_image(image, self.img_size, self.crop_size)
        if sample.mask is None:
            return pixels, np.zeros(self.crop_size, dtype=bool)
        mask = read_mask(sample.mask)
        if mask.shape != image.shape[:2]:
            (mh, mw), (h, w) = mask.shape, image.shape[:2]
            raise UserError(f"{sample.mask}: the mask is {mw} x {mh} px but {sample.path} is {w} x {h} px")
        return pixels, fit_mask(mask, self.img_size, self.crop_size)

    def cache(self, budget: int) -> int:
        """Decode every image once and keep it if all fit into `budget` bytes; returns the bytes taken.

        Threads, not processes: decoding and resizing release the interpreter lock, and nothing is copied.
        """
        if not self.samples or self.decoded is not None:
            return 0
        needed = len(self) * sum(array.nbytes for array in self.read(0))
        if needed > budget:
            return 0
        with ThreadPoolExecutor(os.cpu_count()) as pool:
            reads = pool.map(self.read, range(len(self)))
            self.decoded = list(progress(reads, "reading images", len(self)))
        return needed

    def fingerprint(self) -> str:
        """Changes with the names and file sizes of the images: tells data sets apart without reading them."""
        files = "\n".join(f"{s.path.name} {s.path.stat().st_size}" for s in self.samples)
        return hashlib.sha256(files.encode(errors="surrogateescape")).hexdigest()[:16]


class EpochBatches(Sampler):
    """Shuffled batches of indices that depend on (seed, epoch) alone, so a resumed run sees the same ones.

    An epoch is one pass over all, or `length` batches of an endless row of passes. With several processes each gets
    an equal share of every batch; a last batch that cannot be shared evenly is done whole by all of them, which
    averages to the same gradient.
    """

    def __init__(self, size: int, batch_size: int, seed: int, rank: int = 0, world: int = 1, length: int | None = None):
        if batch_size % world:
            raise UserError(f"TrainingData.batch_size {batch_size} cannot be shared by {world} processes")
        self.size, self.batch_size, self.seed = size, batch_size, seed
        self.rank, self.world = rank, world
        self.in_a_pass = -(-size // batch_size)
        self.length = length or self.in_a_pass
        self.epoch = 0

    def __len__(self) -> int:
        return self.length

    def __iter__(self) -> Iterator[list[int]]:
        for number in range(self.epoch * self.length, (self.epoch + 1) * self.length):
            number_of_pass, place = divmod(number, self.in_a_pass)
            if place == 0 or number == self.epoch * self.length:
                order = np.random.default_rng((self.seed, number_of_pass)).permutation(self.size)
            batch = order[place * self.batch_size : (place + 1) * self.batch_size]
            shared = len(batch) % self.world == 0
            yield (batch[self.rank :: self.world] if shared else batch).tolist()


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


def as_it_is(batch: dict) -> dict:
    """MVTecDataset makes whole batches itself; there is nothing left to collate."""
    return batch


def loader(
    dataset: MVTecDataset, config: Config, device: torch.device, batches: EpochBatches | None = None
) -> DataLoader:
    """Batches of `dataset` in order, or as `batches` says; each is what `collate` describes."""
    order = {"batch_sampler": batches} if batches else {"batch_size": config.TrainingData.batch_size}
    workers = _workers(config.workers, device) if dataset.decoded is None else 0
    return DataLoader(
        dataset,
        **order,
        num_workers=workers,
        persistent_workers=workers > 0,
        collate_fn=as_it_is,
        pin_memory=device.type == "cuda",
        # DataLoader draws from it, how often depends on the workers; torch's own is for networks, such as dropout.
        generator=torch.Generator(),
    )


def _workers(workers: int | str, device: torch.device) -> int:
    """On a CPU the networks keep every core busy, so reading ahead in other processes would only get in the way."""
    if workers != "auto":
        return workers
    return min(8, os.cpu_count() or 1) if device.type == "cuda" else 0
