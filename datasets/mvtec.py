"""A data set in MVTec layout: <data_path>/<obj>/{train/good, test/<kind>, ground_truth/<kind>}."""

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
        sample = self.samples[index]
        pixels, mask = self.read(index) if self.decoded is None else self.decoded[index]
        return {
            "image": normalise(pixels),
            "mask": torch.from_numpy(mask),
            "label": int(sample.kind != "good"),
            "kind": sample.kind,
            "path": str(sample.path),
            "index": index,
        }

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
        if not self.samples:
            return 0
        needed = len(self) * sum(array.nbytes for array in self.read(0))
        if needed > budget:
            return 0
        with ThreadPoolExecutor(os.cpu_count()) as pool:
            reads = pool.map(self.read, range(len(self)))
            self.decoded = list(progress(reads, "reading images", len(self)))
        return needed


class EpochBatches(Sampler):
    """Shuffled batches of indices that depend on (seed, epoch) alone, so a resumed run sees the same ones.

    With several processes each gets an equal share of every batch; a last batch that cannot be shared
    evenly is done whole by all of them, which averages to the same gradient.
    """

    def __init__(self, size: int, batch_size: int, seed: int, rank: int = 0, world: int = 1):
        if batch_size % world:
            raise UserError(f"TrainingData.batch_size {batch_size} cannot be shared by {world} processes")
        self.size, self.batch_size, self.seed = size, batch_size, seed
        self.rank, self.world = rank, world
        self.epoch = 0

    def __len__(self) -> int:
        return -(-self.size // self.batch_size)

    def __iter__(self) -> Iterator[list[int]]:
        order = np.random.default_rng((self.seed, self.epoch)).permutation(self.size)
        for start in range(0, self.size, self.batch_size):
            batch = order[start : start + self.batch_size]
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
        raise UserError(f"{folder}: {len(images)} image is too few to hold out TrainingData.val_ratio of them")
    samples = [Sample(path, None, "good") for path in images]
    return tuple(MVTecDataset([samples[i] for i in part], options) for part in (train, val))


def test_dataset(config: Config) -> tuple[MVTecDataset, list[str]]:
    """The images below test/, and sentences about what the folder lacks.

    Without test images the held-out good ones stand in, so that a set of good parts alone can be tried.
    Raises UserError for two images of one name, a mask without image, or masks for only some defective images.
    """
    root = category(config)
    folder = root / "test"
    kinds = sorted(p.name for p in folder.iterdir() if p.is_dir()) if folder.is_dir() else []
    found = {kind: list_images(folder / kind) for kind in kinds}
    masks = {kind: _masks(root / "ground_truth" / kind, paths) for kind, paths in found.items() if kind != "good"}
    for paths in found.values():
        _check_names(paths)
    samples = [Sample(path, masks.get(kind, {}).get(path), kind) for kind in kinds for path in found[kind]]
    notes = []
    if not samples:
        samples = train_datasets(config)[1].samples or train_datasets(config)[0].samples
        notes.append(f"no images in {folder}: the {len(samples)} held-out good images are scored instead")
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


def _masks(folder: Path, images: list[Path]) -> dict[Path, Path]:
    """Mask of each image: <stem>_mask.png as in MVTec, or <stem>.png; any image format."""
    by_stem = {path.stem.removesuffix("_mask"): path for path in list_images(folder)}
    found = {image: by_stem.pop(image.stem) for image in images if image.stem in by_stem}
    if by_stem:
        raise UserError(f"{next(iter(by_stem.values()))}: no image of this name among the test images")
    return found


def _check_names(images: list[Path]) -> None:
    """Masks and result pictures are told apart by the name without suffix."""
    seen: dict[str, Path] = {}
    for image in images:
        if seen.setdefault(image.stem, image) != image:
            raise UserError(f"{image}: {seen[image.stem].name} has the same name; rename one of them")


def _check_masks(samples: list[Sample], folder: Path) -> None:
    defective = [s for s in samples if s.kind != "good"]
    without = [s for s in defective if s.mask is None]
    if without and len(without) < len(defective):
        raise UserError(
            f"{without[0].path}: no mask in {folder} ({len(without)} of {len(defective)} defective images "
            "lack one; give all of them a mask, or none)"
        )


def collate(samples: list[dict]) -> dict:
    """Dict of batches: image [B,3,H,W], mask [B,H,W], label and index [B], lists of kind and path."""
    batch = {key: [sample[key] for sample in samples] for key in samples[0]}
    batch["image"], batch["mask"] = torch.stack(batch["image"]), torch.stack(batch["mask"])
    batch["label"], batch["index"] = torch.tensor(batch["label"]), torch.tensor(batch["index"])
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
        collate_fn=collate,
        pin_memory=device.type == "cuda",
    )


def _workers(workers: int | str, device: torch.device) -> int:
    """On a CPU the networks keep every core busy, so reading ahead in other processes would only get in the way."""
    if workers != "auto":
        return workers
    return min(8, os.cpu_count() or 1) if device.type == "cuda" else 0
