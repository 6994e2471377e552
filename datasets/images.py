"""Image files to arrays: every format and bit depth named in the README, or one clear error."""

import contextlib
import io
import os
import re
import threading
from collections.abc import Callable
from pathlib import Path

import numpy as np
from PIL import ExifTags, Image, ImageFile, UnidentifiedImageError

from utils.errors import UserError, reason

Remark = Callable[[str], None]  # called with a sentence on what is left out or assumed
FORMATS = ("PNG", "JPEG", "BMP", "TIFF", "WEBP")  # for others, Pillow may start a program, such as Ghostscript


def read_image(path: Path, remark: Remark | None = None) -> np.ndarray:
    """[H,W,3] RGB, uint8 or, for 16-bit files, uint16, rotated to its EXIF orientation.

    Alpha is dropped, gray is repeated. Only the first of several pages or frames is read, and only red, green and
    blue of more channels; `remark` is then called. Raises UserError naming the file if it is missing, damaged, or of
    another depth.
    """
    return image_from(_read(path), path, remark)


def image_from(data: bytes, name: str | Path, remark: Remark | None = None, most: int | None = None) -> np.ndarray:
    """`read_image` from the content of a file that errors call `name`.

    With `most`, for what strangers send, raises UserError also for an image of more pixels, or of more than 65,535 a
    side, before it is decoded (a small file may contain a picture that fills the memory).
    """
    pixels, _, bits = _decode(data, name, remark, most)
    if bits > 16:  # values that fit into 16 bits would be very dark, if they were meant so
        raise _other_depth(name)
    if remark and pixels.dtype == np.uint16 and pixels.max(initial=0) < 4096:
        remark("no value in this 16-bit picture is above 4,095; if the camera has 12 bits, multiply the values by 16")
    return _colours(pixels)


def from_pillow(image: Image.Image) -> np.ndarray:
    """`read_image` from an image in memory. Raises UserError for one that is empty, damaged, or of another depth."""
    try:
        other = not (image.width and image.height) or (image.format == "TIFF" and _bits_per_sample(b"", image) > 16)
        pixels = None if other else _from_pillow(image)
    except (OSError, SyntaxError, ValueError) as error:  # its file is read now
        raise UserError(f"the PIL image cannot be read ({reason(error)})") from None
    if pixels is None:
        raise UserError(f"a PIL image must have pixels of 8- or 16-bit integers (got {image.mode} {image.size})")
    return _colours(_upright(pixels, image))


def count_pixels(file: Path | io.BytesIO) -> int:
    """Of an image, by the first bytes of its file; 0 if it cannot be read."""
    with contextlib.suppress(Exception), ANY_SIZE, Image.open(file, formats=FORMATS) as image:
        return image.width * image.height
    return 0


def read_mask(path: Path, remark: Remark | None = None) -> np.ndarray:
    """[H,W] bool: everything that is not black is defect. Rotated to its EXIF orientation, like images.

    A mask is gray (1, 8 or 16 bits), in colours, or has a palette, whose colours count, not their indices. JPEG and
    lossy WebP leave faint values around every edge; there, only pixels brighter than half of the full scale are
    defect, and `remark` is called. Transparency must agree with the colours or be the same everywhere, and a mask in
    colours must have a black pixel, because otherwise its background is not known.

    Otherwise, and as in `read_image`, raises UserError naming the file.
    """
    pixels, lossy, _ = _decode(_read(path), path, remark)
    gray, alpha = (pixels, None) if pixels.ndim == 2 else (pixels[:, :, :3].max(axis=2), pixels[:, :, 3:])
    mask = gray > 127 if lossy else gray > 0
    if lossy and remark is not None:
        remark("the mask is in a lossy format (JPEG or WebP): only pixels brighter than 127 are defect")
    if lossy and gray.any() and not mask.any():
        raise UserError(
            f"{path}: the mask is in a lossy format, where only pixels brighter than 127 are defect, but its brightest "
            f"value is {gray.max()}; save it as png, with 255 for defect"
        )
    if alpha is not None and alpha.size and alpha.min() < alpha.max() and ((alpha[:, :, 0] > 0) != mask).any():
        raise UserError(
            f"{path}: the mask's transparency and its colours mark different pixels; save it without transparency, "
            "with black for good and white for defect"
        )
    if mask.all() and pixels.ndim == 3 and (pixels[:, :, :3] != gray[:, :, None]).any():
        raise UserError(
            f"{path}: the mask has no black pixel; black (0, or the colours 0, 0, 0) means good, any other defect"
        )
    return mask


