"""Where a teacher's weights come from: ImageNet, a file, the bundled ones, or none."""

import contextlib
import json
import math
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import timm
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file

from models.teachers.features import Features, outline
from models.teachers.teacher import Statistics, Teacher, tag_statistics
from utils.console import note
from utils.errors import IncompleteWeights, UserError, reason

BUNDLED_FOLDER = Path(__file__).parent / "bundled"


class Source(NamedTuple):
    """Weights a teacher was given: kind is imagenet, bundled, random or file; path is None for random."""

    kind: str
    path: Path | None

    @property
    def name(self) -> str:
        """What to write for the key `weights` to get them again."""
        return str(self.path) if self.kind == "file" else self.kind

    def statistics(self, default: Statistics) -> Statistics:
        """Those of the manifest beside the file (same name, .json), if it has any.

        Raises UserError naming a manifest whose mean or std cannot be used.
        """
        manifest = self.path and self.path.with_suffix(".json")
        if manifest is None or not manifest.is_file():
            return default
        try:
            content = json.loads(manifest.read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise UserError(f"{manifest}: cannot be read as the manifest of {self.path.name} ({error})") from None
        if not isinstance(content, dict) or not {"mean", "std"} & content.keys():
            return default
        mean, std = content.get("mean"), content.get("std")
        if not _three_numbers(mean) or not _three_numbers(std) or min(std) <= 0:
            raise UserError(f"{manifest}: mean and std must be three numbers each, std above 0")
        return Statistics(tuple(mean), tuple(std))


def _three_numbers(values: Any) -> bool:
    return (
        isinstance(values, list)
        and len(values) == 3
        and all(type(v) in (int, float) and math.isfinite(v) for v in values)
    )


def _deepest_level(backbone: str, path: Path) -> int:
    """The last level of a network that the values of a file suffice for."""
    given = {_plain(key) for key in read_tensors(path)}
    deepest = -1
    for level in range(len(outline(backbone, [0]).net.feature_info.info)):
        keys = outline(backbone, [level]).net.state_dict()
        if all(_plain(key) in given for key in keys if not key.endswith("num_batches_tracked")):
            deepest = level
    return deepest


def build_teacher(backbone: str, out_indice: Sequence[int], source: Source, seed: int) -> Teacher:
    """A timm network as a teacher with the weights of `source`. Raises UserError where they do not fit."""
    with teachers_randomness(seed):
        net = Features(backbone, out_indice)
    if source.path is not None:
        try:
            load_weights(net, source.path)
        except IncompleteWeights as error:
            if source.kind != "bundled":
                raise
            deepest = _deepest_level(backbone, source.path)
            raise IncompleteWeights(
                f"out_indice {list(out_indice)}: the bundled weights of '{backbone}' end at level {deepest}"
            ) from error
    return Teacher(backbone, net, source.statistics(tag_statistics(backbone)), source.name)


@contextlib.contextmanager
def teachers_randomness(seed: int) -> Iterator[None]:
    """A random teacher must be the same when its run is tested, and no twin of the student, made from the bare seed."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed ^ 0x7EAC4E55)  # torch's CPU generator keeps 32 bits
        yield


def bundled_names() -> list[str]:
    return sorted(path.stem for path in BUNDLED_FOLDER.glob("*.safetensors"))


def bundled_backbones() -> list[str]:
    """Those that timm builds; EfficientAD's own teachers are none."""
    return [name for name in bundled_names() if not name.startswith("pdn_")]


def find_source(backbone: str, weights: str) -> Source:
    """Where the weights are that the key `weights` asks for. Raises UserError when they cannot be had."""
    if weights == "random":
        return Source("random", None)
    if weights == "bundled":
        return Source("bundled", _bundled(backbone))
    if weights == "imagenet":
        return Source("imagenet", _imagenet(backbone))
    if weights == "auto":
        return _auto(backbone)
    path = Path(weights).expanduser()
    if not path.is_file():
        raise UserError(f"weights: {path} is not a file (or write imagenet, bundled, random or auto)")
    return Source("file", path)


def _bundled(backbone: str) -> Path:
    path = BUNDLED_FOLDER / f"{backbone.partition('.')[0]}.safetensors"
    if not path.is_file():
        raise UserError(
            f"weights: nothing is bundled for backbone '{backbone}' (bundled: {', '.join(bundled_backbones())})"
        )
    return path


def _imagenet(backbone: str) -> Path:
    from models.teachers.hub import imagenet_file  # loads huggingface_hub, which the other kinds do without

    return imagenet_file(backbone)


def _auto(backbone: str) -> Source:
    try:
        return Source("imagenet", _imagenet(backbone))
    except UserError as missing:
        if backbone.partition(".")[0] not in bundled_backbones():
            raise
        note(
            f"{missing}\n      Going on with the bundled teacher, which was trained on formula-made images: "
            "good for trying things out, weaker than ImageNet weights on real parts."
        )
        return Source("bundled", _bundled(backbone))


def load_weights(net: Features, path: Path) -> None:
    """Fill `net` from a .safetensors or .pth file in torchvision's or timm's key names, strictly.

    The file may hold more of the same network (later stages, classifier), nothing else, and must hold all
    that `net` has. Raises UserError naming the keys at fault.
    """
    # timm joins the names of flattened modules with underscores and may wrap the network; undo both.
    tensors, own = read_tensors(path), net.net.state_dict()
    given = {_plain(key): tensor for key, tensor in tensors.items()}
    wanted = {_plain(key): tensor for key, tensor in own.items()}
    names = {_plain(key): key for key in (*own, *tensors)}  # as they stand in the file, or else in the network
    with torch.device("meta"):
        whole = timm.create_model(net.backbone, pretrained=False).state_dict()
    # Older torchvision files do not count batches; the count plays no part in a frozen network.
    missing = [key for key in wanted if key not in given and not key.endswith("num_batches_tracked")]
    unexpected = sorted(set(given) - set(wanted) - {_plain(key) for key in whole})
    misshapen = [key for key in wanted if key in given and given[key].shape != wanted[key].shape]
    for what, keys in (("has unknown", unexpected), ("has misshapen", misshapen), ("lacks", missing)):
        if keys:
            more = f" and {len(keys) - 3} more" if len(keys) > 3 else ""
            kind = IncompleteWeights if keys is missing else UserError
            raise kind(
                f"weights: {path} is not a '{net.backbone}': it {what} {', '.join(names[k] for k in keys[:3])}{more}"
            )
    check_values(path, (given[key] for key in wanted if key in given))
    with torch.no_grad():
        for key, tensor in wanted.items():
            if key in given:
                tensor.copy_(given[key])


def _plain(key: str) -> str:
    for wrapper in ("module.", "model.", "body."):
        key = key.removeprefix(wrapper)
    return key.replace(".", "_")


def read_tensors(path: Path) -> dict[str, torch.Tensor]:
    """The tensors of a .safetensors or .pth file by name. Raises UserError naming a damaged file."""
    try:
        if path.suffix == ".safetensors":
            return load_file(path)
        content = torch.load(path, map_location="cpu", weights_only=True)
    except (OSError, SafetensorError, RuntimeError, EOFError, ValueError) as error:
        raise UserError(f"weights: {path} cannot be read as a weights file ({reason(error)})") from None
    except Exception:  # pickle.UnpicklingError: code instead of tensors, or no checkpoint at all
        raise UserError(f"weights: {path} is not a file of tensors that can be loaded safely") from None
    content = content.get("state_dict", content) if isinstance(content, dict) else content
    named = isinstance(content, dict) and all(isinstance(key, str) for key in content)
    if not named or not all(isinstance(tensor, torch.Tensor) for tensor in content.values()):
        raise UserError(f"weights: {path} holds something else than a state_dict")
    return content


def check_values(path: Path, tensors: Iterable[torch.Tensor]) -> None:
    """Raises UserError for values that no training gives: integers, infinite or NaN ones, nothing but zeros."""
    tensors = [tensor for tensor in tensors if tensor.ndim]  # without batch norm's counters
    if any(not tensor.is_floating_point() for tensor in tensors):
        raise UserError(f"weights: {path} holds integers where weights should be")
    if any(not tensor.isfinite().all() for tensor in tensors):
        raise UserError(f"weights: {path} holds values that are not finite")
    if not any(tensor.any() for tensor in tensors):
        raise UserError(f"weights: {path} is all zero")
