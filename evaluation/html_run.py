"""The page of a test: summary, scores with a threshold to move, curves, all images, and what repeats the run."""

import os
import shlex
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import quote

import numpy as np
import yaml

from datasets.sample import Sample
from evaluation.calibration import described
from evaluation.colours import Scale, colour_scale
from evaluation.comparison import COVERED
from evaluation.curves import Curve, best_threshold, plots, steps
from evaluation.fonts import printable
from evaluation.html import write_page
from evaluation.html_charts import Axis, bars, line
from evaluation.html_pictures import Thumbnails
from evaluation.tables import LABELS
from utils.command import ROOT

WIDTH, HALF = 560, 100  # units of the histogram: its width, and the height of its bars on either side
SQUARE = 240  # units: the side of a curve's plot
PLAIN_VIEWS = ("image", "mask", "map")  # the others are the levels


class Images(NamedTuple):
    """The images of a test: their scores [N], which of them count [N] bool, and their decisions, or none."""

    samples: Sequence[Sample]
    scores: np.ndarray
    counted: np.ndarray
    decisions: Sequence[str] = ()

    @property
    def groups(self) -> tuple[np.ndarray, np.ndarray]:
        """The scores that count: of good and of defective images."""
        defective = np.array([sample.defect_type != "good" for sample in self.samples])
        return self.scores[self.counted & ~defective], self.scores[self.counted & defective]


def write_run(path: Path, images: Images, thumbnails: Thumbnails, pro: Curve | None, report: dict[str, Any]) -> None:
    """`pro` is the PRO curve if there are masks, `report` the contents of metrics.json."""
    good, defective = images.groups
    threshold = (report["decisions"] or {}).get("threshold")
    start, why = _start(good, defective, threshold)
    if (report["decisions"] or {}).get("review_rate") is not None:
        why += " Images for review count as not rejected here."
    axis = Axis.of([*images.scores.tolist(), start], 40, WIDTH - 16)
    views = sorted({view for each in thumbnails.views for view in each}, key=_place)
    write_page(
        path,
        "run.html",
        report=report,
        title=f"{report['config']['obj']} · {report['config']['distillType']}",
        teachers=[f"{each['backbone']} ({each['package'] or each['weights']})" for each in report["teachers"]],
        labels=LABELS,
        covered=COVERED,
        per_defect_columns=list(dict.fromkeys(key for row in report["per_defect"].values() for key in row)),
        promise=described(report["decisions"]) if report["decisions"] else [],
        counts=(len(good), len(defective)),
        types=_types(images.samples),
        why=why,
        histogram=_histogram(good, defective, axis),
        curves=_curves(good, defective, pro, report["metrics"]),
        views=views,
        legends=_legends(report["good_scores"], thumbnails.level_scales),
        data={
            "images": [*_shown(images, thumbnails)],
            "views": views,
            "start": start,
            "axis": axis._asdict(),
        },
        settings=yaml.safe_dump(report["config"], sort_keys=False, allow_unicode=True),
        command=_command(report["folder"]),
    )


def _place(view: str) -> tuple[int, str]:
    return (PLAIN_VIEWS.index(view) if view in PLAIN_VIEWS else len(PLAIN_VIEWS), view)


def _types(samples: Sequence[Sample]) -> list[str]:
    """The defect types, good first."""
    return sorted({printable(sample.defect_type) for sample in samples}, key=lambda name: (name != "good", name))


def _start(good: np.ndarray, defective: np.ndarray, calibrated: float | None) -> tuple[float, str]:
    """Where the threshold starts, and a sentence that says why."""
    if calibrated is not None:
        return calibrated, "The threshold starts at that of the calibration."
    if len(good) and len(defective):
        labels = np.repeat([False, True], [len(good), len(defective)])
        return best_threshold(steps(np.r_[good, defective], labels)), (
            "This run has no calibrated threshold, so the threshold starts where the F1 score of these test images is "
            "highest. Do not use this value for new parts: it was chosen on these images."
        )
    return float(max([*good, *defective], default=0)), "The threshold starts at the highest score of the test images."


def _shown(images: Images, thumbnails: Thumbnails) -> Iterator[dict[str, Any]]:
    """What the gallery knows of each image."""
    each = zip(images.samples, images.scores.tolist(), images.counted.tolist(), strict=True)
    for index, (sample, score, counts) in enumerate(each):
        yield {
            "name": printable(sample.name),
            "type": printable(sample.defect_type),
            "defective": sample.defect_type != "good",
            "score": score,
            "counts": counts,
            "decision": images.decisions[index] if len(images.decisions) else "",
            "pictures": thumbnails.sources(index),
            "size": thumbnails.sizes[index],
            "page": "maps/" + quote(os.fsencode(f"{sample.name}.png")),
        }


def _histogram(good: np.ndarray, defective: np.ndarray, axis: Axis) -> dict[str, Any]:
    """Bars of the good images above the middle line, of the defective ones below it."""
    above, below = bars((good, defective), axis, HALF)
    most = max((bar.count for bar in above + below), default=0)
    shape = {"width": WIDTH, "half": HALF, "axis": axis, "ticks": axis.ticks(8)}
    return shape | {"good": above, "defective": below, "most": most}


class Drawn(NamedTuple):
    """A curve to draw: its name, its metric, what the axes are, and the points of its line."""

    key: str
    title: str
    metric: str
    x: str
    y: str
    points: str
    ticks: tuple[list[tuple[float, str]], list[tuple[float, str]]]


def _curves(good: np.ndarray, defective: np.ndarray, pro: Curve | None, metrics: dict[str, float]) -> list[Drawn]:
    drawn = []
    for key, title, metric, x, y, curve, limit in plots(good, defective, pro):
        axes = Axis(0, limit, 0, SQUARE), Axis(0, 1, SQUARE, 0)
        text = f"{LABELS[metric]} {metrics[metric]:.4f}"
        drawn.append(Drawn(key, title, text, x, y, line(curve, *axes), tuple(axis.ticks(5) for axis in axes)))
    return drawn


def _legends(normal: dict[str, Any] | None, levels: Sequence[Scale]) -> dict[str, dict[str, Any]]:
    """What the colours mean, by view: with ticks if they mean the same in all pictures."""
    own = colour_scale(None, np.zeros((1, 1))).meaning  # of a picture whose colours only compare its own values
    scales = {"map": colour_scale(normal, np.zeros((1, 1)))} | {f"level {k + 1}": each for k, each in enumerate(levels)}
    return {
        view: {
            "ticks": [] if scale.meaning == own else [*zip(scale.positions, scale.ticks, strict=True)],
            "meaning": " ".join(scale.meaning),
        }
        for view, scale in scales.items()
    }


def _command(folder: str) -> str:
    """Train and test again, with the same configuration, into another folder."""
    script = "trainNet.py" if Path("trainNet.py").exists() else str(ROOT / "trainNet.py")
    config = shlex.quote(f"{folder}/config.yaml")
    return f"cd {shlex.quote(str(Path.cwd()))}\npython3 {shlex.quote(script)} --config {config} save_path=repeated"
