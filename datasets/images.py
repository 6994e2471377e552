"""Image files to arrays: every format and bit depth named in the README, or one clear error."""

import io
from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image, ImageFile

from utils.console import note
from utils.errors import UserError

SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".tif", ".tiff", ".webp")
SYSTEM_FILES = {".DS_Store", "Thumbs.db", "desktop.ini"}  # written by file browsers, nobody's picture

# A line camera's picture may pass Pillow's limit against decompression bombs; these files are the user's own.
Image.MAX_IMAGE_PIXELS = None
ImageFile.LOAD_TRUNCATED_IMAGES = False  # half a picture must be an error


def list_images(folder: Path) -> list[Path]:
    """The image files of a folder, sorted by name, whatever the case of their suffix; none if there is no folder.

    Files of other kinds are left out and named.
    """
    files = sorted(p for p in folder.iterdir() if p.is_file()) if folder.is_dir() else []
    images = [path for path in files if is_image(path)]
    left_out = sorted({path.name for path in files} - {path.name for path in images} - SYSTEM_FILES)
    if left_out:
        note(f"{folder}: left out {len(left_out)} file(s) that are no {'/'.join(SUFFIXES)}: {', '.join(left_out[:5])}")
    return images


def is_image(path: Path) -> bool:
    return path.suffix.lower() in SUFFIXES and not path.name.startswith(".") and path.is_file()


def read_image(path: Path) -> np.ndarray:
    """[H,W,3] RGB, uint8 or, for 16-bit files, uint16. Alpha is dropped, gray is repeated.

    Raises UserError naming the file when it is missing, damaged, or of another depth.
    """
    pixels = _decode(path)
    if pixels.ndim == 2:
        pixels = np.repeat(pixels[:, :, None], 3, axis=2)
    return pixels[:, :, :3]


def read_mask(path: Path) -> np.ndarray:
    """[H,W] bool: everything above zero is defect. Raises UserError like `read_image`."""
    pixels = _decode(path)
    return pixels > 0 if pixels.ndim == 2 else (pixels[:, :, :3] > 0).any(axis=2)


def _decode(path: Path) -> np.ndarray:
    """[H,W], [H,W,3] or [H,W,4] as stored, uint8 or uint16, RGB order."""
    try:
        data = path.read_bytes()
        with Image.open(io.BytesIO(data)) as image:
            image.load()
            deep_colour = image.mode in ("RGB", "RGBA") and _bits_per_sample(data, image) == 16
            pixels = None if deep_colour else _from_pillow(image)
    except Exception as error:  # by format: OSError, SyntaxError, MemoryError, OverflowError ...
        raise UserError(f"{path}: cannot be read as an image ({error})") from None
    if deep_colour:  # Pillow would cut it down to 8 bits
        pixels = _from_opencv(data)
    if pixels is None:
        raise UserError(f"{path}: only 8- and 16-bit integer images are supported")
    return pixels


def _bits_per_sample(data: bytes, image: Image.Image) -> int:
    if image.format == "PNG":
        return data[24]  # in the header chunk, which the format fixes as the first
    if image.format == "TIFF":
        return max(np.atleast_1d(image.tag_v2.get(258, 8)))
    return 8


def _from_pillow(image: Image.Image) -> np.ndarray | None:
    if image.mode in ("L", "RGB", "RGBA"):
        return np.array(image)
    if image.mode.startswith("I"):  # I;16, I;16B and, in older files, I
        pixels = np.array(image)
        return pixels.astype(np.uint16) if pixels.min() >= 0 and pixels.max() < 2**16 else None
    if image.mode == "F":
        return None
    return np.array(image.convert("RGB"))  # palette, 1-bit, gray with alpha, CMYK ...


def _from_opencv(data: bytes) -> np.ndarray | None:
    pixels = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED)
    return None if pixels is None else cv2.cvtColor(pixels[:, :, :3], cv2.COLOR_BGR2RGB)


def fit_image(pixels: np.ndarray, img_size: Sequence[int], crop_size: Sequence[int]) -> np.ndarray:
    """Bilinear antialiased resize, then centre crop: [H,W,3] -> [3,h,w] of the same integer type."""
    deep = pixels.dtype == np.uint16
    image = torch.from_numpy(np.ascontiguousarray(pixels.astype(np.float32) if deep else pixels))
    image = image.permute(2, 0, 1)[None]
    image = F.interpolate(image, size=tuple(img_size), mode="bilinear", antialias=True)
    image = _centre_crop(image, crop_size)[0].contiguous()
    return image.round().numpy().astype(np.uint16) if deep else image.numpy()


def fit_mask(mask: np.ndarray, img_size: Sequence[int], crop_size: Sequence[int]) -> np.ndarray:
    """Nearest resize, then centre crop: [H,W] bool -> [h,w] bool."""
    image = torch.from_numpy(mask.astype(np.uint8))[None, None]
    image = F.interpolate(image, size=tuple(img_size), mode="nearest-exact")
    return _centre_crop(image, crop_size)[0, 0].bool().numpy()


def _centre_crop(image: torch.Tensor, size: Sequence[int]) -> torch.Tensor:
    """The rounding is torchvision's CenterCrop's."""
    top, left = (round((have - want) / 2) for have, want in zip(image.shape[-2:], size, strict=True))
    return image[..., top : top + size[0], left : left + size[1]]
