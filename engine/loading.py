"""From files to the batches of a training: images on the device, together with the teacher's maps."""

import hashlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path

import numpy as np
import torch
from torch import nn
from torch.utils.data import DataLoader, Sampler

from datasets import readers
from datasets.dataset import ImageDataset, Sample, TileDataset, as_seen
from datasets.fit import advice
from datasets.listing import is_folder, list_images_below
from datasets.parts import parts_of
from datasets.regions import common_roi
from engine.device import Compute
from engine.prefetch import Prefetch, prefetched
from models.teachers.statistics import ChannelStatistics
from utils.config import RunConfig
from utils.console import note
from utils.cores import allowed_cores
from utils.errors import UserError
from utils.progress import progress
from utils.ranks import is_main, rank, world_size

Augment = Callable[[torch.Tensor], torch.Tensor]  # images [B,3,H,W] in [0,1] -> same


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
    samples, options = readers.train_samples(config), config.TrainingData
    validation = readers.validation_samples(config)
    val_ratio = 0.0 if validation else options.val_ratio
    shown = parts_of([sample.path for sample in samples], config.part_pattern)
    names = list(dict.fromkeys(shown))  # all pictures of a part go the same way
    ways = [{names[i] for i in way} for way in split_train(len(names), val_ratio, config.seed, config.calibration)]
    split = [[sample for sample, part in zip(samples, shown, strict=True) if part in way] for way in ways]
    if not split[0]:
        what = "image(s)" if config.part_pattern is None else "part(s)"
        shares = f"a val_ratio of {val_ratio:g}" + (
            "" if config.calibration in ("none", "cross") else f" and calibration={config.calibration}"
        )
        raise UserError(
            f"{samples[0].path.parent}: {len(names)} {what} and {shares} leave none to train on; add images, or lower "
            "val_ratio (0 means no held-out images, if the method allows it) or calibration"
        )
    split[1] = validation or split[1]
    return tuple(ImageDataset(part, options) for part in split)


def other_good_images(config: RunConfig, folder: Path) -> tuple[ImageDataset, list[str]]:
    """The images in a folder and its subfolders, given by a flag `--images`, as good ones that did not train; and the
    places of the test images that are among them, or of which copies are.

    Raises UserError for a folder without images, with images that may have trained the student, with defective test
    images, or with copies of either.
    """
    paths, train = list_images_below(folder), Path(config.data_path, config.obj, "train").resolve()
    if not paths:
        raise UserError(f"--images: there are no images (png, jpg, bmp, tif, webp) in or below {folder}")
    used = _used(config)
    if not used:
        note(
            f"the data set in {config.data_path} is not there any more, so it was not checked whether the student has "
            f"seen images of {folder}; if it was moved, say where it is: data_path=FOLDER"
        )
    if any(train in path.resolve().parents or path.resolve() in used for path in paths):
        where = train if is_folder(train) else config.data_path
        raise UserError(f"--images: {folder} has images of {where}, which the student may have seen; give new ones")
    copies = _copies(paths, used)
    if copies:
        which = f"{copies[0]}{f' and {len(copies) - 1} more' if len(copies) > 1 else ''}"
        raise UserError(
            f"--images: {folder} has copies of images that the student may have seen ({which}); give new ones"
        )
    of_test = _among_test(config, paths)
    for sample in of_test:
        if sample.defect_type != "good":
            raise UserError(
                f"--images: {folder} has the defective test image {sample.path}, or a copy of it; give good images only"
            )
    roi = common_roi(config)
    dataset = ImageDataset([Sample(path, None, "good", roi) for path in paths], config.TrainingData)
    return dataset, [place(config, sample) for sample in of_test]


def _used(config: RunConfig) -> set[Path]:
    """The images of training and validation, whatever the layout; none if the data set is gone."""
    try:
        samples = readers.train_samples(config) + readers.validation_samples(config)
        return {sample.path.resolve() for sample in samples}
    except UserError:
        return set()


