"""From scored images to the results of a run: metrics, scores, pictures, and a table on the screen."""

from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import yaml

from datasets.dataset import ImageDataset
from datasets.fit import Fit
from datasets.sample import Sample
from evaluation.calibration import Verdict, described
from evaluation.comparison import drawn_metrics, interval
from evaluation.curves import Curve, pro
from evaluation.html_pictures import Thumbnails, thumbnails
from evaluation.html_run import Images, write_run
from evaluation.metrics import PixelMetrics, detection, per_defect
from evaluation.pictures import Overlays, draw_curves
from evaluation.resampling import Counts, ScoredImages, Scores, pixel_counts, write_counts
from evaluation.score import Scored, image_score
from evaluation.spro import SaturatedOverlap
from evaluation.summary_pictures import draw_contact, draw_rates, draw_scores
from evaluation.tables import LABELS
from utils.config import RunConfig
from utils.errors import UserError
from utils.files import read_json, replacing, write_atomic, write_csv, write_json, write_text
from utils.wording import joined


class Tested(NamedTuple):
    """Results of a test: metrics as fractions, the same per defect type, one score per image, notes on missing ones."""

    metrics: dict[str, float]
    per_defect: dict[str, dict[str, float]]
    scores: np.ndarray
    notes: list[str]
    counted: np.ndarray | None = None  # [N] bool: not images with defects only outside the region of interest
    pro: Curve | None = None  # if there are masks
    pixels: Counts | None = None  # the same


def evaluate(
    samples: Sequence[Sample], results: Iterable[Scored], notes: Sequence[str] = (), fit: Fit | None = None
) -> Tested:
    """All metrics that are possible with the data, of images that come one by one; `notes` explains missing ones.

    `fit` is how the images got the size of the maps; sPRO needs it, because it reads each defect's mask again.
    Of each image only the score is kept and, if there are masks, the pixels' values for the metrics.
    """
    types = [sample.defect_type for sample in samples]
    pixels = PixelMetrics(Counter(types)) if any(sample.mask for sample in samples) else None
    saturated = SaturatedOverlap(samples, fit) if fit and any(sample.saturation for sample in samples) else None
    scores, marked, counted = np.empty(len(samples)), np.zeros(len(samples), bool), np.ones(len(samples), bool)
    metrics, notes, covered, counts, order, any_normal = {}, list(notes), None, None, [], False
    for result in results:
        any_normal = any_normal or not (result.mask if result.region is None else result.mask | ~result.region).all()
        scores[result.index], marked[result.index] = image_score(result.anomaly_map), result.mask.any()
        if pixels:
            pixels.add(result.anomaly_map, result.mask, types[result.index], result.region)
            order.append(result.index)
        if saturated:
            saturated.add(result)
        if result.region is not None and samples[result.index].mask and not result.mask.any():
            counted[result.index] = types[result.index] == "good"
    if not np.isfinite(scores).all():
        raise UserError("image scores contain non-finite values: the network overflowed or diverged.")
    labels = np.array([name != "good" for name in types])
    if not counted.all():
        notes.append(
            f"{(~counted).sum()} defective images have no mask pixel in the region of interest at this img_size and "
            "crop_size: they do not count"
        )
    there = labels[counted]
    if there.all() or not there.any():
        lacking = "good" if there.all() else "defective"
        notes.append(f"no image metrics: there are no {lacking} test images")
    else:
        metrics |= detection(scores[counted], there)
    if not marked.any() or not any_normal:
        why = "the masks have no defective pixel" if any_normal else "every pixel that counts is defective"
        if not pixels:
            why = "there are no masks" if labels.any() else "there are no defective test images"
        notes.append(f"no pixel metrics and no AUPRO: {why}")
        pixels = None
    else:
        counts = pixel_counts(pixels, order)
        metrics |= pixels.total() | (saturated.total(pixels) if saturated else {})
        covered = pro(pixels)
        vanished = int((labels & ~marked & counted).sum())
        if vanished:
            notes.append(f"{vanished} defective images have no mask pixel at this img_size and crop_size")
    table = per_defect(scores[counted], np.array(types)[counted], pixels) if "image_auroc" in metrics else {}
    if saturated and pixels:
        table = {name: row | saturated.of_type(name, pixels) for name, row in table.items()}
    return Tested(metrics, table, scores, notes, counted, covered, counts)


def write_training_report(run_dir: Path, config: RunConfig, history: list[dict], best_epoch: dict[str, int]) -> None:
    """Write config.yaml, training.csv and training.png."""
    write_text(
        run_dir / "config.yaml", yaml.safe_dump(config.model_dump(mode="json"), sort_keys=False, allow_unicode=True)
    )
    write_csv(run_dir / "training.csv", list(history[0]), [row.values() for row in history])
    write_atomic(run_dir / "training.png", lambda path: draw_curves(path, history, best_epoch))


def test_report(
    run_dir: Path,
    dataset: ImageDataset,
    results: Iterable[Scored],
    notes: Sequence[str],
    normal: dict[str, Any] | None,
) -> tuple[Tested, Thumbnails]:
    """Evaluate, and write maps/; `normal` has the student's `normal_scores`. Returns the page's pictures, too."""
    samples = dataset.samples
    with replacing(run_dir / "maps") as folder, thumbnails(run_dir, samples) as small:
        with Overlays(folder, samples, normal, dataset.fit, small) as overlays:
            return evaluate(samples, overlays.drawn(results), notes, dataset.fit), small


