"""From pictures and their anomaly maps to scores, decisions and regions. Nothing here needs torch."""

import contextlib
import hashlib
import json
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import islice
from pathlib import Path
from time import perf_counter
from typing import Any, NamedTuple, TypeVar

import numpy as np
from PIL import Image

from datasets.fit import ALIKE, Fit
from datasets.images import count_pixels, from_pillow, read_image
from datasets.parts import parts_of
from datasets.regions import Roi, grayed, lowest_outside
from datasets.tiles import Tiles, whole_maps
from deploy.geometry import connected_parts, resized, resized_inside
from evaluation.calibration import Calibration
from evaluation.cross import CrossCalibration
from evaluation.score import image_score
from utils.command import is_memory, is_of_gpu
from utils.cores import allowed_cores
from utils.errors import UserError

MOST_PIXELS = 50_000_000  # of the pictures of a batch together: with their maps and overlays, 1 to 2 GB
Item = TypeVar("Item")


class Region(NamedTuple):
    """A connected part of a map above the limit of what is accepted, in pixels of the picture as it was read."""

    box: tuple[int, int, int, int]  # left, top, right, bottom; the last two are behind the region
    area: float
    score: float  # the highest value in it

    def as_dict(self) -> dict[str, Any]:
        return {"box": list(self.box), "area": round(self.area, 1), "score": self.score}


class Prediction(NamedTuple):
    """What is found in a picture [H,W,3]. Without a calibration only score and map are known."""

    score: float
    p_value: float | None
    decision: str | None  # accept, review or reject
    regions: list[Region]
    anomaly_map: np.ndarray  # [H,W] float32; where a crop cut the picture off, and outside of the region, -inf
    milliseconds: float  # of the networks
    picture: np.ndarray
    mask: np.ndarray  # [H,W] bool: the regions