def unit_range(pixels: np.ndarray) -> np.ndarray:
    """Pixels of any shape, uint8 or uint16 -> float32 in [0,1], as `models.detector.unit_range` computes with torch."""
    return np.divide(pixels, np.iinfo(pixels.dtype).max, dtype=np.float32)


def eight_bits(pixels: np.ndarray) -> np.ndarray:
    """Pixels of any shape, uint8 or uint16 -> uint8."""
    return (pixels >> 8).astype(np.uint8) if pixels.dtype == np.uint16 else pixels


def _colours(pixels: np.ndarray) -> np.ndarray:
    """[H,W] gray or [H,W,C], perhaps with alpha -> [H,W,3]."""
    return np.repeat(pixels[:, :, None], 3, axis=2) if pixels.ndim == 2 else pixels[:, :, :3]


def _other_depth(name: str | Path) -> UserError:
    return UserError(f"{name}: only 8- and 16-bit integer images are supported (16 bits in gray or RGB)")


def _decode(
    data: bytes, name: str | Path, remark: Remark | None, most: int | None = None
) -> tuple[np.ndarray, bool, int]:
    """Pixels [H,W], [H,W,3] or [H,W,4], upright, uint8 or uint16, in RGB order; whether the format is lossy; bits.

    The bits are those of a value in the file.
    """
    if not data:
        raise UserError(f"{name}: cannot be read as an image (the file is empty)")
    try:
        with ANY_SIZE, Image.open(io.BytesIO(data), formats=FORMATS) as image:
            if most is not None and (image.width * image.height > most or max(image.size) > 65_535):
                raise ValueError(f"{image.width} x {image.height} pixels; at most {most:,} in all and 65,535 a side")
            left_out = _left_out(image)
            image.load()
            pixels, lossy, bits = _pixels(data, image), _is_lossy(data, image), _bits_per_sample(data, image)
    except UnidentifiedImageError:  # its text contains a memory address
        raise UserError(f"{name}: cannot be read as an image (damaged, or of an unknown format or kind)") from None
    except Exception as error:  # by format: OSError, SyntaxError, MemoryError, OverflowError, cv2.error ...
        raise UserError(f"{name}: cannot be read as an image ({reason(error)})") from None
    if pixels is None:
        raise _other_depth(name)
    for what in left_out if remark else ():
        remark(what)
    return pixels, lossy, bits


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except (OSError, ValueError) as error:  # ValueError: a NUL in the path
        raise UserError(f"{path}: cannot be read: {getattr(error, 'strerror', None) or error}") from None


class AnySize:
    """Read images of any size (a line camera's may exceed Pillow's limit), and refuse truncated ones.

    Pillow's settings are global: they are changed while any thread is inside, and restored when the last one leaves.
    """

    def __init__(self) -> None:
        self.lock, self.inside = threading.Lock(), 0

    def __enter__(self) -> None:
        with self.lock:
            if self.inside == 0:
                self.earlier = Image.MAX_IMAGE_PIXELS, ImageFile.LOAD_TRUNCATED_IMAGES
                Image.MAX_IMAGE_PIXELS, ImageFile.LOAD_TRUNCATED_IMAGES = None, False
            self.inside += 1

    def __exit__(self, *error: object) -> None:
        with self.lock:
            self.inside -= 1
            if self.inside == 0:
                Image.MAX_IMAGE_PIXELS, ImageFile.LOAD_TRUNCATED_IMAGES = self.earlier

    def renew(self) -> None:
        """Reset in a forked process: the threads that were inside do not exist there, and could never free the lock."""
        if self.inside:
            Image.MAX_IMAGE_PIXELS, ImageFile.LOAD_TRUNCATED_IMAGES = self.earlier
        self.__init__()


