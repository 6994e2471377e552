"""Draw the figures of the README: python3 images/draw.py writes one PNG per method beside this file."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

import cv2
import matplotlib

matplotlib.use("Agg")

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes
from matplotlib.patches import FancyArrowPatch, FancyBboxPatch

from datasets.demo import picture

FROZEN, LEARNS = "#cfe2f3", "#fce5cd"
FOLDER = Path(__file__).parent


def canvas(width: float, height: float) -> tuple[plt.Figure, Axes]:
    """An empty page whose coordinates are inches."""
    figure, axis = plt.subplots(figsize=(width, height))
    axis.set(xlim=(0, width), ylim=(0, height), aspect="equal")
    axis.axis("off")
    figure.subplots_adjust(0, 0, 1, 1)
    return figure, axis


def box(axis: Axes, x: float, y: float, width: float, height: float, text: str, colour: str) -> None:
    """A rounded box with its centre at (x, y)."""
    shape = FancyBboxPatch(
        (x - width / 2, y - height / 2),
        width,
        height,
        boxstyle="round,pad=0,rounding_size=0.08",
        fc=colour,
        ec="#444444",
    )
    axis.add_patch(shape)
    axis.text(x, y, text, ha="center", va="center", fontsize=10)


def arrow(axis: Axes, start: tuple[float, float], end: tuple[float, float], style: str = "-") -> None:
    axis.add_patch(
        FancyArrowPatch(
            start, end, arrowstyle="-|>", mutation_scale=12, color="#444444", linestyle=style, shrinkA=0, shrinkB=0
        )
    )


def thumbnail(axis: Axes, x: float, y: float, side: float, image: np.ndarray, label: str) -> None:
    """A picture with its centre at (x, y) and a label below; maps [h,w] are shown as heat."""
    extent = (x - side / 2, x + side / 2, y - side / 2, y + side / 2)
    axis.imshow(image, extent=extent, cmap="inferno", interpolation="nearest", zorder=2)
    axis.text(x, y - side / 2 - 0.16, label, ha="center", va="center", fontsize=9)


def stpm() -> None:
    """Two equal networks see the image; where their feature pyramids differ, level by level, is multiplied."""
    figure, axis = canvas(11.4, 5.0)
    image, _, mask = picture("weave", "test", "hole", 1)
    thumbnail(axis, 0.95, 2.5, 1.5, image, "image")
    # A drawing of what the maps look like, not a result: the defect's own outline at each level's size.
    levels = [
        cv2.resize(cv2.GaussianBlur(mask.astype(np.float32), (0, 0), s), (n, n), interpolation=cv2.INTER_AREA)
        for n, s in ((64, 2), (32, 8), (16, 16))
    ]
    for y, colour, name in (
        (4.2, FROZEN, "teacher (pretrained, frozen)"),
        (0.8, LEARNS, "student (from scratch, learns)"),
    ):
        axis.text(3.2, y + (0.55 if y > 2 else -0.55), name, ha="left", va="center", fontsize=11)
        arrow(axis, (1.72, 2.5), (2.5, y))
        box(axis, 2.8, y, 0.6, 0.7, "stem", colour)
        for k in range(3):
            arrow(axis, (3.1 + 1.75 * k, y), (3.75 + 1.75 * k, y))
            box(axis, 4.3 + 1.75 * k, y, 1.1, 0.7, f"layer{k + 1}\n1/{4 * 2**k} size", colour)
    for k, level in enumerate(levels):
        x = 4.3 + 1.75 * k
        arrow(axis, (x, 3.85), (x, 3.05), "--")
        arrow(axis, (x, 1.15), (x, 1.7), "--")
        thumbnail(axis, x, 2.5, 1.05, level, f"distance, level {k + 1}")
        sign = "×" if k < 2 else "="
        axis.text(x + 0.87, 2.5, sign, ha="center", va="center", fontsize=20)
    product = np.prod([cv2.resize(level, (256, 256)) for level in levels], axis=0)
    thumbnail(axis, 10.1, 2.5, 1.9, product, "anomaly map; score = its maximum")
    figure.savefig(FOLDER / "stpm.png", dpi=110)
    plt.close(figure)


if __name__ == "__main__":
    stpm()