class Judge:
    """Judges pictures with maps that a subclass computes in `maps_of`; everything else is the same for all of them.

    With `tiles`, `maps_of` gets a picture's tiles, at most `tiles.at_once` together, instead of whole pictures.
    `normal` has a student's `normal_scores`, for the colours. Raises UserError for rates that it cannot promise.
    """

    explained = False  # whether a note has said why nothing is decided

    def __init__(
        self,
        fit: Fit,
        normal: dict[str, Any] | None,
        calibration: Calibration | CrossCalibration | None,
        batch_size: int,
        tiles: Tiles | None = None,
        roi: Roi | None = None,
    ):
        self.fit, self.normal, self.calibration, self.tiles, self.roi = fit, normal, calibration, tiles, roi
        self.batch_size = batch_size if tiles is None else 1  # pictures at once
        self.remarks: dict[str, tuple[Path, int]] = {}  # what `stream` says of files: the first one, their number
        if calibration:  # a rate that it cannot promise is an error now
            # The threshold, not all of the promise: its upper bound needs scipy, which an exported model has not.
            _ = calibration.threshold if isinstance(calibration, Calibration) else calibration.promise

    @property
    def fingerprint(self) -> str:
        """Equal for judges that decide alike: a student that is trained again gives good parts other scores."""
        known = (self.fit, self.roi and self.roi.digest, self.normal, self.calibration)
        text = json.dumps(known, sort_keys=True, default=np.ndarray.tolist)  # the scores of folds are arrays
        return hashlib.sha256(text.encode()).hexdigest()

    def maps_of(self, images: Sequence[np.ndarray]) -> np.ndarray:
        """Images [3,h,w] uint8 or uint16 of one size -> their anomaly maps [B,h,w] float32."""
        raise NotImplementedError

    def fold_maps_of(self, images: Sequence[np.ndarray]) -> np.ndarray:
        """With a CrossCalibration: the same images -> the maps of each fold's student [B,folds,h,w] float32."""
        raise NotImplementedError

    def __call__(self, image: str | Path | np.ndarray | Image.Image) -> Prediction:
        return self.predict([image])[0]

    def predict(self, pictures: Sequence[str | Path | np.ndarray | Image.Image]) -> list[Prediction]:
        """Several pictures of any sizes, in one batch: paths, PIL images, or arrays [H,W,3] uint8 or uint16, RGB."""
        pictures = [pixels_of(picture) for picture in pictures]
        images = [self.fitted(picture) for picture in pictures]
        begin = perf_counter()
        cross = isinstance(self.calibration, CrossCalibration)
        maps = whole_maps(images, self.maps_of, self.tiles)
        folds = whole_maps(images, self.fold_maps_of, self.tiles) if cross else [None] * len(images)
        milliseconds = 1000 * (perf_counter() - begin) / len(pictures)
        return [self._judged(*each, milliseconds) for each in zip(pictures, maps, folds, strict=True)]

    def fitted(self, picture: np.ndarray) -> np.ndarray:
        """A picture [H,W,3] as the networks, or their tiles, take it: [3,h,w]."""
        image = self.fit.image(picture)
        return image if self.roi is None else grayed(image, self.roi.fitted(self.fit, picture.shape))

    def checked(self, picture: np.ndarray, name: object, remark: Callable[[str], None]) -> np.ndarray:
        """The picture. Raises UserError naming it if the region of interest does not fit it.

        `remark` gets a sentence if its aspect ratio is far outside the range of the good pictures.
        """
        lowest, highest = (self.normal or {}).get("aspect_ratios") or (0, np.inf)  # older students do not know them
        height, width = picture.shape[:2]
        if not lowest / ALIKE <= width / height <= highest * ALIKE:
            usual = f"{lowest:.3g}" if highest < 1.01 * lowest else f"{lowest:.3g} to {highest:.3g}"
            remark(f"its aspect ratio differs from that of the good pictures (width / height: {usual})")
        if self.roi:
            self.roi.check(picture.shape, name)
        return picture

    def part(self, name: str) -> str | None:
        """The part that a picture shows, by its name and the calibration's pattern; None if that is not known."""
        with contextlib.suppress(UserError):  # the pattern finds nothing
            pattern = (self.normal or {}).get("part_pattern")
            return parts_of([Path(name)], pattern)[0] if pattern else None

    def stream(self, paths: Iterable[str | Path]) -> Iterator[tuple[Path, Prediction | UserError]]:
        """Predictions in the order of the paths, and the error of each file that cannot be read or judged.

        Threads read the next files; memory grows neither with their number nor, for large ones, with the batch size.
        """
        paths = map(Path, paths)
        with ThreadPoolExecutor(min(allowed_cores(), self.batch_size)) as pool:
            while group := list(islice(paths, self.batch_size)):
                for batch in batches(group, pool.map(count_pixels, group)):
                    yield from self._found(batch, pool)

    def _found(self, paths: list[Path], pool: ThreadPoolExecutor) -> Iterator[tuple[Path, Prediction | UserError]]:
        remarks: list[list[str]] = [[] for _ in paths]
        read = list(pool.map(self._read, paths, remarks))
        for path, sentences in zip(paths, remarks, strict=True):
            for sentence in sentences:
                first, count = self.remarks.get(sentence, (path, 0))
                self.remarks[sentence] = first, count + 1
        pictures = [picture for picture in read if not isinstance(picture, UserError)]
        found = iter(self.predict_each(pictures))
        for path, picture in zip(paths, read, strict=True):
            yield path, picture if isinstance(picture, UserError) else next(found) or too_large(path)

    def predict_each(self, pictures: list[np.ndarray]) -> list[Prediction | None]:
        """As `predict`; None for a picture for which there is too little memory, even when it is judged alone."""
        try:
            return self.predict(pictures) if pictures else []
        except Exception as error:
            if not is_memory(error) or (len(pictures) == 1 and is_of_gpu(error)):  # there, no picture is larger
                raise
        # Not above, where the error still holds the arrays of the batch.
        return [None] if len(pictures) == 1 else [self.predict_each([picture])[0] for picture in pictures]

    def _read(self, path: Path, remarks: list[str]) -> np.ndarray | UserError:
        try:
            return self.checked(read_image(path, remarks.append), path, remarks.append)
        except UserError as error:
            return error
        except MemoryError:
            return too_large(path)

    def _judged(
        self, picture: np.ndarray, fitted_map: np.ndarray, folds: np.ndarray | None, milliseconds: float
    ) -> Prediction:
        shape = picture.shape[:2]
        top, left, bottom, right = self.fit.inside(shape)
        box = (..., slice(top, bottom), slice(left, right))
        region = self.roi and self.roi.fitted(self.fit, shape)[box]
        inside = np.ascontiguousarray(fitted_map[box], np.float32)
        inside = inside if region is None else lowest_outside(inside, region)
        score, calibration = image_score(inside), self.calibration
        rows, columns = self.fit.source(shape)
        height, width = rows.stop - rows.start, columns.stop - columns.start
        whole = np.full(shape, -np.inf, np.float32)
        whole[rows, columns] = resized_inside(inside, region, (height, width))
        p_value, above = None, np.zeros(inside.shape, bool)
        if isinstance(calibration, CrossCalibration):
            p_map = calibration.p_map(folds[box])
            p_map = p_map if region is None else np.where(region, p_map, 1)
            p_value, above = calibration.p_value(p_map), calibration.above(p_map)
        elif calibration:
            p_value, above = calibration.p_value(score), inside > calibration.limit
        above = above if region is None else above & region
        regions = [_region(part, inside, (rows, columns)) for part in connected_parts(above)]
        mask = np.zeros(shape, bool)
        mask[rows, columns] = resized(above, (height, width), Image.Resampling.NEAREST)
        if self.roi:
            outside = ~self.roi.whole(shape)
            whole[outside], mask[outside] = -np.inf, False
        return Prediction(
            score,
            p_value,
            None if p_value is None else calibration.decision(p_value),
            sorted(regions, key=lambda region: -region.score),
            whole,
            milliseconds,
            picture,
            mask,
        )


