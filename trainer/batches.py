"""What a training loop iterates over: batches on the device, with the teacher's maps already there."""

from collections.abc import Iterator

import torch
from torch.utils.data import DataLoader

from datasets.mvtec import EpochBatches, loader, train_datasets
from utils.console import progress
from utils.device import autocast
from utils.distributed import is_main, rank, world


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
        len(train_set), config.TrainingData.batch_size, config.seed, rank(), world(), trainer.epoch_batches
    )
    train = Batches(loader(train_set, config, trainer.device, shuffled), trainer)
    val = Batches(loader(val_set, config, trainer.device), trainer)
    for batches in (train, val):
        budget -= batches.remember(budget)
    return train, val
