"""Images and masks of a data set as batches."""

import copy
import hashlib
import os
from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch.utils.data import Dataset

from datasets.fit import Box, Fit
from datasets.images import read_image, read_mask, unit_range
from datasets.listing import is_folder, list_images
from datasets.regions import grayed, read_roi
from datasets.sample import Sample
from datasets.tiles import Tiles
from utils.config import CommonData
from utils.console import note
from utils.cores import allowed_cores
from utils.errors import UserError
from utils.progress import progress


class Pixels(NamedTuple):
    """An image [3,H,W] uint8 or uint16, its mask [H,W] bool, their part inside padding, and the file's size.

    With a `region` [H,W] bool, the image is gray and the mask empty outside of it.
    """

    image: np.ndarray
    mask: np.ndarray
    inside: Box
    shape: tuple[int, int]  # height and width
    region: np.ndarray | None = None


def stacked(images: Sequence[np.ndarray]) -> torch.Tensor:
    """Images [3,H,W], uint8 or uint16 -> [B,3,H,W] of this type; if there are both, float32 in [0,1]."""
    if len({image.dtype for image in images}) > 1:
        images = [unit_range(image) for image in images]
    return torch.from_numpy(np.stack(images))


def as_batch(indices: Sequence[int], samples: Sequence[Sample], parts: Sequence[Pixels]) -> dict[str, Any]:
    """A dict as described at `ImageDataset.batch`."""
    pixels, masks, inside, _, regions = zip(*parts, strict=True)
    return {
        "image": stacked(pixels),
        "mask": torch.from_numpy(np.stack(masks)),
        "inside": torch.tensor(inside),
        "label": torch.tensor([int(sample.defect_type != "good") for sample in samples]),
        "index": torch.tensor(indices),
        "defect_type": [sample.defect_type for sample in samples],
        "path": [str(sample.path) for sample in samples],
        "region": list(regions),
    }