def write_scores(run_dir: Path, samples: Sequence[Sample], tested: Tested, verdicts: Sequence[Verdict]) -> None:
    """Write scores.csv and pixels.npz; `verdicts` are a p-value and a decision for each image, or none at all."""
    if tested.pixels:
        write_counts(run_dir, tested.pixels)
    columns = ["path", "label", "score", *(["p_value", "decision"] if verdicts else []), "defect_type"]
    rows = [
        (str(sample.path), int(sample.defect_type != "good"), score, *verdict, sample.defect_type)
        for sample, score, verdict in zip(samples, tested.scores.tolist(), verdicts or [()] * len(samples), strict=True)
    ]
    write_csv(run_dir / "scores.csv", columns, rows)


def intervals(samples: Sequence[Sample], tested: Tested, category: str) -> dict[str, tuple[float, float]]:
    """Of each metric over test images: lower and upper end."""
    types = np.array([sample.defect_type for sample in samples])
    scores = Scores(tested.scores, types != "good") if tested.counted.all() else None
    drawn = drawn_metrics(ScoredImages(types, scores, tested.pixels), category)
    return {name: interval(drawn[name]) for name in tested.metrics if name in drawn}


def write_pages(
    run_dir: Path,
    samples: Sequence[Sample],
    tested: Tested,
    small: Thumbnails,
    verdicts: Sequence[Verdict],
    about: dict[str, Any],
) -> None:
    """Write report.html, and for those who open only the folder scores.png, curves.png and contact.png."""
    report = _found(tested) | about
    images = Images(samples, tested.scores, tested.counted, [decision for _, decision in verdicts])
    threshold = (report["decisions"] or {}).get("threshold")
    write_atomic(run_dir / "scores.png", lambda path: draw_scores(path, *images.groups, threshold))
    if tested.metrics:
        write_atomic(run_dir / "curves.png", lambda path: draw_rates(path, *images.groups, tested.pro))
    else:
        (run_dir / "curves.png").unlink(missing_ok=True)  # of an earlier test
    write_atomic(run_dir / "contact.png", lambda path: draw_contact(path, samples, tested.scores, small))
    write_run(run_dir / "report.html", images, small, tested.pro, report)


def write_metrics(run_dir: Path, tested: Tested, about: dict[str, Any]) -> None:
    """Write metrics.json: the results of the test, and `about`, the facts about the run."""
    write_json(run_dir / "metrics.json", _found(tested) | about)


def _found(tested: Tested) -> dict[str, Any]:
    return {"metrics": tested.metrics, "per_defect": tested.per_defect, "notes": tested.notes}


def summary_of_several(run_dirs: Sequence[Path]) -> str:
    """The metrics of finished tests, one line each, and their means, as a table for the screen."""
    rows = {folder.name: report_of(folder)["metrics"] for folder in run_dirs}
    values = {key: [row[key] for row in rows.values() if key in row] for key in LABELS}
    means = {key: sum(found) / len(found) for key, found in values.items() if len(found) == len(rows)}
    return "\n".join(["", *_table(rows | {"mean": means}, "category")])


def report_of(run_dir: Path) -> dict[str, Any]:
    """The contents of metrics.json."""
    return read_json(run_dir / "metrics.json")


def summary(run_dir: Path) -> str:
    """The metrics of a finished test as a table for the screen."""
    report = report_of(run_dir)
    config, metrics = report["config"], report["metrics"]
    weights = ", ".join(each["package"] or each["weights"] for each in report["teachers"])
    lines = [
        "",
        f"{config['obj']}   {config['distillType']}   {joined(config['backbone'])}   teacher weights: {weights}",
        "",
    ]
    lines += [f"  {LABELS[key]:<14}{value:8.4f}" for key, value in metrics.items()]
    if report["per_defect"]:
        lines += ["", *_table(report["per_defect"], "defect")]
    if report.get("decisions"):
        lines += ["", *(f"  {line}" for line in described(report["decisions"]))]
    lines += [f"  {note}" for note in report["notes"]]
    lines += ["", f"  pictures, scores and metrics: {run_dir}", f"  all of it on one page: {run_dir}/report.html"]
    return "\n".join(lines)


def _table(rows: dict[str, dict[str, float]], what: str) -> list[str]:
    """A line per defect type or category; a cell is empty if it lacks the metric (its masks were cropped away)."""
    width = max(len(what), *map(len, rows)) + 2
    keys = list(dict.fromkeys(key for row in rows.values() for key in row))
    lines = [what.ljust(width) + "".join(LABELS.get(key, key).rjust(13) for key in keys)]
    for name, row in rows.items():
        cells = {key: f"{row[key]:.4f}" if isinstance(row[key], float) else str(row[key]) for key in row}
        lines.append(name.ljust(width) + "".join(cells.get(key, "").rjust(13) for key in keys))
    return ["  " + line for line in lines]
