"""Images and masks of a data set as batches."""

import hashlib
import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch.utils.data import Dataset

from datasets.images import fit_image, fit_mask, normalise, read_image, read_mask
from utils.config import TrainingData
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