def _among_test(config: RunConfig, paths: Sequence[Path]) -> list[Sample]:
    """The test images that are among the files, or of which copies are; none if the data set is gone."""
    try:
        samples = readers.test_samples(config)
    except UserError:
        return []
    known = {path.resolve() for path in paths}
    copies = set(_copies([sample.path for sample in samples if sample.path.resolve() not in known], paths))
    return [sample for sample in samples if sample.path.resolve() in known or sample.path in copies]


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
        train, val, _ = train_datasets(config)
        samples = val.samples or train.samples
        which = "held-out" if val.samples else "training (val_ratio is 0)"
        notes.append(f"there are no test images: the {len(samples)} {which} good images are scored instead")
    dataset = ImageDataset(samples, config.TrainingData)
    dataset.of_training = of_training
    return dataset, notes


class EpochBatches(Sampler):
    """Shuffled batches of indices that depend only on (seed, epoch), so a resumed run sees the same ones.

    An epoch is one pass over all images, or `length` batches of endless passes. With several processes each gets an
    equal share of every batch; if a last batch cannot be shared evenly, each process computes all of it, which
    averages to the same gradient. Raises UserError for a batch size that the processes cannot share.
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


class Batches:
    """A loader's batches as dicts (see ImageDataset.batch) for training and validation, of images or of their tiles.

    "image" is [B,3,H,W] float32 in [0,1] on the device, augmented if the method augments, and "teacher" are the
    teacher's maps of it, L x [B,C,h,w].
    """

    def __init__(self, loader: DataLoader, teacher: nn.Module, compute: Compute, augment: Augment | None = None):
        self.loader, self.teacher, self.compute, self.augment = loader, teacher, compute, augment
        self.cached: list[torch.Tensor] | None = None  # L x [N,h,w,C]: the teacher's maps of the whole set
        self.spare = 0  # bytes that another teacher's maps may take

    def __len__(self) -> int:
        return len(self.loader)

    def __iter__(self) -> Iterator[dict]:
        # With a GPU, a thread prepares the next batch meanwhile; a CPU is busy with the networks.
        batches = self.loader if self.compute.device.type == "cpu" else prefetched(self.loader)
        for batch in batches:
            batch["image"] = self._images(batch["image"])
            batch["teacher"] = self._from_cache(batch["index"]) if self.cached else self._compute(batch["image"])
            yield batch

    @property
    def images(self) -> int:
        return len(self.loader.dataset)

    @property
    def dataset(self) -> ImageDataset:
        """The images as a whole, also if tiles of them are in the batches."""
        return self.loader.dataset.whole

    def maps_of(self, indices: list[int]) -> list[torch.Tensor]:
        """The teacher's maps of any images of the set, by index: L x [B,C,h,w]."""
        return self._from_cache(indices) if self.cached else self._compute_at(indices)

    def channel_statistics(self, size: int = 16) -> list[ChannelStatistics]:
        """Of the teacher's maps of all images, level by level."""
        levels: list[ChannelStatistics] = []
        for start in progress(range(0, self.images, size), "teacher statistics"):
            maps = self.maps_of(list(range(start, min(start + size, self.images))))
            levels = levels or [ChannelStatistics() for _ in maps]
            for level, part in zip(levels, maps, strict=True):
                level.add(part)
        return levels

    def with_teacher(self, teacher: nn.Module) -> "Batches":
        """The same images with the maps of another teacher on the device; they are cached, too, if there is room."""
        other = Batches(self.loader, self.compute.frozen(teacher), self.compute, self.augment)
        if self.teacher.standardised:
            other.teacher.standardise([level.moments for level in other.channel_statistics()])
        self.spare -= other.cache_teacher(self.spare)
        return other

    def maps_by_step(self, choose: Callable[[int], list[int]]) -> Callable[[int], list[torch.Tensor]]:
        """`maps_of` the indices that `choose` gives for a step; threads read the images of the next steps."""
        if self.cached:
            return lambda step: self._from_cache(choose(step))
        read = Prefetch(lambda step: self.compute.pinned(self.loader.dataset.batch(choose(step))["image"]))
        return lambda step: self._compute(self._images(read(step)))

    def cache_teacher(self, budget: int, size: int = 16) -> int:
        """Compute the teacher's maps of the whole set once, if they fit `budget` bytes; returns the bytes used.

        The teacher is frozen, so its maps of an image never change. Only on a CPU: a GPU computes the maps faster
        than it could copy them from main memory.
        """
        if self.compute.device.type != "cpu" or not self.images:
            return 0
        first = self._compute_at([0])
        needed = self.images * sum(maps.nbytes for maps in first)
        if needed > budget:
            return 0
        # Filled in the order of the data set, not as batches come: sums may round differently in other batches,
        # and a resumed run must find the same values.
        stores = [maps.new_empty(self.images, *maps.shape[2:], maps.shape[1]) for maps in first]
        for start in progress(range(0, self.images, size), "teacher features"):
            part = list(range(start, min(start + size, self.images)))
            for store, maps in zip(stores, self._compute_at(part), strict=True):
                store[part] = maps.permute(0, 2, 3, 1)
        self.cached = stores
        return needed

    def _images(self, image: torch.Tensor) -> torch.Tensor:
        image = self.compute.images(image)
        return image if self.augment is None else self.augment(image)

    def _compute(self, image: torch.Tensor) -> list[torch.Tensor]:
        with self.compute.autocast():
            return self.teacher(image)

    def _compute_at(self, indices: list[int]) -> list[torch.Tensor]:
        return self._compute(self._images(self.loader.dataset.batch(indices)["image"]))

    def _from_cache(self, indices: list[int] | torch.Tensor) -> list[torch.Tensor]:
        # [B,h,w,C] viewed as [B,C,h,w] is channels_last, which is fastest for convolutions.
        return [maps[indices].permute(0, 3, 1, 2) for maps in self.cached]