ANY_SIZE = AnySize()
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=ANY_SIZE.renew)


def _left_out(image: Image.Image) -> list[str]:
    """Sentences on what else the file contains besides the picture that is read."""
    sentences = []
    if getattr(image, "is_animated", False):  # of a TIFF, n_frames would walk through all pages
        sentences.append("only the first of its pages or frames is read")
    if image.format == "TIFF" and _further_channels(image):
        sentences.append("only red, green and blue (or gray) of its channels are read")
    return sentences


def _further_channels(image: Image.Image) -> int:
    """Number of channels besides those of the colour space and alpha."""
    tags = image.tag_v2
    colours = {2: 3, 5: 4, 6: 3, 8: 3}.get(tags.get(262), 1)  # RGB, CMYK, YCbCr, Lab; gray and palettes have one
    extra = tags.get(338, ())  # 1 and 2 are alpha; without this tag one channel counts as alpha
    alphas = sum(kind in (1, 2) for kind in extra) if extra else 1
    return max(0, tags.get(277, 1) - colours - alphas)


def _bits_per_sample(data: bytes, image: Image.Image) -> int:
    if image.format == "PNG":
        return data[24]  # in the header chunk, which is always the first
    if image.format == "TIFF":
        return max(np.atleast_1d(image.tag_v2.get(258, 8)))
    return 8


def _pixels(data: bytes, image: Image.Image) -> np.ndarray | None:
    """None for a depth that is not supported."""
    # Pillow would reduce 16-bit colours to 8 bits.
    bits, deep_gray = _bits_per_sample(data, image), image.mode.startswith("I")
    pixels = _from_opencv(data, image.mode) if bits == 16 and not deep_gray else _from_pillow(image)
    if deep_gray and image.format == "TIFF" and image.tag_v2.get(262) == 0 and pixels is not None:
        # White is zero; Pillow inverts only files of 8 bits.
        pixels = np.uint16(2**bits - 1) - pixels if bits <= 16 else None
    return None if pixels is None else _upright(pixels, image)


def _from_pillow(image: Image.Image) -> np.ndarray | None:
    if image.mode in ("L", "RGB", "RGBA"):
        return np.array(image)
    if image.mode.startswith("I"):  # I;16, I;16B and, in older files, I
        pixels = np.array(image)
        return pixels.astype(np.uint16) if pixels.min() >= 0 and pixels.max() < 2**16 else None
    if image.mode == "F":
        return None
    # palette, 1-bit, gray with alpha, CMYK ...
    return np.array(image.convert("RGBA" if image.has_transparency_data else "RGB"))


def _from_opencv(data: bytes, mode: str) -> np.ndarray | None:
    """16-bit colours; `mode` is Pillow's."""
    try:
        import cv2  # a program on the line that has no such pictures does not need it
    except ImportError:
        raise UserError("16-bit colours need another package: pip install opencv-python-headless") from None
    pixels = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED)
    if pixels is None or pixels.ndim != 3 or mode not in ("RGB", "RGBA"):
        return None
    return cv2.cvtColor(pixels, cv2.COLOR_BGRA2RGBA if mode == "RGBA" else cv2.COLOR_BGR2RGB)


def _upright(pixels: np.ndarray, image: Image.Image) -> np.ndarray:
    """[H,W,...] as stored -> as displayed. The decoders of TIFF files have already rotated them."""
    orientation = 1 if image.format == "TIFF" else image.getexif().get(ExifTags.Base.Orientation, 1)
    if orientation in (5, 6, 7, 8):
        pixels = pixels.swapaxes(0, 1)
    if orientation in (3, 4, 7, 8):
        pixels = pixels[::-1]
    if orientation in (2, 3, 6, 7):
        pixels = pixels[:, ::-1]
    return np.ascontiguousarray(pixels)


def _is_lossy(data: bytes, image: Image.Image) -> bool:
    if image.format == "WEBP":  # its chunk of pixels is named VP8 or, if lossless, VP8L
        return re.search(rb"VP8[ L]", data)[0] == b"VP8 "
    return image.format in ("JPEG", "MPO") or image.info.get("compression") in ("jpeg", "tiff_jpeg")
