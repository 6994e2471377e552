"""A folder of any images, without labels."""

import hashlib
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from datasets.fit import Fit
from datasets.images import eight_bits, read_image
from datasets.listing import is_folder, list_images_below
from utils.console import note
from utils.errors import UserError


class FolderImages:
    """The images of a folder and its subfolders, in the order of their paths: index -> [h,w,3] uint8 RGB.

    Resized to `img_size`, the aspect ratio not kept, then cropped to `crop_size`; an index beyond the last image starts
    over. The next image is used instead of a damaged one, and a note names that one: which of many files is used does
    not matter, and a training of days must not stop because of one. Raises UserError naming the config's `key` for a
    folder without images, and naming a file if all are damaged.
    """

    def __init__(self, key: str, folder: str, img_size: Sequence[int], crop_size: Sequence[int] | None = None):
        self.root, self.fit = _expanded(key, folder), Fit(img_size, crop_size or img_size)
        self.damaged: set[Path] = set()
        if not is_folder(self.root):
            raise UserError(f"{key}: there is no folder {self.root}")
        self.paths = list_images_below(self.root)
        if not self.paths:
            raise UserError(f"{key}: there are no images (png, jpg, bmp, tif, webp) in or below {self.root}")

    def __len__(self) -> int:
        return len(self.paths)

    def fingerprint(self) -> str:
        """Number of images and a hash of their names: if it is the same, an index still means the same image."""
        names = "\n".join(str(path.relative_to(self.root)) for path in self.paths)
        return f"{len(self)} {hashlib.sha256(names.encode(errors='surrogateescape')).hexdigest()[:16]}"

    def __getitem__(self, index: int) -> np.ndarray:
        pixels = eight_bits(self.fit.image(self._first_readable(index)))
        return np.ascontiguousarray(pixels.transpose(1, 2, 0))

    def _first_readable(self, index: int) -> np.ndarray:
        for k in range(len(self)):
            path = self.paths[(index + k) % len(self)]
            try:
                return read_image(path)
            except UserError as error:
                damaged = error
                if path not in self.damaged:
                    self.damaged.add(path)
                    note(f"{error}; the next file is used instead")
        raise damaged


def _expanded(key: str, folder: str) -> Path:
    try:
        return Path(folder).expanduser()
    except RuntimeError as error:  # ~name of an unknown user
        raise UserError(f"{key}: {folder}: {error}") from None
