"""The card of an exported model: what it is, what it was made from, how good and how fast it is. JSON and a page."""

import json
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from engine.machine import hardware, versions
from engine.threads import free_cores
from evaluation.tables import LABELS
from models.detector import Detector
from models.teachers.teacher import Teacher, pretrained_cfg
from utils.command import ROOT
from utils.cores import allowed_cores
from utils.errors import UserError
from utils.files import read_json, write_json, write_text

CARD = "card.json"
PAGE = "card.md"
PACKAGES = ("torch", "timm", "numpy", "pillow", "onnx", "onnxscript", "onnxruntime", "openvino", "nncf")
NOT_FOR = (
    "parts, cameras, lenses, distances or lighting other than those of the training images",
    "pictures that were resized, compressed or corrected in another way than the training images",
    "a decision on which safety depends, without another check",
    "naming or measuring a defect: a score says how unusual a picture is, not how bad the defect is, and is no "
    "probability; an area is that of the map, not of the part",
    "pictures of people, and any purpose that the licences of the teacher's weights exclude",
)
NO_DECISIONS = "This model decides nothing, because the run has no calibration: it gives scores and maps only."


def teachers(detector: Detector) -> list[dict[str, Any]]:
    """The teachers, where their weights come from, and their licence."""
    found = [net for net in detector.teacher.modules() if isinstance(net, Teacher)]
    return [{"backbone": net.backbone, "weights": net.package or net.weights, "licence": licence(net)} for net in found]


def licence(teacher: Teacher) -> str:
    """Of a teacher's weights, as far as it is known."""
    if teacher.weights == "random":
        return "none: random values"
    if teacher.weights == "bundled":
        return "MIT: bundled with this toolkit, made without photographs"
    if teacher.package:
        return "Apache-2.0; trained on ImageNet, whose pictures have terms of their own"
    cfg = pretrained_cfg(teacher.backbone) if teacher.weights == "imagenet" else None
    if cfg and cfg.license:
        source = cfg.hf_hub_id or cfg.url
        return f"{cfg.license}, as timm states ({source}); the training pictures have terms of their own"
    return "not known: see where the weights come from"


def amounts(detector: Detector, size: Sequence[int], tiles: int) -> dict[str, Any]:
    """Parameters, and multiply-accumulate operations for one image: of convolutions and matrix products.

    `size` is (height, width) of what the networks see, in `tiles` parts.
    """
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        detector(torch.zeros(1, 3, *size))
    parts = {"teacher": detector.teacher, "student": detector.student}
    macs = tiles * counter.get_total_flops() // 2
    return {"parameters": {name: _parameters(net) for name, net in parts.items()}, "macs": macs}


def _parameters(net: nn.Module) -> int:
    return sum(each.numel() for each in net.parameters())


def speed(folder: Path) -> list[dict[str, Any]]:
    """Milliseconds and peak memory of an exported model, measured in other processes, with one and with all threads.

    Raises UserError if it cannot be loaded there.
    """
    return [_measured(folder, threads) for threads in sorted({1, allowed_cores()})]


def _measured(folder: Path, threads: int) -> dict[str, Any]:
    command = [sys.executable, "-m", "deploy.runtime.measure", str(folder.resolve()), str(threads)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, env=os.environ)
    if done.returncode:
        last = (done.stderr.strip().splitlines() or ["it was ended"])[-1]
        raise UserError(f"the exported model cannot be measured in a process of its own: {last}")
    return json.loads(done.stdout)


def surroundings() -> dict[str, Any]:
    """Where the export was made and measured."""
    made_with = versions(*PACKAGES)
    return {"hardware": hardware(torch.device("cpu")), "free_cores": free_cores(), "versions": made_with}


def file_sizes(folder: Path) -> dict[str, int]:
    return {path.name: path.stat().st_size for path in sorted(folder.iterdir())}


def write_card(folder: Path, card: dict[str, Any]) -> None:
    """card.json and card.md; `deploy.export` says what a card has."""
    write_json(folder / CARD, card)
    write_text(folder / PAGE, page(card))


def read_card(folder: Path) -> dict[str, Any]:
    return read_json(folder / CARD)


def page(card: dict[str, Any]) -> str:
    """The card for people, in Markdown."""
    model, config = card["model"], card["config"]["TrainingData"]
    sizes = [_size(config[key]) for key in ("img_size", "crop_size")]
    parts = {
        "Decisions": card["calibration"]["sentences"] if card["calibration"] else [NO_DECISIONS],
        "What it was made from": _origin(card),
        "Results on the run's own images, by this file": _results(card),
        "Speed and size": _costs(card),
        "What it must not be used for": card["must_not_be_used_for"],
    }
    lines = [
        f"# {model['method']} for {model['category']}",
        "",
        f"Anomaly detector exported from `{card['run']}`: {model['format']}, {model['precision']}. Pictures of any "
        f"size are resized to {sizes[0]} pixels{'' if len(set(sizes)) == 1 else f' and cropped to {sizes[1]}'}.",
    ]
    for title, points in parts.items():
        lines += ["", f"## {title}", "", *(f"- {point}" for point in points)]
    configuration = json.dumps(card["config"], indent=2, ensure_ascii=False)
    return "\n".join([*lines, "", "## Configuration of the run", "", "```json", configuration, "```", ""])


def _origin(card: dict[str, Any]) -> list[str]:
    data, values = card["data"], card["model"]["parameters"]
    return [
        *(
            f"teacher {each['backbone']}, weights {each['weights']}; licence: {each['licence']}"
            for each in card["teachers"]
        ),
        *(
            f"{name.replace('_', '-')} images: {each['images']} (hash {each['hash']})"
            for name, each in data["sets"].items()
        ),
        *([data["given"]] if data["given"] else []),
        *([] if data["unchanged"] else ["the good images have changed since the training"]),
        f"{values['teacher']:,} values in the teacher, {values['student']:,} in the student",
    ]


def _results(card: dict[str, Any]) -> list[str]:
    check = card["check"]
    return [
        *(f"{LABELS[key]}: {value:.4f}" for key, value in card["metrics"].items()),
        *card["notes"],
        f"compared with PyTorch in float32 on {check['images']} images: scores differ by at most "
        f"{100 * check['score_difference']:.2g} %, maps by at most {100 * check['map_difference']:.2g} % of a map's "
        f"highest value (limit {100 * check['limit']:.2g} %); decisions: {check['decisions']}",
    ]


def _costs(card: dict[str, Any]) -> list[str]:
    made = card["made_with"]
    speed = [
        f"{each['threads']} thread{'s' if each['threads'] > 1 else ''}: {each['p50_ms']:.1f} ms for an image (median), "
        f"{each['p95_ms']:.1f} ms (95 % of the runs)"
        + (f", at most {each['peak_memory_mb']:.0f} MB of memory" if "peak_memory_mb" in each else "")  # only on Linux
        for each in card["speed"]
    ]
    return [
        *speed,
        f"{card['model']['macs'] / 1e9:.2f} x 10^9 multiply-accumulate operations for an image",
        *(f"{name}: {size / 1e6:.2f} MB" for name, size in card["files"].items()),
        f"measured on {made['hardware']} ({made['free_cores']} free then), with "
        + ", ".join(f"{name} {number}" for name, number in made["versions"].items()),
    ]


def _size(side: int | list[int]) -> str:
    height, width = side if isinstance(side, list) else (side, side)
    return f"{width} x {height}"
