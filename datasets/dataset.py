"""Images and masks of a data set as batches."""

import copy
import hashlib
import os
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch.utils.data import Dataset

from datasets.images import fit_image, fit_mask, read_image, read_mask
from utils.config import CommonData
from utils.console import progress
from utils.errors import UserError


class Sample(NamedTuple):
    path: Path
    mask: Path | None  # None: no ground truth for this image (all of a good image counts as normal)
    defect_type: str  # "good", or the defect type

    @property
    def name(self) -> str:
        """Tells the images of a test apart: hole/003."""
        return f"{self.defect_type}/{self.path.stem}"


class ImageDataset(Dataset):
    """Samples as dicts, the index obeyed: the same index is always the same image."""

    def __init__(self, samples: list[Sample], options: CommonData):
        self.samples = samples
        self.img_size, self.crop_size = options.img_size, options.crop_size
        self.decoded: list[tuple[np.ndarray, np.ndarray]] | None = None  # set by read_all()
        self.digests: list[bytes] = []  # of the pixels, set by read_all()

    def __len__(self) -> int:
        return len(self.samples)

    def __getitem__(self, index: int) -> dict:
        """image [3,H,W] uint8 or uint16, mask [H,W] bool, label 0/1, defect_type, path, index."""
        return {key: values[0] for key, values in self.batch([index]).items()}

    def batch(self, indices: list[int]) -> dict:
        """The same of several images: image [B,3,H,W], mask [B,H,W], label and index [B], lists of the others.

        Where 8- and 16-bit images meet in one batch, they are float32 in [0,1].
        """
        pixels, masks = zip(*(self.read(i) if self.decoded is None else self.decoded[i] for i in indices), strict=True)
        samples = [self.samples[i] for i in indices]
        if len({image.dtype for image in pixels}) > 1:
            pixels = [np.divide(image, np.iinfo(image.dtype).max, dtype=np.float32) for image in pixels]
        return {
            "image": torch.from_numpy(np.stack(pixels)),
            "mask": torch.from_numpy(np.stack(masks)),
            "label": torch.tensor([int(sample.defect_type != "good") for sample in samples]),
            "index": torch.tensor(indices),
            "defect_type": [sample.defect_type for sample in samples],
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

    def read_all(self, budget: int) -> int:
        """Read every image once and keep them if all fit into `budget` bytes; returns the bytes taken.

        Raises UserError naming the first image or mask that cannot be used.
        """
        if not self.samples or self.digests:
            return 0
        needed = len(self) * sum(array.nbytes for array in self.read(0))
        decoded, digests = [], []
        for item in progress(self._read_in_threads(range(len(self))), "reading images", len(self)):
            digests.append(hashlib.sha256(item[0].tobytes()).digest())
            if needed <= budget:
                decoded.append(item)
        self.decoded, self.digests = decoded or None, digests
        return needed if decoded else 0

    def _read_in_threads(self, indices: Iterable[int], ahead: int = 64) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """`read` of each, in order; `ahead` at a time, so that memory does not grow with the set.

        Threads, not processes: decoding and resizing release the interpreter lock, and nothing is copied.
        """
        indices = list(indices)
        with ThreadPoolExecutor(os.cpu_count()) as pool:
            for start in range(0, len(indices), ahead):
                yield from pool.map(self.read, indices[start : start + ahead])

    def first(self, count: int) -> "ImageDataset":
        """The first `count` of the images as a data set."""
        part = copy.copy(self)
        part.samples = self.samples[:count]
        return part

    def fingerprint(self) -> str:
        """Of the names and pixels of all images, once `read_all` has read them."""
        digest = hashlib.sha256()
        for sample, pixels in zip(self.samples, self.digests, strict=True):
            digest.update(os.fsencode(sample.path.name) + b"\0" + pixels)
        return digest.hexdigest()[:16]
