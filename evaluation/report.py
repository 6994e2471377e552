"""From anomaly maps to what a run leaves behind: figures, scores, pictures, and a table on the screen."""

import json
import platform
import shutil
from datetime import datetime
from pathlib import Path
from typing import Any, NamedTuple

import cv2
import numpy as np
import PIL
import timm
import torch
import yaml

from datasets.dataset import MVTecDataset, Sample
from engine.device import hardware
from evaluation.metrics import detection, per_defect, segmentation
from evaluation.pictures import draw_curves, write_overlays
from utils.config import Config, joined
from utils.files import replace_folder, write_atomic, write_csv, write_json, write_text

LABELS = {
    "image_auroc": "image AUROC",
    "image_ap": "image AP",
    "image_f1max": "image F1-max",
    "pixel_auroc": "pixel AUROC",
    "pixel_ap": "pixel AP",
    "pixel_f1max": "pixel F1-max",
    "aupro": "AUPRO@0.3",
}


class Result(NamedTuple):
    """What a test found: fractions by name, the same per defect type, one score per image, what is missing."""

    figures: dict[str, float]
    per_defect: dict[str, dict[str, float]]
    scores: np.ndarray
    notes: list[str]


def evaluate(samples: list[Sample], maps: np.ndarray, masks: np.ndarray, notes: list[str]) -> Result:
    """Maps [N,H,W] float32 and masks [N,H,W] bool -> the figures the data allow; `notes` says what they do not."""
    kinds = [sample.kind for sample in samples]
    scores = maps.max(axis=(1, 2))
    labels = np.array([kind != "good" for kind in kinds])
    figures, notes = {}, list(notes)
    if labels.all() or not labels.any():
        lacking = "good" if labels.all() else "defective"
        notes.append(f"no image figures: there are no {lacking} test images to tell apart")
    else:
        figures |= detection(scores, labels)
    if not masks.any():
        why = "the masks in ground_truth hold no defective pixel"
        if not any(sample.mask for sample in samples):
            why = "there are no masks in ground_truth" if labels.any() else "nothing is defective"
        notes.append(f"no pixel figures and no AUPRO: {why}")
    else:
        figures |= segmentation(maps, masks)
        vanished = int((labels & ~masks.any(axis=(1, 2))).sum())
        if vanished:
            notes.append(f"{vanished} defective images have no mask pixel at this img_size and crop_size")
    table = per_defect(scores, maps, masks if masks.any() else None, kinds) if "image_auroc" in figures else {}
    return Result(figures, table, scores, notes)


def write_training_report(run_dir: Path, config: Config, history: list[dict], best_epoch: dict[str, int]) -> None:
    """config.yaml, training.csv and its plot."""
    write_text(run_dir / "config.yaml", yaml.safe_dump(config.model_dump(mode="json"), sort_keys=False))
    write_csv(run_dir / "training.csv", list(history[0]), [row.values() for row in history])
    write_atomic(run_dir / "training.png", lambda path: draw_curves(path, history, best_epoch))


def write_test_report(
    trainer, dataset: MVTecDataset, maps: np.ndarray, masks: np.ndarray, result: Result, seconds: float
) -> None:
    """metrics.json, scores.csv and maps/."""
    run_dir, normal = trainer.run_dir, trainer.record.get("normal")
    rows = [
        (str(sample.path), int(sample.kind != "good"), float(score))
        for sample, score in zip(dataset.samples, result.scores, strict=True)
    ]
    write_csv(run_dir / "scores.csv", ["path", "label", "score"], rows)
    replace_folder(run_dir / "maps", lambda folder: write_overlays(folder, dataset, maps, masks, normal))
    write_json(run_dir / "metrics.json", _report(trainer, result, seconds))


def remove_test_report(run_dir: Path) -> None:
    """Take away what describes a student that is about to be replaced."""
    for name in ("metrics.json", "scores.csv"):
        (run_dir / name).unlink(missing_ok=True)
    for name in ("maps", "features"):
        shutil.rmtree(run_dir / name, ignore_errors=True)


def _report(trainer, result: Result, seconds: float) -> dict[str, Any]:
    packages = {"torch": torch, "timm": timm, "numpy": np, "opencv": cv2, "pillow": PIL}
    return {
        "metrics": result.figures,
        "per_defect": result.per_defect,
        "notes": result.notes,
        "teacher": {"weights": trainer.record["weights"], "sha256": trainer.record["teacher"]},
        "seed": trainer.record["settings"]["seed"],
        "best_epoch": trainer.record.get("best_epoch"),
        "scores_of_held_out_good_images": (trainer.record.get("normal") or {}).get("scores"),
        "durations": {
            "train_seconds": trainer.record.get("train_seconds"),
            "test_seconds": seconds,
            "test_images_per_second": len(result.scores) / seconds,
        },
        "hardware": hardware(trainer.device),
        "precision": str(trainer.dtype).removeprefix("torch."),
        "versions": {"python": platform.python_version()}
        | {name: package.__version__ for name, package in packages.items()},
        "date": datetime.now().astimezone().isoformat(timespec="seconds"),
        "trained_with": trainer.record["settings"],
        "config": trainer.config.model_dump(mode="json"),
    }


def summary(run_dir: Path) -> str:
    """The figures of a finished test as a table for the screen."""
    report = json.loads((run_dir / "metrics.json").read_text(encoding="utf-8"))
    config, figures = report["config"], report["metrics"]
    weights = ", ".join(report["teacher"]["weights"].values())
    lines = [
        "",
        f"{config['obj']}   {config['distillType']}   {joined(config['backbone'])}   teacher weights: {weights}",
        "",
    ]
    lines += [f"  {LABELS[key]:<14}{value:8.4f}" for key, value in figures.items()]
    if report["per_defect"]:
        lines += ["", *_table(report["per_defect"])]
    lines += [f"  {note}" for note in report["notes"]]
    lines += ["", f"  pictures, scores and figures: {run_dir}"]
    return "\n".join(lines)


def _table(per_defect: dict[str, dict[str, float]]) -> list[str]:
    """A line per defect type; a figure that a type does not have (its masks were cropped away) stays empty."""
    width = max(len("defect"), *map(len, per_defect)) + 2
    keys = list(dict.fromkeys(key for row in per_defect.values() for key in row))
    lines = ["defect".ljust(width) + "".join(LABELS.get(key, key).rjust(13) for key in keys)]
    for kind, row in per_defect.items():
        cells = {key: f"{row[key]:.4f}" if isinstance(row[key], float) else str(row[key]) for key in row}
        lines.append(kind.ljust(width) + "".join(cells.get(key, "").rjust(13) for key in keys))
    return ["  " + line for line in lines]
