"""The pictures of a run: one overlay per test image, and the training curves."""

import contextlib
import math
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, LogLocator, MaxNLocator, NullFormatter, StrMethodFormatter
from PIL import ExifTags, Image, ImageDraw, ImageFont, ImageOps

from datasets.fit import Fit
from datasets.images import ANY_SIZE, eight_bits, read_image
from datasets.sample import Sample
from evaluation.colours import Scale, colour_scale, colours, good_ones
from evaluation.fonts import STANDARD, Font, Fonts, shortened
from evaluation.html_pictures import Thumbnails
from evaluation.outline import dimmed, outlined, unit_of
from evaluation.score import CALIBRATION, HELD_OUT, Scored, image_score
from utils.cores import allowed_cores
from utils.errors import UserError

PANEL = 256  # pixels: the area of a panel is at least this squared; smaller images are enlarged
WIDTH = 2 * PANEL  # the smallest width of a picture, for the text below the panels
LARGEST = 2048  # pixels: the area of a panel is at most this squared
MOST = 16 * 1024**2  # pixels of the images that wait to be drawn together
FLATTEST = 8  # the largest side ratio of a panel, because 100 x 5000 pixels would be only a line


class Overlays:
    """One PNG per image, `<defect type>/<name>.png` in `folder`: image, outline of the mask, map, score.

    `normal` has the student's `normal_scores`, which set the colours; without them each map has its own scale. `fit` is
    how the pictures got the size of the maps; None if they were only resized. `thumbnails` draw the same images.
    """

    def __init__(
        self,
        folder: Path,
        samples: Sequence[Sample],
        normal: dict[str, Any] | None,
        fit: Fit | None = None,
        thumbnails: Thumbnails | None = None,
    ):
        self.folder, self.samples, self.normal, self.fit = folder, samples, normal, fit
        self.thumbnails = thumbnails
        self.fonts = Fonts(sample.name for sample in samples)
        self.pool = ThreadPoolExecutor(allowed_cores())  # drawing and PNG coding release the interpreter lock
        self.waiting: list[Scored] = []

    def __enter__(self) -> "Overlays":
        return self

    def __exit__(self, kind: type | None, *_) -> None:
        if kind is None:
            self._draw_waiting()
        self.pool.shutdown(cancel_futures=True)

    def drawn(self, results: Iterable[Scored], at_once: int = 16) -> Iterator[Scored]:
        """Yield the results unchanged, and draw them in groups, so that drawing does not run beside scoring."""
        for result in results:
            self.waiting.append(result)
            if len(self.waiting) == at_once or sum(each.mask.size for each in self.waiting) >= MOST:
                self._draw_waiting()
            yield result

    def _draw_waiting(self) -> None:
        waiting, self.waiting = self.waiting, []
        list(self.pool.map(self._draw, waiting))

    def _draw(self, result: Scored) -> None:
        sample, score = self.samples[result.index], image_score(result.anomaly_map)
        size = result.anomaly_map.shape
        aspect = shown_aspect(sample.path, self.fit or Fit(size, size))
        scale = colour_scale(self.normal, result.anomaly_map)
        picture = self._picture(result)
        if self.thumbnails is not None:
            self.thumbnails.add(result, picture, scale, aspect)
        panels = overlay(picture, result.anomaly_map, result.mask, scale, aspect)
        score = f"score {score:.4g}{standing(score, self.normal)}"
        font = self.fonts.best(sample.name)
        path = self.folder / f"{sample.name}.png"
        path.parent.mkdir(exist_ok=True)
        page(f"{sample.defect_type} / {sample.stem}", font, score, panels, scale).save(path)

    def _picture(self, result: Scored) -> np.ndarray:
        """[H,W,3] uint8; with a region of interest, the file again, because what is outside is gray in the result."""
        if result.region is None:
            return shown(result.image)
        image = result.image
        with contextlib.suppress(UserError):  # the file is gone
            picture, fit = read_image(self.samples[result.index].path), self.fit or Fit(*[result.mask.shape] * 2)
            top, left, bottom, right = fit.inside(picture.shape[:2])
            image = fit.image(picture)[:, top:bottom, left:right]
        return dimmed(shown(image), result.region)


