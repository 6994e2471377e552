"""What the README's figures are made of: boxes, arrows, thumbnails, and the rows and loops that methods share."""

from collections.abc import Callable, Sequence
from pathlib import Path

import cv2
import numpy as np
from matplotlib.figure import Figure
from matplotlib.patches import FancyArrowPatch, FancyBboxPatch
from PIL import Image

from datasets.demo import picture

FROZEN, LEARNS, INK = "#cfe2f3", "#fce5cd", "#444444"
TEACHER, STUDENT = "teacher (pretrained, frozen)", "student (from scratch, learns)"
LAYERS = ("layer1\n1/4 size", "layer2\n1/8 size", "layer3\n1/16 size")
SCORE = "anomaly map; score = its maximum"
NARROW = 10.4  # x of the bottleneck in a loop

Point = tuple[float, float]


class Page:
    """A figure whose coordinates are inches; places are centres unless said otherwise."""

    def __init__(self, height: float, width: float = 11.4):
        self.figure = Figure(figsize=(width, height))
        self.axis = self.figure.subplots()
        self.axis.set(xlim=(0, width), ylim=(0, height), aspect="equal")
        self.axis.axis("off")
        self.figure.subplots_adjust(0, 0, 1, 1)

    def save(self, name: str, small: bool = True) -> None:
        """A PNG beside this file; a small one has 256 colours, as near to the original's as they get."""
        path = Path(__file__).with_name(f"{name}.png")
        self.figure.savefig(path, dpi=110)
        if small:
            page = Image.open(path).convert("RGB").quantize(256, Image.Quantize.MAXCOVERAGE, kmeans=1)
            page.save(path, optimize=True)

    def write(self, x: float, y: float, text: str, size: float = 9, align: str = "center", **style) -> None:
        self.axis.text(x, y, text, ha=align, va="center", fontsize=size, **style)

    def title(self, left: float, y: float, text: str) -> None:
        self.write(left, y, text, 11, "left")

    def box(self, x: float, y: float, width: float, height: float, text: str, colour: str = "white") -> None:
        """A part of a network; white: nothing in it learns."""
        self.frame((x - width / 2, y - height / 2), (x + width / 2, y + height / 2), fc=colour)
        self.write(x, y, text, 10)

    def frame(self, low: Point, high: Point, **style) -> None:
        shape = FancyBboxPatch(low, high[0] - low[0], high[1] - low[1], boxstyle="round,pad=0,rounding_size=0.08")
        shape.set(ec=INK, **style)
        self.axis.add_patch(shape)

    def training(self, right: float, top: float, text: str) -> None:
        """A dotted frame at the bottom left of the page, around what happens in training only."""
        self.frame((0.12, 0.12), (right, top), fc="none", ls=":")
        self.write(0.25, 0.3, "in training only: " + text, 10, "left")

    def arrow(self, *points: Point, style: str = "-") -> None:
        """Along these points, with a head at the last. Dashed: what is compared; dotted: in training only."""
        self.axis.plot(*zip(*points[:-1], strict=True), color=INK, lw=1, ls=style, zorder=0)
        head = {"arrowstyle": "-|>", "mutation_scale": 12, "shrinkA": 0, "shrinkB": 0}
        self.axis.add_patch(FancyArrowPatch(*points[-2:], color=INK, linestyle=style, **head))

    def thumbnail(self, x: float, y: float, width: float, image: np.ndarray, label: str, **style) -> None:
        """A picture with a label below; maps [h,w] are shown as heat."""
        height = width * image.shape[0] / image.shape[1]
        extent = (x - width / 2, x + width / 2, y - height / 2, y + height / 2)
        self.axis.imshow(image, extent=extent, **{"cmap": "inferno", "interpolation": "nearest", "zorder": 2} | style)
        self.write(x, y - height / 2 - 0.16, label)

    def row(self, xs: Sequence[float], y: float, layers: Sequence[str], colour: str, width: float = 1.1) -> None:
        """Boxes linked by arrows in the order given: to the left where xs fall."""
        for k, (x, layer) in enumerate(zip(xs, layers, strict=True)):
            if k:
                half = np.copysign(width / 2, x - xs[k - 1])
                self.arrow((xs[k - 1] + half, y), (x - half, y))
            self.box(x, y, width, 0.7, layer, colour)

    def network(
        self, start: Point, stem: str, xs: Sequence[float], y: float, layers: Sequence[str], colour: str
    ) -> None:
        """A row with a stem before it, which an image at `start` goes into."""
        x = xs[0] - 1.5
        self.arrow(start, (x - 0.3, y))
        self.box(x, y, 0.6, 0.7, stem, colour)
        self.arrow((x + 0.3, y), (xs[0] - 0.55, y))
        self.row(xs, y, layers, colour)

    def compare(
        self,
        xs: Sequence[float],
        y: float,
        edges: tuple[float, float],
        maps: Sequence[np.ndarray],
        gap: float,
        sign: str = "+",
        side: float = 1.05,
        first: int = 1,
    ) -> None:
        """Distance maps between two rows whose near edges are given, upper first; a sign `gap` right of each."""
        for k, (x, level) in enumerate(zip(xs, maps, strict=True)):
            self.arrow((x, edges[0]), (x, y + side / 2 + 0.025), style="--")
            self.arrow((x, edges[1]), (x, y - side / 2 - 0.275), style="--")
            self.thumbnail(x, y, side, level, f"distance, level {first + k}")
            self.write(x + gap, y, sign if k + 1 < len(maps) else "=", 20)

    def loop(self, y: float, xs: Sequence[float], layers: Sequence[str], bottleneck: str, lift: float = 0.35) -> None:
        """Reverse distillation, clockwise: image and teacher at height y, bottleneck, and the decoder 3.1 below.

        What the bottleneck reads leaves at `lift` above the teacher's middle.
        """
        image, _ = demo()
        self.thumbnail(0.82, y, 1.3, image, "image")
        self.arrow((1.47, y), (xs[0] - 0.55, y))
        self.row(xs, y, layers, FROZEN)
        bus = y + lift + 0.35
        self.axis.vlines(xs, y + lift, bus, color=INK, lw=1, zorder=0)
        self.arrow((xs[0], bus), (NARROW, bus), (NARROW, y + 0.42))
        self.write(NARROW - 0.1, bus + 0.15, "all levels", align="right")
        self.title(xs[0] - 0.55, bus + 0.25, TEACHER)
        self.box(NARROW, y, 1.6, 0.84, bottleneck, LEARNS)
        self.arrow((NARROW, y - 0.42), (NARROW, y - 1.1))
        self.box(NARROW, y - 1.4, 1.0, 0.6, "embedding\n1/32 size", LEARNS)
        self.write(NARROW + 0.08, y - 2.2, "no room for\nanomalies", align="left", style="italic")
        self.arrow((NARROW, y - 1.7), (NARROW, y - 3.1), (xs[-1] + 0.55, y - 3.1))
        stages = [f"stage {k}\n{layer.split()[-2]} size" for k, layer in enumerate(reversed(layers), 1)]
        self.row(xs[::-1], y - 3.1, stages, LEARNS)

    def memory(self, start: float, x: float, end: float, y: float) -> None:
        """A memory at x below a row at height y: reads what the row has at `start`, answers at `end`, is taught."""
        half, low = np.copysign(0.42, end - start), y - 0.85
        self.arrow((start, y), (start, low), (x - half, low))
        self.box(x, low, 0.84, 0.5, "memory", LEARNS)
        self.arrow((x + half, low), (end, low), (end, y - 0.35))
        self.arrow((x, 1.5), (x, low - 0.25), style=":")

    def exemplars(self, xs: Sequence[float], layers: Sequence[str], right: float) -> None:
        """At the bottom of the page, good images through the teacher, whose levels at xs teach the memories above."""
        self.training(right, 1.85, "the memories learn to recall the teacher's levels of good images")
        for k in range(3):
            good, _, _ = picture("weave", "train", "good", k)
            self.thumbnail(0.65 + 0.1 * k, 1.25 - 0.1 * k, 0.8, good, "", zorder=2 + k)
        self.arrow((1.25, 1.15), (xs[0] - 0.5, 1.15))
        self.row(xs, 1.15, layers, FROZEN, 1.0)


def demo(*sizes: int) -> tuple[np.ndarray, list[np.ndarray]]:
    """A flawed picture and distance maps of these sizes.

    A drawing of what the maps look like, not a result: the defect's own outline at each level's size.
    """
    image, _, mask = picture("weave", "test", "hole", 1)
    outline, blurs = mask.astype(np.float32), {64: 2, 32: 8, 16: 16, 8: 24}
    blurred = [cv2.GaussianBlur(outline, (0, 0), blurs[n]) for n in sizes]
    return image, [cv2.resize(b, (n, n), interpolation=cv2.INTER_AREA) for b, n in zip(blurred, sizes, strict=True)]


def merge(maps: Sequence[np.ndarray], how: Callable = np.sum) -> np.ndarray:
    """The maps at full size, added or multiplied."""
    return how([cv2.resize(level, (256, 256)) for level in maps], axis=0)
