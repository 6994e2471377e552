"""Which part of a picture is looked at: what is outside is in no training, score, metric or picture.

Nothing here needs torch.
"""

import base64
import functools
import hashlib
import io
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from PIL import Image

from datasets.fit import Fit
from datasets.images import ANY_SIZE, read_mask
from datasets.listing import contents, is_folder
from utils.errors import UserError

if TYPE_CHECKING:
    from utils.config import RunConfig

SAME_SHAPE = 0.01  # relative difference of two aspect ratios that are the same but for rounding
EACH = "several masks"
GRAY = 127 / 255  # of the full scale: what the networks see outside


class Roi(NamedTuple):
    """A region of interest: [H,W] bool, True where a picture is looked at, and where it comes from, for messages."""

    mask: np.ndarray
    source: str

    @property
    def digest(self) -> str:
        """Equal for equal masks, whatever their files are called."""
        return hashlib.sha256(repr(self.mask.shape).encode() + np.packbits(self.mask).tobytes()).hexdigest()

    @classmethod
    def of_text(cls, text: str, source: str) -> "Roi":
        with ANY_SIZE, Image.open(io.BytesIO(base64.b64decode(text))) as image:
            return cls(np.asarray(image, bool), source)

    def text(self) -> str:
        """The mask for a file's metadata: a PNG of one bit per pixel, in base64."""
        data = io.BytesIO()
        Image.fromarray(self.mask).save(data, "PNG")
        return base64.b64encode(data.getvalue()).decode()

    def check(self, shape: Sequence[int], picture: object) -> None:
        """Raises UserError naming a picture of `shape` (height, width) that the region does not fit."""
        (mh, mw), (h, w) = self.mask.shape, shape[:2]
        if abs(mw * h / (mh * w) - 1) > SAME_SHAPE:
            raise UserError(
                f"{self.source}: this region of interest has {mw} x {mh} px, but {picture} has {w} x {h} px; make it "
                "as large as the picture, or larger or smaller in the same shape"
            )

    def fitted(self, fit: Fit, shape: Sequence[int], picture: object = "the picture") -> np.ndarray:
        """The region at the networks' size, of a picture of `shape` (height, width): [h,w] bool.

        Raises UserError as `check`, and if a crop leaves nothing of it.
        """
        self.check(shape, picture)
        fitted = fit.mask(self.mask)
        if not fitted.any():
            raise UserError(
                f"{self.source}: this region of interest is empty at the given img_size and crop_size; white, or any "
                "colour but black, marks what is looked at"
            )
        return fitted

    def whole(self, shape: Sequence[int]) -> np.ndarray:
        """The region at a picture's own size: [H,W] bool."""
        if self.mask.shape == tuple(shape):
            return self.mask
        return np.asarray(Image.fromarray(self.mask).resize((shape[1], shape[0]), Image.Resampling.NEAREST))


def read_roi(path: Path) -> Roi:
    """Raises UserError naming a file that cannot be read as a mask. The last ones are kept, until the file changes."""
    return _read(path, path.stat().st_mtime_ns if path.is_file() else 0)


@functools.lru_cache(maxsize=2)
def _read(path: Path, changed: int) -> Roi:
    return Roi(read_mask(path), str(path))


def grayed(image: np.ndarray, region: np.ndarray) -> np.ndarray:
    """An image [3,h,w], uint8 or uint16, gray outside a region [h,w] bool: teacher and student see nothing there."""
    return np.where(region, image, image.dtype.type(round(GRAY * np.iinfo(image.dtype).max)))


def lowest_outside(anomaly_map: np.ndarray, region: np.ndarray) -> np.ndarray:
    """A map [H,W] that has its lowest value inside a region [H,W] bool everywhere outside."""
    return np.where(region, anomaly_map, anomaly_map[region].min())


class RoiFiles:
    """The masks that the key `TrainingData.roi` names, below a category's folder unless the path is absolute.

    A file is the mask of all images. A folder has one for each, with the same path as the image below the category, and
    any image format: roi/test/hole/003.png for test/hole/003.jpg. Raises UserError if there is neither.
    """

    def __init__(self, category: Path, roi: str | None):
        self.category, self.path = category, roi and category / roi
        self.each = self.path is not None and is_folder(self.path)
        self.masks: dict[Path, dict[str, Path]] = {}  # of the folders listed so far, by stem
        if self.path is not None and not self.each and not self.path.is_file():
            raise UserError(f"TrainingData.roi: there is no file or folder {self.path}{_advice(roi)}")

    def common(self) -> Path | None:
        """The mask of all images, None if there is no region. Raises UserError if each has its own."""
        if self.each:
            raise UserError(
                f"TrainingData.roi: {self.path} has masks for the images of the data set only; for other images, give "
                "one mask for all: TrainingData.roi=FILE"
            )
        return self.path

    def of(self, image: Path) -> Path | None:
        """The mask of an image of the category. Raises UserError if each has its own and this one has none."""
        if not self.each:
            return self.path
        where, root = image.absolute(), self.category.absolute()  # `folder` may have absolute paths
        if not where.is_relative_to(root):
            raise UserError(
                f"TrainingData.roi: {self.path} has masks for the images in {self.category} only, and {image} is "
                "elsewhere; move the images there, or give one mask for all: TrainingData.roi=FILE"
            )
        expected = self.path / where.relative_to(root)
        if expected.parent not in self.masks:
            self.masks[expected.parent] = {path.stem: path for path in contents(expected.parent).images}
        if image.stem not in self.masks[expected.parent]:
            raise UserError(f"TrainingData.roi: {image} has no mask {expected.with_suffix('.png')}")
        return self.masks[expected.parent][image.stem]


def _advice(roi: str) -> str:
    return "" if Path(roi).is_absolute() else "; a path begins in the category's folder, unless it is absolute"


def common_roi(config: "RunConfig") -> Path | None:
    """The mask of images that are not of the data set. Raises as `RoiFiles` and its `common`."""
    roi = config.TrainingData.roi
    return None if roi is None else RoiFiles(home(config), roi).common()


def digest_of(masks: Iterable[Path | None]) -> str | None:
    """The digest of the mask that all images have, EACH if they have several, None if they have none."""
    digests = {path and read_roi(path).digest for path in dict.fromkeys(masks)}
    return digests.pop() if len(digests) == 1 else EACH


def region_digest(config: "RunConfig") -> str | None:
    """`digest_of` the images of a run. Raises as `RoiFiles`."""
    if config.TrainingData.roi is None:
        return None
    files = RoiFiles(home(config), config.TrainingData.roi)
    return EACH if files.each else read_roi(files.path).digest


def home(config: "RunConfig") -> Path:
    """Where paths of a category begin: its folder, or the data set's if the category has none."""
    folder = Path(config.data_path, config.obj)
    return folder if is_folder(folder) else Path(config.data_path)
