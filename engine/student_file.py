"""student.safetensors: the trained student and the metadata of its run."""

import hashlib
import json
from pathlib import Path
from typing import Annotated, Any

import torch
from pydantic import BaseModel, Field, FiniteFloat, PositiveFloat, ValidationError
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save
from torch import nn

from models.teachers.teacher import Teacher
from utils.config import RunConfig, result_settings
from utils.errors import UserError
from utils.files import write_bytes

FORMAT = 2  # of the metadata; version 1 named teachers by their backbones and had no statistics
WHAT_IT_IS = ("distillType", "backbone", "out_indice")  # EfficientAD has no levels to choose from


def describe(config: RunConfig, teacher: nn.Module) -> dict[str, Any]:
    """Metadata of a student before its training: method, settings and teachers."""
    teachers = [net for net in teacher.modules() if isinstance(net, Teacher)]
    return {
        **config.model_dump(mode="json", include={*WHAT_IT_IS}),
        "teachers": [
            {"backbone": t.backbone, "weights": t.weights, "package": t.package, **t.statistics._asdict()}
            for t in teachers
        ],
        "teacher": fingerprint(teacher),
        "settings": result_settings(config),
    }


def save_student(path: Path, student: nn.Module, metadata: dict[str, Any]) -> None:
    tensors = {key: tensor.detach().cpu().contiguous() for key, tensor in student.state_dict().items()}
    write_bytes(path, save(tensors, metadata={"record": json.dumps(metadata | {"format": FORMAT})}))


def read_metadata(path: Path) -> dict[str, Any]:
    """Raises UserError naming a file that is missing, damaged, foreign, or of an earlier version."""
    if not path.is_file():
        raise UserError(f"{path} does not exist: train first (phase: train) or fix save_path")
    try:
        with safe_open(path, framework="pt") as file:
            metadata = json.loads(file.metadata()["record"])
    except Exception as error:  # a foreign file may contain anything
        raise UserError(f"{path} is not a student file of this toolkit, or it is damaged ({error})") from None
    if not isinstance(metadata, dict) or metadata.get("format") != FORMAT:
        raise UserError(f"{path} was written by another version of this toolkit: train it again")
    try:
        _Metadata.model_validate(metadata)
    except ValidationError:
        raise UserError(f"{path} is damaged: its metadata is not complete") from None
    return metadata


class _Teacher(BaseModel):
    backbone: str
    weights: str
    package: str | None = None


class _NormalScores(BaseModel):
    source: str
    scores: Annotated[list[FiniteFloat], Field(min_length=1)]
    aspect_ratios: tuple[PositiveFloat, PositiveFloat] | None = None


class _Settings(BaseModel):
    seed: int


class _Metadata(BaseModel):
    """The parts of a student's metadata that the toolkit reads."""

    distillType: str
    backbone: str | list[str]
    teachers: Annotated[list[_Teacher], Field(min_length=1)]
    teacher: str
    settings: _Settings
    standardise: list[tuple[list[FiniteFloat], list[PositiveFloat]]] | None = None
    origin: dict[str, Any] | None = None
    normal: _NormalScores | None = None
    earlier_calibrations: list[_NormalScores] = []
    seen: list[str] = []
    data: str | None = None
    train_seconds: float | None = None
    gpu_peak_memory_mib: float | None = None
    threads: Annotated[int, Field(ge=1, le=4096)] | None = None


def check_metadata(path: Path, found: dict[str, Any], expected: dict[str, Any]) -> None:
    """Raises UserError unless both name the same method, backbone, levels and teacher."""
    for key in WHAT_IT_IS:
        if found.get(key) != expected.get(key):
            raise UserError(f"{path} was trained with {key} {found.get(key)}, the config says {expected.get(key)}")
    then, now = (each["settings"].get("obj") for each in (found, expected))
    if then != now:
        raise UserError(f"{path} was trained on obj {then}, the config says {now}")
    if found["teacher"] != expected["teacher"]:
        then, now = (", ".join(each["weights"] for each in which["teachers"]) for which in (found, expected))
        raise UserError(f"{path} was trained with another teacher (weights: {then}, now {now})")


def load_student(path: Path, student: nn.Module) -> None:
    """Fill `student`. Raises UserError naming keys that are missing, unknown, of another shape, or not finite."""
    try:
        tensors = load_file(path)
    except (OSError, SafetensorError) as error:
        raise UserError(f"{path} is damaged ({error})") from None
    own = student.state_dict()
    sizes = ((key, list(tensors[key].shape), list(own[key].shape)) for key in own)
    other = (f"{key} is {there}, not {here}" for key, there, here in sizes if there != here)
    wrong = sorted(set(own) ^ set(tensors)) or list(other)
    if wrong:
        raise UserError(f"{path} contains another network than the config describes ({', '.join(wrong[:3])} ...)")
    if not any(tensor.any() for tensor in tensors.values()):
        raise UserError(f"{path} is damaged: all its values are zero")
    for key, tensor in tensors.items():
        if tensor.dtype != own[key].dtype:
            raise UserError(f"{path} is damaged: {key} is {tensor.dtype}, not {own[key].dtype}")
        if not tensor.isfinite().all():
            raise UserError(f"{path} is damaged: {key} has infinite values or NaN")
    student.load_state_dict(tensors)


def fingerprint(net: nn.Module) -> str:
    """SHA-256 over shapes and values in order: equal for equal networks, independent of file and parameter names."""
    digest = hashlib.sha256()
    for key, tensor in net.state_dict().items():
        if key.endswith("num_batches_tracked"):
            continue  # missing in old files; a frozen network does not use it
        digest.update(f"{tuple(tensor.shape)}".encode())
        digest.update(tensor.detach().to("cpu", torch.float32).contiguous().numpy().tobytes())
    return digest.hexdigest()


def changes(before: dict[str, Any], now: dict[str, Any]) -> str:
    """The differences of two origins in words; empty if there are none.

    Values of keys that end with "(hash)" mean nothing to a reader and are left out.
    """
    words = []
    for key in before | now:
        if before.get(key) != now.get(key):
            name = key.removesuffix(" (hash)")
            words.append(f"{name} changed" if name != key else f"{key} was {before.get(key)}, is {now.get(key)}")
    return ", ".join(words)
