"""The pictures of a run: one overlay per test image, and the training curves."""

import os
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from matplotlib import font_manager
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import NullFormatter
from PIL import Image, ImageDraw, ImageFont

from datasets.dataset import Sample
from evaluation.score import HELD_OUT, Scored, image_score, pixel_levels

PANEL = 256  # pixels, the least width of one panel; smaller images are enlarged
GAP, CAPTION = 8, 50
TICKS = ("1:10", "1:100", "1:1k", "1:10k", "max", "x10", "x100")
OUTLINE = (0, 255, 160)


class Overlays:
    """One PNG per image, `<defect type>/<name>.png` in `folder`: image, mask outline, map, score.

    `normal` is the student's `yardstick`, which sets the colours; without one each map sets its own.
    """

    def __init__(self, folder: Path, samples: Sequence[Sample], normal: dict[str, Any] | None):
        self.folder, self.samples, self.normal = folder, samples, normal
        self.pool = ThreadPoolExecutor(os.cpu_count())  # drawing and PNG coding release the interpreter lock
        self.waiting: list[Scored] = []

    def __enter__(self) -> "Overlays":
        return self

    def __exit__(self, kind: type | None, *_) -> None:
        if kind is None:
            self._draw_waiting()
        self.pool.shutdown(cancel_futures=True)

    def drawn(self, results: Iterable[Scored], at_once: int = 16) -> Iterator[Scored]:
        """The same results; each is drawn on the way, some at a time so that scoring has the machine to itself."""
        for result in results:
            self.waiting.append(result)
            if len(self.waiting) == at_once:
                self._draw_waiting()
            yield result

    def _draw_waiting(self) -> None:
        waiting, self.waiting = self.waiting, []
        list(self.pool.map(self._draw, waiting))

    def _draw(self, result: Scored) -> None:
        sample, score = self.samples[result.index], image_score(result.anomaly_map)
        scale = colour_scale(self.normal or {"pixel_levels": pixel_levels(result.anomaly_map)})
        picture = overlay(shown(result.image), result.anomaly_map, result.mask, scale)
        lines = (f"{sample.defect_type} / {sample.path.stem}", f"score {score:.4g}{standing(score, self.normal)}")
        caption(picture, lines, f"rarity on {self.normal['source'] if self.normal else 'this image'}", len(scale))
        path = self.folder / f"{sample.name}.png"
        path.parent.mkdir(exist_ok=True)
        picture.save(path)


def shown(image: np.ndarray) -> np.ndarray:
    """[3,H,W] uint8, uint16 or float in [0,1] -> [H,W,3] uint8."""
    if image.dtype == np.uint16:
        image = (image >> 8).astype(np.uint8)
    elif image.dtype != np.uint8:
        image = (image * 255).round().astype(np.uint8)
    return np.ascontiguousarray(image.transpose(1, 2, 0))


def standing(score: float, normal: dict[str, Any] | None) -> str:
    """Where a score stands among those of held-out good images, if there are any."""
    if not normal or normal["source"] != HELD_OUT:
        return ""
    below = sum(other < score for other in normal["scores"])
    return f", above {below} of {len(normal['scores'])} {HELD_OUT}"


def overlay(image: np.ndarray, anomaly_map: np.ndarray, mask: np.ndarray, scale: list[float]) -> Image.Image:
    """Three panels side by side above room for a caption: the image, the mask's outline on it, the map.

    image [H,W,3] uint8, anomaly_map [H,W], mask [H,W] bool.
    """
    enlarge = max(1, -(-PANEL // image.shape[1]))
    size = (image.shape[1] * enlarge, image.shape[0] * enlarge)
    image = cv2.resize(image, size, interpolation=cv2.INTER_CUBIC)
    anomaly_map = cv2.resize(anomaly_map.astype(np.float32), size, interpolation=cv2.INTER_LINEAR)
    mask = cv2.resize(mask.astype(np.uint8), size, interpolation=cv2.INTER_NEAREST)
    contours, _ = cv2.findContours(mask, cv2.RETR_LIST, cv2.CHAIN_APPROX_NONE)
    panels = [image, cv2.drawContours(image.copy(), contours, -1, OUTLINE, 1)]
    panels.append(cv2.drawContours(heat(anomaly_map, scale), contours, -1, OUTLINE, 1))
    picture = Image.new("RGB", (3 * size[0] + 2 * GAP, size[1] + CAPTION), "white")
    for i, panel in enumerate(panels):
        picture.paste(Image.fromarray(panel), (i * (size[0] + GAP), 0))
    return picture


def colour_scale(normal: dict[str, Any]) -> list[float]:
    """Values at even steps from black to pale yellow, as TICKS: how rare on good images, then how far above.

    Steps of rarity and not of value: a product of levels spans many decades, and one odd good image would leave all
    other maps black.
    """
    top = max(normal["pixel_levels"][-1], float(np.finfo(np.float32).tiny))
    return [*normal["pixel_levels"], 10 * top, 100 * top]


def heat(anomaly_map: np.ndarray, scale: list[float]) -> np.ndarray:
    """[H,W] -> [H,W,3] uint8 on a `colour_scale`."""
    return colours(np.interp(anomaly_map, [min(0.0, scale[0]), *scale], [0.0, *_positions(len(scale))]))


def _positions(steps: int) -> np.ndarray:
    return np.linspace(0.05, 0.95, steps)


def colours(positions: np.ndarray) -> np.ndarray:
    """[H,W] in 0..1 -> [H,W,3] uint8."""
    return cv2.cvtColor(cv2.applyColorMap((positions * 255).astype(np.uint8), cv2.COLORMAP_INFERNO), cv2.COLOR_BGR2RGB)


def caption(picture: Image.Image, lines: tuple[str, str], scale: str, steps: int) -> None:
    """Below the panels: which image, its score, and what the colours mean."""
    draw = ImageDraw.Draw(picture)
    # matplotlib's own font: the feature pages use it too, and it knows more than the letters of English.
    large, small = (ImageFont.truetype(font_manager.findfont("DejaVu Sans"), size) for size in (13, 10))
    y = picture.height - CAPTION
    draw.text((6, y + 6), lines[0], "black", large)
    draw.text((6, y + 28), lines[1], "black", large)
    width = PANEL - 24
    x = picture.width - width - 12
    bar = colours(np.linspace(0, 1, width)[None].repeat(10, axis=0))
    picture.paste(Image.fromarray(bar), (x, y + 18))
    draw.text((x + width / 2, y + 4), scale, "black", small, anchor="ma")
    for position, text in zip(_positions(steps), TICKS[:steps], strict=True):
        draw.text((x + position * width, y + 31), text, "black", small, anchor="ma")


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
    axes[-1, 0].xaxis.get_major_locator().set_params(integer=True)
    figure.savefig(path, dpi=120)


def _curve(axis: Axes, history: list[dict[str, float]], keys: list[str], label: str) -> None:
    for key in keys:
        values = [row[key] for row in history]
        axis.plot([row["epoch"] for row in history], values, marker=".", label=key)
        if min(values) > 0:  # some losses have a signed term
            axis.set_yscale("log")
            axis.yaxis.set_minor_formatter(NullFormatter())
    if keys:
        axis.set_ylabel(label)
