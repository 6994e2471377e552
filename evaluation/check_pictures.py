"""The pages of checkData.py: copies side by side, the strangest good pictures, and what shortcuts there are."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from PIL import Image

from datasets.doctor.copies import Pair, across, contradict, telling
from datasets.doctor.facts import Facts
from datasets.doctor.findings import names
from datasets.images import eight_bits, read_image
from evaluation.fonts import Fonts, printable, save
from evaluation.outliers import Stranger
from evaluation.shortcuts import SCORES
from utils.errors import UserError

THUMB = 320  # pixels: the longer side of a picture on a page
PAIRS = 4  # shown of each sort
STRANGEST = 12  # pictures shown
DPI = 100
LONGEST = 42  # letters of a name below a picture
GROUPS = {"train/good": "tab:blue", "test/good": "tab:green", "defective": "tab:red"}


def draw_copies(path: Path, facts: Sequence[Facts], pairs: Sequence[Pair], root: Path) -> None:
    """Some pairs of each sort, the worst sort first: two pairs in a row."""
    chosen = _sorts(facts, pairs)
    figure = Figure(figsize=(12, 2.6 * -(-len(chosen) // 2)), layout="constrained")
    cells = figure.subplots(-(-len(chosen) // 2), 4, squeeze=False).reshape(-1, 2)
    for pair, what, axes in zip(*zip(*chosen, strict=True), cells, strict=False):
        alike = "the same pixels" if pair.exact else f"likeness {pair.likeness:.2f}"
        for place, axis, title in zip(pair[:2], axes, (what, alike), strict=True):
            _show(axis, facts[place].picture.path, root, title)
    for axis in cells[len(chosen) :].flat:
        axis.axis("off")
    save(figure, path, DPI)


def _sorts(facts: Sequence[Facts], pairs: Sequence[Pair]) -> list[tuple[Pair, str]]:
    """The pairs to show, and what they are."""
    sorts: dict[str, list[Pair]] = {
        "train and test": [],
        "good and defective": [],
        "within train": [],
        "within test": [],
    }
    for pair in pairs:
        if across(pair, facts):
            sorts["train and test"].append(pair)
        elif contradict(pair, facts):
            sorts["good and defective"].append(pair)
        else:
            sorts["within test" if facts[pair.first].picture.split == "test" else "within train"].append(pair)
    return [(pair, what) for what, found in sorts.items() for pair in telling(found)[:PAIRS]]


def draw_strangers(path: Path, found: Sequence[Stranger], far: int, root: Path) -> None:
    """The pictures with the highest scores; the first `far` are outliers."""
    shown = found[:STRANGEST]
    figure = Figure(figsize=(12, 3.2 * -(-len(shown) // 4)), layout="constrained")
    axes = figure.subplots(-(-len(shown) // 4), 4, squeeze=False)
    for k, (each, axis) in enumerate(zip(shown, axes.flat, strict=False)):
        mark = "OUTLIER: " if k < far else ""
        _show(axis, each.path, root, f"{mark}{each.times:.2f} x the median")
    for axis in axes.flat[len(shown) :]:
        axis.axis("off")
    save(figure, path, DPI)


def draw_shortcuts(path: Path, facts: Sequence[Facts]) -> None:
    """Histograms of the scores that know nothing of defects, for good and defective pictures."""
    readable = [each for each in facts if each.error is None and each.picture.split != "validation"]
    groups: dict[str, list[Facts]] = {name: [] for name in GROUPS}
    for each in readable:
        good = each.picture.defect_type == "good"
        groups[f"{each.picture.split}/good" if good else "defective"].append(each)
    scores = {name: score for name, score in SCORES.items() if len({score(each) for each in readable}) > 1}
    figure = Figure(figsize=(12, 2.8), layout="constrained")
    for axis, (name, score) in zip(figure.subplots(1, len(scores), squeeze=False)[0], scores.items(), strict=True):
        values = {group: [score(each) for each in found] for group, found in groups.items() if found}
        every = np.concatenate(list(values.values()))
        bins = np.linspace(every.min(), every.max(), 25)
        for group, of in values.items():
            weights = np.full(len(of), 1 / len(of))
            axis.hist(of, bins, weights=weights, histtype="step", linewidth=1.5, color=GROUPS[group], label=group)
        axis.set_title(name)
        axis.set_yticks([])
        axis.tick_params(labelsize=8)
    figure.legend(*axis.get_legend_handles_labels(), loc="outside lower center", ncols=3)
    save(figure, path, DPI)


def _show(axis: Axes, path: Path, root: Path, title: str) -> None:
    """A picture, its name below it; of a file that is gone, only the name."""
    name = printable(names([path], root)[0])
    short = name if len(name) <= LONGEST else f"…{name[1 - LONGEST :]}"
    axis.set(xticks=[], yticks=[])
    try:
        picture = Image.fromarray(eight_bits(read_image(path)))
        picture.thumbnail((THUMB, THUMB))
        axis.imshow(picture)
    except UserError:
        title = "the file is gone"
    axis.set_title(title, fontsize=9)
    axis.set_xlabel(short, fontsize=7, fontfamily=Fonts([short]).best(short).family, parse_math=False)
