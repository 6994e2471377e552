"""From files to the batches of a training: images on the device, together with the teacher's maps."""

from collections.abc import Callable, Iterable, Iterator, Sequence

import numpy as np
import torch
from torch import nn
from torch.utils.data import DataLoader, Sampler

from datasets.dataset import ImageDataset, TileDataset, as_seen
from datasets.fit import Fit, advice
from engine.device import Compute
from engine.prefetch import Prefetch, prefetched
from engine.splits import train_datasets
from models.teachers.features import Features
from models.teachers.statistics import ChannelStatistics
from utils.config import CommonData, RunConfig
from utils.console import note
from utils.cores import allowed_cores
from utils.errors import UserError
from utils.progress import progress
from utils.ranks import is_main, rank, world_size

Augment = Callable[[torch.Tensor], torch.Tensor]  # images [B,3,H,W] in [0,1] -> same


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
    networks = [net for net in teacher.modules() if isinstance(net, Features)]
    if suggestion := size_advice(train_set.shapes, config.TrainingData, lambda: networks):
        note(suggestion)
    train_seen, val_seen = as_seen(train_set), as_seen(val_set)
    shuffled = EpochBatches(
        len(train_seen), config.TrainingData.batch_size, config.seed, rank(), world_size(), epoch_length
    )
    teacher = compute.frozen(teacher)
    train = Batches(loader(train_seen, config, compute.device, shuffled), teacher, compute, augment)
    val = Batches(loader(val_seen, config, compute.device), teacher, compute, augment)
    return train, val, calibration


def size_advice(
    shapes: Sequence[tuple[int, int]], options: CommonData, networks: Callable[[], Iterable[Features]]
) -> str | None:
    """`advice` on a size that the teacher's `networks` take, and students that halve its last level once more."""

    def takes(size: tuple[int, int]) -> bool:
        if options.crop_size != options.img_size:  # the crop would cut off what the longer side adds
            return False
        try:
            for net in [] if options.tile else networks():  # of an image they see only tiles
                net.check_size(size)
                if max(size) % (2 * net.reduction[-1]):  # the shorter side stays as it is
                    return False
        except UserError:
            return False
        return True

    return advice(shapes, Fit.of(options), takes)


def cache_teacher(config: RunConfig, train: Batches, val: Batches, *others: ImageDataset | None) -> None:
    """Compute the teacher's maps of both sets once, if they fit into `cache_mb` together with all images."""
    datasets = filter(None, (train.dataset, val.dataset, *others))
    budget = config.cache_mb * 2**20 - sum(dataset.nbytes for dataset in datasets)
    for batches in (train, val) if is_main() else (train,):
        budget -= batches.cache_teacher(budget)
    train.spare = budget