def shown(image: np.ndarray) -> np.ndarray:
    """[3,H,W] uint8, uint16 or float in [0,1] -> [H,W,3] uint8."""
    image = eight_bits(image) if image.dtype in (np.uint8, np.uint16) else (image * 255).round().astype(np.uint8)
    return np.ascontiguousarray(image.transpose(1, 2, 0))


def shown_aspect(path: Path, fit: Fit, tile: float = 1.0) -> float:
    """Width / height, in the original picture, of the part that is left after resize and crop.

    The aspect of the resized image if the file can no longer be read. `tile` is how much a tile is wider than all.
    """
    try:
        size = original_size(path)
    except Exception:  # errors differ by format; a picture must not end the test
        size = fit.img_size
    return min(max(tile * fit.aspect(size), 1 / FLATTEST), FLATTEST)


def original_size(path: Path) -> tuple[int, int]:
    """(height, width) of an image file as it is displayed, from its header. Raises the errors of Pillow."""
    with ANY_SIZE, Image.open(path) as image:
        # Some versions of Pillow rotate a TIFF when they open it.
        width, height = (image.tag_v2[256], image.tag_v2[257]) if image.format == "TIFF" else image.size
        turned = image.getexif().get(ExifTags.Base.Orientation, 1) in (5, 6, 7, 8)
    return (width, height) if turned else (height, width)


def standing(score: float, normal: dict[str, Any] | None) -> str:
    """How a score compares with those of good images that did not train; empty if there are none."""
    if not normal or normal["source"] not in (CALIBRATION, HELD_OUT):
        return ""
    below = sum(other < score for other in normal["scores"])
    return f", above {below} of {good_ones(normal)}"


def overlay(
    image: np.ndarray, anomaly_map: np.ndarray, mask: np.ndarray, scale: Scale, aspect: float
) -> dict[str, Image.Image]:
    """Panels by their titles: the image, the mask's outline on it if there is one, the map with its maximum.

    image [H,W,3] uint8, anomaly_map [H,W], mask [H,W] bool; `aspect` is the width of a panel by its height.
    """
    size = panel_size(mask.shape, aspect)
    plain = Image.fromarray(image).resize(size, Image.Resampling.BICUBIC)
    heat = Image.fromarray(anomaly_map.astype(np.float32)).resize(size, Image.Resampling.BILINEAR)
    heat = Image.fromarray(scale.colour(np.asarray(heat)))
    panels = {"image": plain}
    if mask.any():
        panels["marked defect"] = outlined(plain, mask)
        heat = outlined(heat, mask)
    if anomaly_map.min() == anomaly_map.max():
        return panels | {"anomaly map: the same everywhere": heat}
    _ring(heat, np.unravel_index(anomaly_map.argmax(), anomaly_map.shape), anomaly_map.shape)
    return panels | {"anomaly map (ring: highest value)": heat}


def panel_size(shape: Sequence[int], aspect: float) -> tuple[int, int]:
    """(width, height) in pixels, with the same area as an image [H,W], unless it is very small or large."""
    area = min(max(shape[0] * shape[1], PANEL**2), LARGEST**2)
    return max(1, round((area * aspect) ** 0.5)), max(1, round((area / aspect) ** 0.5))


def _ring(picture: Image.Image, place: Sequence[int], shape: Sequence[int]) -> None:
    """Draw a ring at `place` (row, column) of a map of shape [H,W]; white on black is visible on any colour."""
    x, y = ((place[k] + 0.5) / shape[k] * picture.size[1 - k] for k in (1, 0))
    unit = unit_of(picture.size)
    for colour, width in (("black", 4), ("white", 2)):
        radius = (9 + width / 2) * unit
        box = (x - radius, y - radius, x + radius, y + radius)
        ImageDraw.Draw(picture).ellipse(box, outline=colour, width=round(width * unit))


def page(name: str, font: Font, score: str, panels: dict[str, Image.Image], scale: Scale) -> Image.Image:
    """The panels below name and score, side by side or, if they are wide, one below the other; then the scale."""
    size = next(iter(panels.values())).size
    unit = unit_of(size)
    small, normal = (STANDARD.at(points * unit) for points in (11, 13))
    wide = size[0] > 2 * size[1]
    cells = [assembled([text_line(title, normal), panel], 3 * unit, down=True) for title, panel in panels.items()]
    row = assembled(cells, 10 * unit, down=wide)
    width = max(row.width, round(WIDTH * unit))
    large = font.at(15 * unit)
    head = assembled([text_line(shortened(name, width, large), large), text_line(score, normal)], 2 * unit, down=True)
    foot = [text_line(scale.meaning[0], small), _bar(scale, width, small, unit)]
    foot += [text_line(sentence, small) for sentence in scale.meaning[1:]]
    whole = assembled([head, row, assembled(foot, 2 * unit, down=True)], 10 * unit, down=True)
    return ImageOps.expand(whole, round(10 * unit), "white")