def loader(
    dataset: ImageDataset | TileDataset, config: RunConfig, device: torch.device, batches: EpochBatches | None = None
) -> DataLoader:
    """Batches of `dataset` in order, or in the order of `batches`; ImageDataset.batch describes their contents.

    An image that is to be cut into tiles is a batch of its own.
    """
    batch_size = 1 if dataset.tiles else config.TrainingData.batch_size
    order = {"batch_sampler": batches} if batches else {"batch_size": batch_size}
    workers = _workers(config.workers, device) if dataset.whole.decoded is None else 0
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


def as_it_is(batch: dict) -> dict:
    """A collate function that does nothing, because ImageDataset already makes whole batches."""
    return batch


def _workers(workers: int | str, device: torch.device) -> int:
    """Number of reading processes. On a CPU the networks use every core, so more processes would slow them down."""
    if workers != "auto":
        return workers
    return min(8, allowed_cores()) if device.type == "cuda" else 0


def training_batches(
    config: RunConfig,
    teacher: nn.Module,
    compute: Compute,
    augment: Augment | None = None,
    epoch_length: int | None = None,
    test_set: ImageDataset | None = None,
) -> tuple[Batches, Batches, ImageDataset]:
    """Shuffled training batches, of which `epoch_length` make an epoch (None: a pass), held-out batches in order, and
    the images for calibration. If there are tiles, each is a sample, of training and of validation.

    Every image is read once, those of `test_set` too, so that a damaged file is found before training. Images that
    fit into `cache_mb` are kept; `cache_teacher` adds the teacher's maps.
    """
    budget = config.cache_mb * 2**20
    train_set, val_set, calibration = train_datasets(config)
    # Only the first process validates, calibrates and tests.
    for dataset in filter(None, (train_set, val_set, calibration, test_set) if is_main() else (train_set,)):
        budget -= dataset.read_all(budget)
    if suggestion := advice(train_set.shapes, train_set.fit):
        note(suggestion)
    train_seen, val_seen = as_seen(train_set), as_seen(val_set)
    shuffled = EpochBatches(
        len(train_seen), config.TrainingData.batch_size, config.seed, rank(), world_size(), epoch_length
    )
    teacher = compute.frozen(teacher)
    train = Batches(loader(train_seen, config, compute.device, shuffled), teacher, compute, augment)
    val = Batches(loader(val_seen, config, compute.device), teacher, compute, augment)
    return train, val, calibration


def cache_teacher(config: RunConfig, train: Batches, val: Batches, *others: ImageDataset | None) -> None:
    """Compute the teacher's maps of both sets once, if they fit into `cache_mb` together with all images."""
    datasets = filter(None, (train.dataset, val.dataset, *others))
    budget = config.cache_mb * 2**20 - sum(dataset.nbytes for dataset in datasets)
    for batches in (train, val) if is_main() else (train,):
        budget -= batches.cache_teacher(budget)
    train.spare = budget
