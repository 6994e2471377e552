"""The pages that visualization.py writes: one overview per image, one page per level."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Normalize
from matplotlib.figure import Figure, SubFigure
from matplotlib.ticker import MaxNLocator

from evaluation.colours import Scale, colour_scale
from evaluation.fonts import STANDARD, Fonts, save, shortened
from evaluation.pictures import standing
from evaluation.score import image_score
from models.detector import Detector

OUTLINE = "#00ffa0"
DPI = 110
LEAST_WIDTH = 6.5  # inches, for the title


class LevelView(NamedTuple):
    """One level of one image: maps [C,h,w] as compared, distance [h,w], importance [C] and share as fractions.

    `model` is the network that the student is compared with, usually the teacher.
    """

    model: str
    teacher: torch.Tensor
    student: torch.Tensor
    distance: torch.Tensor
    importance: torch.Tensor
    share: float


class ImageView(NamedTuple):
    """One image: [H,W,3] uint8, its mask [H,W] bool, its final map [H,W], and its levels."""

    title: str
    method: str
    aspect: float  # width / height of the image's content, before it was resized to H x W
    image: np.ndarray
    mask: np.ndarray
    final: np.ndarray
    normal: dict[str, Any] | None  # the student's `normal_scores`
    levels: list[LevelView]


def channel_importance(
    teacher: torch.Tensor, student: torch.Tensor, final: torch.Tensor, margin: int = 0
) -> torch.Tensor:
    """Each channel's share of the squared difference, weighted by the final map: [C], sums to 1.

    teacher, student [1,C,h,w], without `margin` positions of the image on each side; final [1,1,H,W].
    """
    whole = F.adaptive_avg_pool2d(final.float(), [side + 2 * margin for side in teacher.shape[-2:]])
    where = F.pad(whole, [-margin] * 4).clamp_min(0)
    parts = ((teacher - student).square() * where).sum(dim=(0, 2, 3))
    return parts / parts.sum().clamp_min(torch.finfo(parts.dtype).tiny)


def level_shares(detector: Detector, distances: list[torch.Tensor], size: Sequence[int]) -> list[float]:
    """How much each level contributes to the image's score, as fractions that sum to 1 (or all 0).

    A level's part is how much the map falls at its peak, on a log scale, when all positions of the level are set to
    its median. This works for sums and for products of levels. A fall to less than a thousandth counts as a fall to
    a thousandth; otherwise a level that makes the whole map zero would get the whole share.
    """
    final = detector.final_map(distances, size)
    peak = final.argmax()
    tiny = torch.finfo(torch.float32).tiny
    floor = max(1e-3 * final.max().item(), tiny)
    drops = []
    for k, distance in enumerate(distances):
        flat = [*distances[:k], torch.full_like(distance, distance.float().median().item()), *distances[k + 1 :]]
        without = detector.final_map(flat, size).flatten()[peak]
        drops.append((final.max().clamp_min(tiny) / without.clamp_min(floor)).log().clamp_min(0).item())
    return [drop / sum(drops) if sum(drops) else 0.0 for drop in drops]


def draw_overview(path: Path, view: ImageView) -> None:
    """Image, mask if there is one, each level's distance map with its share, and the final map."""
    panels = 2 + bool(view.mask.any()) + len(view.levels)
    wide = view.aspect > 2  # then the panels are one below the other
    width, height = _panel_inches(view)
    size = (width + 1.4, panels * (height + 0.5) + 1.2) if wide else (panels * (width + 0.8), height + 1.8)
    figure = Figure(figsize=(max(size[0], LEAST_WIDTH), size[1]), layout="compressed")
    axes = iter(figure.subplots(*((panels, 1) if wide else (1, panels))))
    score = image_score(view.final)
    _title(figure, view, f"{view.method}\nscore {score:.4g}{standing(score, view.normal)}")
    _show(next(axes), view, "image")
    if view.mask.any():
        _show(next(axes), view, "marked defect", outline=True)
    for k, level in enumerate(view.levels):
        models = "" if level.model == "teacher" else f" ({level.model} and student)"
        _level_map(next(axes), view, level, f"level {k + 1}{models}")
    scale = colour_scale(view.normal, view.final)
    _final_map(next(axes), view, scale)
    figure.supxlabel("\n".join(["Anomaly map:", *scale.meaning]), fontsize=9, x=0.01, ha="left")
    save(figure, path, DPI)


