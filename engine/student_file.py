"""student.safetensors: what was learned, and a record of the run that learned it."""

import hashlib
import json
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save
from torch import nn

from utils.errors import UserError
from utils.files import write_bytes


def save_student(path: Path, student: nn.Module, record: dict[str, Any]) -> None:
    tensors = {key: tensor.detach().cpu().contiguous() for key, tensor in student.state_dict().items()}
    write_bytes(path, save(tensors, metadata={"record": json.dumps(record)}))


def read_record(path: Path) -> dict[str, Any]:
    """The record alone. Raises UserError naming a file that is missing, damaged or not ours."""
    if not path.is_file():
        raise UserError(f"{path} does not exist: train first (phase: train) or fix save_path")
    try:
        with safe_open(path, framework="pt") as file:
            return json.loads(file.metadata()["record"])
    except (OSError, SafetensorError, TypeError, KeyError, ValueError) as error:
        raise UserError(f"{path}: is no student of this toolkit, or damaged ({error})") from None


def check_record(path: Path, found: dict[str, Any], expected: dict[str, Any]) -> None:
    """Raises UserError unless both name the same method, backbone, levels and teacher."""
    for key in ("distillType", "backbone", "out_indice"):
        if found.get(key) != expected.get(key):
            raise UserError(f"{path}: was trained with {key} {found.get(key)}, the config says {expected.get(key)}")
    if found.get("teacher") != expected["teacher"]:
        raise UserError(
            f"{path}: was trained with another teacher (weights: {found.get('weights')}, now {expected['weights']})"
        )


def load_student(path: Path, student: nn.Module) -> None:
    """Fill `student`. Raises UserError naming keys that are missing, unknown or of another shape."""
    try:
        tensors = load_file(path)
    except (OSError, SafetensorError) as error:
        raise UserError(f"{path}: damaged ({error})") from None
    own = student.state_dict()
    wrong = sorted(set(own) ^ set(tensors)) or [key for key in own if own[key].shape != tensors[key].shape]
    if wrong:
        raise UserError(f"{path}: holds another network than the config describes ({', '.join(wrong[:3])} ...)")
    student.load_state_dict(tensors)


def fingerprint(net: nn.Module) -> str:
    """SHA-256 over names and values: equal for equal networks, whatever file they came from."""
    digest = hashlib.sha256()
    for key, tensor in net.state_dict().items():
        if key.endswith("num_batches_tracked"):
            continue  # missing in old files, and without effect on a frozen network
        digest.update(key.encode())
        digest.update(tensor.detach().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()
