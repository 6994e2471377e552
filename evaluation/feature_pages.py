"""The pages visualization.py writes: one overview per image, one page per level."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from evaluation.pictures import colour_scale, heat, standing
from evaluation.score import pixel_levels
from models.detector import Detector

OUTLINE = "#00ffa0"


class LevelView(NamedTuple):
    """One level of one image: maps [C,h,w] as compared, distance [h,w], importance [C] and share as fractions.

    `model` is who the student is compared with: the teacher, mostly.
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
    image: np.ndarray
    mask: np.ndarray
    final: np.ndarray
    normal: dict[str, Any] | None  # the student's `yardstick`
    levels: list[LevelView]


def channel_importance(
    teacher: torch.Tensor, student: torch.Tensor, final: torch.Tensor, border: int = 0
) -> torch.Tensor:
    """Each channel's share of the squared difference, counted where the final map is high: [C], sums to 1.

    teacher, student [1,C,h,w], which lack `border` positions of the image on each side; final [1,1,H,W].
    """
    whole = F.adaptive_avg_pool2d(final.float(), [side + 2 * border for side in teacher.shape[-2:]])
    where = F.pad(whole, [-border] * 4).clamp_min(0)
    parts = ((teacher - student).square() * where).sum(dim=(0, 2, 3))
    return parts / parts.sum().clamp_min(torch.finfo(parts.dtype).tiny)


def level_shares(detector: Detector, distances: list[torch.Tensor], size: Sequence[int]) -> list[float]:
    """How much each level has to do with the image's score, as fractions that sum to 1 (or all 0).

    A level's part is how far, on a log scale, the map falls at its peak when that level says nothing about
    place: every position set to the level's median. Works for sums and for products of levels alike; a fall to less
    than a thousandth counts as one to a thousandth, or a level that a map of zeros depends on would be all there is.
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
    """Image, mask, each level's distance map with its share, and the final map."""
    columns = 3 + len(view.levels)
    figure = Figure(figsize=(2.6 * columns, 3.6), layout="constrained")
    axes = figure.subplots(1, columns)
    score = float(view.final.max())
    figure.suptitle(f"{view.title}     {view.method}     score {score:.4g}{standing(score, view.normal)}", fontsize=13)
    _show(axes[0], view.image, "image")
    _show(axes[1], view.image, "ground truth" if view.mask.any() else "no defect marked", view.mask)
    for axis, (k, level) in zip(axes[2:-1], enumerate(view.levels), strict=True):
        title = f"level {k + 1}: {100 * level.share:.0f} % of the score"
        title += "" if level.model == "teacher" else f"\n({level.model} and student)"
        _heat(axis, level.distance.numpy(), title, view.mask, float(level.distance.max()))
    _show(
        axes[-1],
        heat(view.final, colour_scale(view.normal or {"pixel_levels": pixel_levels(view.final)})),
        "anomaly map",
        view.mask,
    )
    figure.savefig(path, dpi=110)


def draw_level(path: Path, view: ImageView, k: int, channels: int) -> None:
    """Teacher, student and squared difference of the most important channels, beside the level's own map."""
    level = view.levels[k]
    order = level.importance.argsort(descending=True)[:channels].tolist()
    figure = Figure(figsize=(3.2 + 1.8 * len(order), 6.4), layout="constrained")
    left, right = figure.subfigures(1, 2, width_ratios=(3.2, 1.8 * len(order)))
    c, h, w = level.teacher.shape
    figure.suptitle(f"{view.title}     level {k + 1}: {c} channels of {h} x {w}     {view.method}", fontsize=13)
    for axis, part in zip(left.subplots(2, 1), ("image", "map"), strict=True):
        if part == "image":
            _show(axis, view.image, f"score {view.final.max():.4g}", view.mask)
        else:
            title = f"disagreement\n{100 * level.share:.0f} % of the score"
            _heat(axis, level.distance.numpy(), title, view.mask, float(level.distance.max()))
    _channel_rows(right.subplots(3, len(order), squeeze=False), level, order)
    figure.savefig(path, dpi=110)


def _channel_rows(axes: np.ndarray, level: LevelView, order: list[int]) -> None:
    difference = (level.teacher - level.student).square()
    hottest = float(difference[order].max()) or 1.0
    for column, channel in enumerate(order):
        t, s = level.teacher[channel].numpy(), level.student[channel].numpy()
        low, high = min(t.min(), s.min()), max(t.max(), s.max())  # one scale for both, or they cannot be compared
        for row, values in enumerate((t, s)):
            axes[row, column].imshow(values, cmap="gray", vmin=low, vmax=high)
        axes[2, column].imshow(difference[channel].numpy(), cmap="inferno", vmin=0, vmax=hottest)
        axes[0, column].set_title(f"channel {channel}\n{100 * level.importance[channel]:.1f} %", fontsize=9)
    for axis in axes.flat:
        axis.set(xticks=[], yticks=[])
    for row, name in enumerate((level.model, "student", "squared difference")):
        axes[row, 0].set_ylabel(name, fontsize=11)


def _show(axis: Axes, image: np.ndarray, title: str, mask: np.ndarray | None = None) -> None:
    axis.imshow(image, extent=(0, 1, 1, 0))
    _finish(axis, title, mask)


def _heat(axis: Axes, values: np.ndarray, title: str, mask: np.ndarray, top: float) -> None:
    axis.imshow(values, cmap="inferno", vmin=0, vmax=top or 1.0, extent=(0, 1, 1, 0))
    _finish(axis, title, mask)


def _finish(axis: Axes, title: str, mask: np.ndarray | None) -> None:
    if mask is not None and mask.any():
        y, x = ((np.arange(n) + 0.5) / n for n in mask.shape)
        axis.contour(x, y, mask, levels=[0.5], colors=OUTLINE, linewidths=1)
    axis.set_title(title, fontsize=10)
    axis.set(xticks=[], yticks=[], aspect=1 if mask is None else mask.shape[0] / mask.shape[1])
