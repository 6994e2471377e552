"""The pictures that sum up a test: its scores, its curves, and a contact sheet."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from PIL import Image, ImageOps

from datasets.sample import Sample
from evaluation.curves import Curve, plots
from evaluation.fonts import STANDARD, Fonts, shortened
from evaluation.html_charts import BINS, Axis
from evaluation.html_pictures import Thumbnails
from evaluation.pictures import assembled, text_line

GOOD, DEFECTIVE = "#0072b2", "#d55e00"  # blue and vermillion, which colour-blind people can tell apart
CELL = 150  # pixels: the longest side of a picture on the contact sheet


def draw_scores(path: Path, good: np.ndarray, defective: np.ndarray, threshold: float | None) -> None:
    """Histogram of the scores of good and defective images; `threshold` is that of the calibration."""
    found = [*good, *defective, *([] if threshold is None else [threshold])]
    axis = Axis.of(found or [0.0], 0, 1)
    edges = [axis.value(k / BINS) for k in range(BINS + 1)]
    figure = Figure(figsize=(7, 4), layout="constrained")
    axes = figure.subplots()
    for scores, name, colour in ((good, "good", GOOD), (defective, "defective", DEFECTIVE)):
        axes.hist(scores, edges, color=colour, alpha=0.65, label=f"{name} ({len(scores)})")
    if threshold is not None:
        axes.axvline(threshold, color="black", linestyle="--", label=f"calibrated threshold {threshold:.4g}")
    axes.set_xscale("log" if axis.log else "linear")
    axes.set_xlabel("score: the highest value of the anomaly map")
    axes.set_ylabel("test images")
    axes.yaxis.set_major_locator(MaxNLocator(integer=True))
    axes.legend(loc="upper right")
    figure.savefig(path, dpi=120)


def draw_rates(path: Path, good: np.ndarray, defective: np.ndarray, pro: Curve | None) -> None:
    """ROC, precision over recall and PRO: those that are possible with the data, at least one."""
    found = plots(good, defective, pro)
    figure = Figure(figsize=(4 * len(found), 4), layout="constrained")
    for axes, plot in zip(figure.subplots(1, len(found), squeeze=False)[0], found, strict=True):
        axes.plot(plot.curve.x, plot.curve.y, color=GOOD)
        axes.set(title=plot.title, xlabel=plot.x, ylabel=plot.y, xlim=(0, plot.limit), ylim=(0, 1.02))
        axes.grid(alpha=0.3)
    figure.savefig(path, dpi=120)


def draw_contact(path: Path, samples: Sequence[Sample], scores: np.ndarray, thumbnails: Thumbnails) -> None:
    """A row for each defect type and the good images: the worst, the median and the best with their maps.

    The worst good image has the highest score of them, the worst defective one the lowest.
    """
    fonts = Fonts(sample.name for sample in samples)
    types = sorted({sample.defect_type for sample in samples}, key=lambda name: (name != "good", name))
    rows = []
    for defect_type in types:
        own = [k for k in np.argsort(scores) if samples[k].defect_type == defect_type]
        cells = [_cell(what, samples[k], scores[k], thumbnails, k, fonts) for what, k in _chosen(own, defect_type)]
        rows.append(assembled(cells, 20, down=False))
    ImageOps.expand(assembled(rows, 18, down=True), 12, "white").save(path)


def _chosen(own: Sequence[int], defect_type: str) -> list[tuple[str, int]]:
    """The worst, median and best of images in the order of their scores; each only once."""
    worst_first = own[::-1] if defect_type == "good" else own
    places = [("worst", 0)]
    places += [("median", len(own) // 2)] if len(own) > 2 else []
    places += [("best", len(own) - 1)] if len(own) > 1 else []
    return [(what, worst_first[place]) for what, place in places]


def _cell(what: str, sample: Sample, score: float, thumbnails: Thumbnails, index: int, fonts: Fonts) -> Image.Image:
    """Image and map with the outline of the mask, below a line of text."""
    panels = []
    for view in ("image", "map"):
        panel = thumbnails.picture(index, view).convert("RGB")
        if "mask" in thumbnails.views[index]:
            outline = thumbnails.picture(index, "mask")
            panel.paste(outline, mask=outline.getchannel("A"))
        panel.thumbnail((CELL, CELL))
        panels.append(panel)
    panels = assembled(panels, 4, down=False)
    width = 2 * CELL + 4
    name = fonts.best(sample.name).at(13)
    words = [
        text_line(shortened(sample.name, width, name), name),
        text_line(f"{what}, score {score:.4g}", STANDARD.at(11)),
    ]
    cell = Image.new("RGB", (width, panels.height + 40), "white")
    for place, part in ((0, words[0]), (19, words[1]), (38, panels)):
        cell.paste(part, (0, place))
    return cell