class ImageDataset(Dataset):
    """Samples as dicts; the same index always gives the same image.

    `tiles` are the parts in which the networks see an image, None if they see all of it.
    """

    def __init__(self, samples: list[Sample], options: CommonData):
        self.samples = samples
        self.fit, self.tiles = Fit.of(options), Tiles.of(options)
        self.decoded: list[Pixels] | None = None  # set by read_all()
        self.nbytes = 0  # of the images in memory
        self.digests: list[bytes] = []  # of the pixels, set by read_all()
        self.shapes: list[tuple[int, int]] = []  # height and width of the files, set by read_all()
        self.said: dict[str, Path] = {}  # what was noted, and for which file
        self.of_training = False  # whether images of the training are tested, because there are no others

    def __len__(self) -> int:
        return len(self.samples)

    def __getitem__(self, index: int) -> dict[str, Any]:
        """image [3,H,W] uint8 or uint16, mask [H,W] bool, inside [4], label 0/1, defect_type, path, index, region."""
        return {key: values[0] for key, values in self.batch([index]).items()}

    def batch(self, indices: list[int]) -> dict[str, Any]:
        """The same for several images: image [B,3,H,W], mask [B,H,W], inside [B,4], label, index [B], lists of others.

        `stacked` says what becomes of a batch that has both 8- and 16-bit images.
        """
        return as_batch(indices, [self.samples[i] for i in indices], [self.pixels(i) for i in indices])

    __getitems__ = batch  # DataLoader calls it to get a whole batch

    @property
    def whole(self) -> "ImageDataset":
        """The data set itself; of tiles, that of their images."""
        return self

    def pixels(self, index: int) -> Pixels:
        """An image and its mask, from memory if they are there. Raises as `read`."""
        return self.read(index) if self.decoded is None else self.decoded[index]

    def read(self, index: int) -> Pixels:
        """An image and its mask as the networks take them.

        Raises UserError naming an image or mask that cannot be read, or a mask or region that does not fit its image.
        """
        sample, pixels = self.samples[index], self._read(index)
        if sample.roi is None:
            return pixels
        region = read_roi(sample.roi).fitted(self.fit, pixels.shape, sample.path)
        return pixels._replace(image=grayed(pixels.image, region), mask=pixels.mask & region, region=region)

    def _read(self, index: int) -> Pixels:
        sample = self.samples[index]
        image = read_image(sample.path, lambda what: self._note(sample.path, what))
        pixels, shape = self.fit.image(image), image.shape[:2]
        if sample.mask is None:
            return Pixels(pixels, np.zeros(pixels.shape[1:], dtype=bool), self.fit.inside(shape), shape)
        mask = self._mask(sample, shape)
        if sample.defect_type == "good" and mask.any():
            raise UserError(
                f"{sample.mask}: the mask marks a defect, but {sample.path} is among the good images; "
                "move the image to the folder of its defect type, or remove the mask"
            )
        return Pixels(pixels, self.fit.mask(mask), self.fit.inside(shape), shape)

    def _mask(self, sample: Sample, shape: tuple[int, int]) -> np.ndarray:
        """All defects of an image of `shape` (height, width): [H,W] bool."""
        united = np.zeros(shape, dtype=bool)
        for path in list_images(sample.mask) if is_folder(sample.mask) else [sample.mask]:
            mask = read_mask(path, lambda what, path=path: self._note(path, what))
            if mask.shape != shape:
                (mh, mw), (h, w) = mask.shape, shape
                raise UserError(f"{path}: the mask is {mw} x {mh} px but {sample.path} is {w} x {h} px")
            united |= mask
        return united

    def read_all(self, budget: int) -> int:
        """Read every image once and keep them if all fit into `budget` bytes; returns the bytes taken.

        Raises UserError naming the first image or mask that cannot be used.
        """
        if not self.samples or self.digests:
            return 0
        decoded: list[Pixels] | None = []
        digests, taken = [], 0
        for pixels in progress(self._read_in_threads(), "reading images", len(self)):
            digests.append(hashlib.sha256(pixels.image).digest())
            self.shapes.append(pixels.shape)
            taken += sum(part.nbytes for part in (pixels.image, pixels.mask, pixels.region) if part is not None)
            # Nothing is kept as soon as all images, estimated from those so far, would not fit.
            if taken * len(self) > budget * len(digests):
                decoded = None
            if decoded is not None:
                decoded.append(pixels)
        self.decoded, self.digests = decoded, digests
        self.nbytes = taken if decoded else 0
        return self.nbytes

    def _read_in_threads(self) -> Iterator[Pixels]:
        """`read` all images in order, a few at a time, so that memory use does not grow with the data set.

        Threads, not processes: decoding and resizing release the interpreter lock, and nothing is copied.
        """
        threads = min(allowed_cores(), 16)
        with ThreadPoolExecutor(threads) as pool:
            coming: deque[Future[Pixels]] = deque()
            for index in range(len(self)):
                coming.append(pool.submit(self.read, index))
                if len(coming) > 2 * threads:
                    yield coming.popleft().result()
            while coming:
                yield coming.popleft().result()

    def _note(self, path: Path, what: str) -> None:
        """Print a note for the first such file only: a data set often has many of them."""
        if self.said.setdefault(what, path) == path:
            note(f"{path}: {what}; this note is not repeated for other files")

    @property
    def defective(self) -> np.ndarray:
        """[N] bool."""
        return np.array([sample.defect_type != "good" for sample in self.samples])

    def first(self, count: int) -> "ImageDataset":
        """The first `count` of the images as a data set."""
        part = copy.copy(self)
        part.samples = self.samples[:count]
        return part

    def fingerprint(self) -> str:
        """A hash of the names and pixels of all images, after `read_all` has read them."""
        digest = hashlib.sha256()
        for sample, pixels in zip(self.samples, self.digests, strict=True):
            digest.update(os.fsencode(sample.path.name) + b"\0" + pixels)
        return digest.hexdigest()[:16]


class TileDataset(Dataset):
    """The tiles of a data set's images, each a sample of its own: those of the first image come first.

    Of the images in `whole` there must be `tiles`.
    """

    tiles = None  # the networks see all of a sample

    def __init__(self, whole: ImageDataset):
        self.whole = whole

    def __len__(self) -> int:
        return len(self.whole) * len(self.whole.tiles)

    def batch(self, indices: list[int]) -> dict[str, Any]:
        """As `ImageDataset.batch`; an image of several tiles is read once."""
        images, tiles = zip(*(divmod(index, len(self.whole.tiles)) for index in indices), strict=True)
        pixels = {image: self.whole.pixels(image) for image in set(images)}
        parts = [self._part(pixels[image], tile) for image, tile in zip(images, tiles, strict=True)]
        return as_batch(indices, [self.whole.samples[image] for image in images], parts)

    __getitems__ = batch

    def _part(self, pixels: Pixels, tile: int) -> Pixels:
        rows, columns = self.whole.tiles.places[tile]
        image, mask = pixels.image[:, rows, columns], pixels.mask[rows, columns]
        region = None if pixels.region is None else pixels.region[rows, columns]
        return Pixels(image, mask, (0, 0, *mask.shape), pixels.shape, region)


def as_seen(dataset: ImageDataset) -> ImageDataset | TileDataset:
    """The data set whose samples are what the networks see: its images, or their tiles."""
    return dataset if dataset.tiles is None else TileDataset(dataset)