def draw_level(path: Path, view: ImageView, k: int, channels: int) -> None:
    """Teacher, student and squared difference of the most important channels, beside the level's own map."""
    level = view.levels[k]
    order = level.importance.argsort(descending=True)[:channels].tolist()
    width, height = (side * 0.7 for side in _panel_inches(view))
    parts = (max(2 * width, 2), max(width, 0.7) * len(order) + 1)
    figure = Figure(figsize=(max(sum(parts), LEAST_WIDTH), 3 * height + 2.6), layout="constrained")
    left, right = figure.subfigures(1, 2, width_ratios=parts)
    c, h, w = level.teacher.shape
    _title(
        figure, view, f"{view.method}\nlevel {k + 1}: {c} channels of {h} x {w}     score {image_score(view.final):.4g}"
    )
    above, below = left.subplots(2, 1)
    _show(above, view, "marked defect" if view.mask.any() else "image", outline=True)
    _level_map(below, view, level, "distance", bar="bottom")
    _channel_rows(right, right.subplots(3, len(order), squeeze=False), view, level, order)
    save(figure, path, DPI)


def _panel_inches(view: ImageView) -> tuple[float, float]:
    """(width, height) of the picture in a panel: always the same area."""
    return 2.3 * view.aspect**0.5, 2.3 / view.aspect**0.5


def _title(figure: Figure, view: ImageView, facts: str) -> None:
    """The image's name, shortened to the page width, and `facts` below it."""
    points, font = 12, Fonts([view.title]).best(view.title)
    name = shortened(view.title, 0.9 * figure.get_figwidth() * DPI, font.at(points * DPI / 72))
    families = [STANDARD.family, font.family]
    # A name with dollar signs is not a formula.
    figure.suptitle(f"{name}\n{facts}", fontsize=points, fontfamily=families, parse_math=False)


def _level_map(axis: Axes, view: ImageView, level: LevelView, title: str, bar: str = "right") -> None:
    top = float(level.distance.max()) or 1.0
    picture = axis.imshow(level.distance.numpy(), cmap="inferno", vmin=0, vmax=top, extent=(0, 1, 1, 0))
    axis.figure.colorbar(picture, ax=axis, ticks=MaxNLocator(4), location=bar)
    _finish(axis, view, f"{title}\n{100 * level.share:.0f} % of the score", outline=True)


def _final_map(axis: Axes, view: ImageView, scale: Scale) -> None:
    axis.imshow(scale.colour(view.final), extent=(0, 1, 1, 0))
    bar = axis.figure.colorbar(ScalarMappable(Normalize(0, 1), "inferno"), ax=axis)
    bar.set_ticks(scale.positions, labels=scale.ticks)
    row, column = np.unravel_index(view.final.argmax(), view.final.shape)
    place = (column + 0.5) / view.final.shape[1], (row + 0.5) / view.final.shape[0]
    axis.plot(*place, marker="o", markersize=12, markerfacecolor="none", markeredgecolor="white", clip_on=False)
    _finish(axis, view, "anomaly map\n(ring: highest value)", outline=True)


def _channel_rows(figure: SubFigure, axes: np.ndarray, view: ImageView, level: LevelView, order: list[int]) -> None:
    difference = (level.teacher - level.student).square()
    hottest = float(difference[order].max()) or 1.0
    for column, channel in enumerate(order):
        t, s = level.teacher[channel].numpy(), level.student[channel].numpy()
        low, high = min(t.min(), s.min()), max(t.max(), s.max())  # one scale for both, so that they can be compared
        for row, values in enumerate((t, s)):
            axes[row, column].imshow(values, cmap="gray", vmin=low, vmax=high, extent=(0, 1, 1, 0))
        picture = axes[2, column].imshow(
            difference[channel].numpy(), cmap="inferno", vmin=0, vmax=hottest, extent=(0, 1, 1, 0)
        )
        axes[0, column].set_title(f"channel {channel}\n{100 * level.importance[channel]:.1f} %", fontsize=9)
    figure.colorbar(picture, ax=axes[2], ticks=MaxNLocator(4))
    for axis in axes.flat:
        axis.set(xticks=[], yticks=[], aspect=1 / view.aspect)
    for row, name in enumerate((level.model, "student", "squared difference")):
        axes[row, 0].set_ylabel(name, fontsize=10)


def _show(axis: Axes, view: ImageView, title: str, outline: bool = False) -> None:
    axis.imshow(view.image, extent=(0, 1, 1, 0))
    _finish(axis, view, title, outline)


def _finish(axis: Axes, view: ImageView, title: str, outline: bool) -> None:
    if outline and view.mask.any():
        y, x = ((np.arange(n) + 0.5) / n for n in view.mask.shape)
        axis.contour(x, y, view.mask, levels=[0.5], colors=OUTLINE, linewidths=1)
    axis.set_title(title, fontsize=10)
    axis.set(xticks=[], yticks=[], aspect=1 / view.aspect)