def assembled(pictures: list[Image.Image], gap: float, down: bool) -> Image.Image:
    """Pictures in a row from the left, or one below the other, on white."""
    gap, widths, heights = round(gap), [each.width for each in pictures], [each.height for each in pictures]
    room = gap * (len(pictures) - 1)
    size = (max(widths), sum(heights) + room) if down else (sum(widths) + room, max(heights))
    whole = Image.new("RGB", size, "white")
    place = 0
    for each in pictures:
        whole.paste(each, (0, place) if down else (place, 0))
        place += (each.height if down else each.width) + gap
    return whole


def text_line(text: str, font: ImageFont.FreeTypeFont) -> Image.Image:
    """Black on white, without margins."""
    line = Image.new("RGB", (math.ceil(font.getlength(text)) + 1, sum(font.getmetrics())), "white")
    ImageDraw.Draw(line).text((0, 0), text, "black", font)
    return line


def _bar(scale: Scale, width: int, font: ImageFont.FreeTypeFont, unit: float) -> Image.Image:
    """All colours of the scale, with its ticks below."""
    height = round(12 * unit)
    bar = Image.new("RGB", (width, height + round(4 * unit) + sum(font.getmetrics())), "white")
    bar.paste(Image.fromarray(colours(np.linspace(0, 1, width)[None].repeat(height, axis=0))))
    draw = ImageDraw.Draw(bar)
    for position, tick in zip(scale.positions, scale.ticks, strict=True):
        x = position * width
        draw.line((x, height, x, height + 3 * unit), "black", round(unit))
        draw.text((x, height + 4 * unit), tick, "black", font, anchor="ma")
    return bar


def draw_curves(path: Path, history: list[dict[str, float]], best_epoch: dict[str, int]) -> None:
    """Training loss and, if there are any, validation scores over epochs, the kept epochs marked."""
    scores = [key for key in history[0] if key.startswith("val_score")]
    figure = Figure(figsize=(7, 5), layout="constrained")
    axes = figure.subplots(1 + bool(scores), 1, sharex=True, squeeze=False)
    _curve(axes[0, 0], history, ["train_loss"], "training loss")
    _curve(axes[-1, 0], history, scores, "validation score\n(held-out good images)")
    if len(scores) > 1:
        axes[-1, 0].legend()
    for axis in axes.flat:
        for epoch in best_epoch.values():
            axis.axvline(epoch, color="gray", linestyle="--", linewidth=1)
    kept = ", ".join(f"{part} {epoch}".strip() for part, epoch in best_epoch.items())
    axes[0, 0].set_title(f"kept: epoch {kept}")
    axes[-1, 0].set_xlabel("epoch")
    axes[-1, 0].xaxis.set_major_locator(FixedLocator(_epoch_ticks(len(history))))
    figure.savefig(path, dpi=120)


def _epoch_ticks(epochs: int) -> list[int]:
    """The first epoch, and round numbers that are not too close to it."""
    ticks = MaxNLocator(6, steps=[1, 2, 5, 10], integer=True).tick_values(1, max(epochs, 2))
    return [1, *(int(tick) for tick in ticks if 1 + (ticks[1] - ticks[0]) / 2 <= tick <= epochs)]


def _curve(axis: Axes, history: list[dict[str, float]], keys: list[str], label: str) -> None:
    values = [row[key] for key in keys for row in history]
    for key in keys:
        axis.plot([row["epoch"] for row in history], [row[key] for row in history], marker=".", label=key)
    if keys:
        axis.set_ylabel(label)
    # Some losses can be negative; and within one decade a linear axis has rounder numbers.
    if values and min(values) > 0 and max(values) > 10 * min(values):
        axis.set_yscale("log")
        decades = np.log10(max(values) / min(values))
        axis.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5) if decades < 3 else (1,)))
        axis.yaxis.set_major_formatter(StrMethodFormatter("{x:g}"))
        axis.yaxis.set_minor_formatter(NullFormatter())
