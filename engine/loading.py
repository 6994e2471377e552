"""What a training loop iterates over: batches on the device, with the teacher's maps already there."""

import os
from collections.abc import Iterator

import numpy as np
import torch
from torch.utils.data import DataLoader, Sampler

from datasets.dataset import MVTecDataset
from datasets.readers.mvtec import train_datasets
from engine.device import autocast
from utils.config import Config
from utils.console import progress
from utils.errors import UserError
from utils.ranks import is_main, rank, world_size


class Batches:
    """A loader's batches as dicts (see MVTecDataset.batch) on the device, plus "teacher": L x [B,C,h,w]."""

    def __init__(self, loader: DataLoader, trainer):
        self.loader, self.teacher, self.prepare = loader, trainer.teacher, trainer.prepare
        self.device, self.dtype = trainer.device, trainer.dtype
        self.remembered: list[torch.Tensor] | None = None  # L x [N,h,w,C]: the whole set, set by remember()

    def __len__(self) -> int:
        return len(self.loader)

    def __iter__(self) -> Iterator[dict]:
        for batch in self.loader:
            batch["image"] = self.prepare(self.to_device(batch["image"]))
            batch["teacher"] = self.teacher_maps(batch)
            yield batch

    @property
    def images(self) -> int:
        return len(self.loader.dataset)

    def to_device(self, image: torch.Tensor) -> torch.Tensor:
        return image.to(self.device, memory_format=torch.channels_last, non_blocking=True)

    def teacher_maps(self, batch: dict) -> list[torch.Tensor]:
        if self.remembered is not None:
            return self._recall(batch["index"])
        with autocast(self.device, self.dtype):
            return self.teacher(batch["image"])

    def maps_of(self, indices: list[int]) -> list[torch.Tensor]:
        """The teacher's maps of any images of the set, by index: L x [B,C,h,w]."""
        return self._recall(indices) if self.remembered is not None else self._compute(indices)

    def remember(self, budget: int) -> int:
        """Compute the teacher's maps of the whole set once, if they fit `budget` bytes; returns the bytes taken.

        A frozen teacher says the same of the same picture in every epoch. Only on a CPU: a GPU computes the
        maps faster than it could fetch them from the computer's memory.
        """
        if self.device.type != "cpu" or not self.images:
            return 0
        size = 16
        first = self._compute([0])
        needed = self.images * sum(maps.nbytes for maps in first)
        if needed > budget:
            return 0
        # Filled in the order of the data set, not as batches come: sums may round differently in other batches,
        # and a resumed run must find the same values.
        kept = [maps.new_empty(self.images, *maps.shape[2:], maps.shape[1]) for maps in first]
        for start in progress(range(0, self.images, size), "teacher features"):
            part = list(range(start, min(start + size, self.images)))
            for store, maps in zip(kept, self._compute(part), strict=True):
                store[part] = maps.permute(0, 2, 3, 1)
        self.remembered = kept
        return needed

    def _compute(self, indices: list[int]) -> list[torch.Tensor]:
        image = self.prepare(self.to_device(self.loader.dataset.batch(indices)["image"]))
        with autocast(self.device, self.dtype):
            return self.teacher(image)

    def _recall(self, indices: list[int] | torch.Tensor) -> list[torch.Tensor]:
        # [B,h,w,C] seen as [B,C,h,w] is channels_last, what the convolutions want.
        return [maps[indices].permute(0, 3, 1, 2) for maps in self.remembered]


def training_batches(trainer) -> tuple[Batches, Batches]:
    """Shuffled training batches and held-out batches in order.

    Whatever fits `cache_mb` is read and computed once; the test images too, so that a fault in them shows before
    training. Only the first process validates and tests.
    """
    config, (test_set, _) = trainer.config, trainer.test_set
    budget = config.cache_mb * 2**20
    train_set, val_set = train_datasets(config)
    for dataset in (train_set, val_set, test_set) if is_main() else (train_set,):
        budget -= dataset.cache(budget)
    shuffled = EpochBatches(
        len(train_set), config.TrainingData.batch_size, config.seed, rank(), world_size(), trainer.epoch_batches
    )
    train = Batches(loader(train_set, config, trainer.device, shuffled), trainer)
    val = Batches(loader(val_set, config, trainer.device), trainer)
    for batches in (train, val):
        budget -= batches.remember(budget)
    return train, val


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