def too_large(name: object) -> UserError:
    return UserError(f"{name}: there is too little memory for this picture")


def pixels_of(image: str | Path | np.ndarray | Image.Image) -> np.ndarray:
    """[H,W,3] uint8 or uint16, RGB, of a path, a PIL image, or an array that is that. Raises UserError for others."""
    if isinstance(image, str | os.PathLike):
        return read_image(Path(image))
    if isinstance(image, Image.Image):
        return from_pillow(image)
    got = type(image).__name__
    if isinstance(image, np.ndarray):
        if image.ndim == 3 and image.shape[2] == 3 and image.size and image.dtype in (np.uint8, np.uint16):
            return image
        got = f"{image.dtype} {list(image.shape)}"
    raise UserError(f"an image must be a path, a PIL image, or an array [H,W,3], RGB, uint8 or uint16 (got {got})")


def batches(items: Iterable[Item], pixels: Iterable[int]) -> Iterator[list[Item]]:
    """The pictures in their order, as many together as have MOST_PIXELS; a larger one is alone."""
    batch, total = [], 0
    for item, count in zip(items, pixels, strict=True):
        if batch and total + count > MOST_PIXELS:
            yield batch
            batch, total = [], 0
        batch.append(item)
        total += count
    if batch:
        yield batch


def open_judge(run: str | None, model: Path | None, overrides: Sequence[str]) -> Judge:
    """Of the exported model in a folder, which needs no torch, or else of a run. Raises UserError as they do."""
    from deploy.runtime import ExportedModel
    from deploy.runtime.metadata import MODELS

    if model is not None:
        return ExportedModel(model, overrides)
    if any(Path(run, name).exists() for name in MODELS.values()) and not Path(run, "student.safetensors").exists():
        raise UserError(f"{run} is an exported model: give it with --model {run}, in place of RUN")
    from deploy.predictor import Predictor

    return Predictor(run, overrides)


def _region(part: tuple[np.ndarray, np.ndarray], anomaly_map: np.ndarray, where: tuple[slice, slice]) -> Region:
    """`part`: rows and columns [N] in the map [h,w]; `where`: the rows and columns of the picture that it covers."""
    edges, area = [], float(len(part[0]))
    for positions, pixels, count in zip(part, where, anomaly_map.shape, strict=True):
        side = pixels.stop - pixels.start
        # In whole numbers: a rounded scale could give a pixel more than there is.
        first, last = int(positions.min()) * side // count, -(-(int(positions.max()) + 1) * side // count)
        edges.append((pixels.start + first, pixels.start + last))
        area *= side / count
    (top, bottom), (left, right) = edges
    return Region((left, top, right, bottom), area, float(anomaly_map[part].max()))
