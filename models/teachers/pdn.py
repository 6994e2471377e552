"""A patch description network as a teacher, and its weights."""

from pathlib import Path

import torch
from torch import nn

from models.pdn import CHANNELS, PDN
from models.teachers.teacher import IMAGENET, Teacher
from models.teachers.weights import (
    Source,
    bundled_names,
    check_values,
    few,
    find_source,
    read_tensors,
    teachers_randomness,
)
from utils.console import note
from utils.errors import UserError


class PDNFeatures(nn.Module):
    """A PDN as a list of one map: [B,3,H,W] -> [[B,384,h,w]]."""

    def __init__(self, kind: str):
        super().__init__()
        self.pdn = PDN(kind)
        self.channels = [CHANNELS]

    def forward(self, image: torch.Tensor) -> list[torch.Tensor]:
        return [self.pdn(image)]


def find_pdn(kind: str, weights: str) -> Source:
    """The source of the weights that the key `weights` selects. Raises UserError if they are not available."""
    if weights == "imagenet":
        raise UserError(
            "weights: a PDN is distilled from an ImageNet network, and no model hub has one; write bundled, or the "
            "path of your own (python3 pretrain.py --config configs/teachers/pdn_small.yaml)"
        )
    if weights == "auto":
        note("no model hub has a PDN: the bundled one is used, which was trained only on formula-made images")
        weights = "bundled"
    if weights == "bundled" and f"pdn_{kind}" not in bundled_names():
        raise UserError(
            f"weights: no {kind} PDN is bundled; make one (python3 pretrain.py --config "
            f"configs/teachers/pdn_{kind}.yaml) or give the path of your own"
        )
    return find_source(f"pdn_{kind}", weights)


def build_pdn(kind: str, source: Source, seed: int) -> Teacher:
    """A PDN as a teacher with the weights of `source`. Raises UserError if they do not fit."""
    with teachers_randomness(seed):
        net = PDNFeatures(kind)
    if source.path is not None:
        load_pdn(net.pdn, source.path)
    # All public PDNs were distilled on images with ImageNet's normalisation.
    return Teacher(kind, net, source.statistics(IMAGENET), source.name)


def load_pdn(net: PDN, path: Path) -> None:
    """Load a .safetensors or .pth file into `net`, strictly; half precision becomes float32.

    Keys are ours or anomalib's (conv1.weight), possibly all with one prefix, or nelson1425's, which count the layers
    of the same nn.Sequential (0.weight). Raises UserError naming the wrong keys.
    """
    given, wanted = _named_layers(read_tensors(path), net), net.state_dict()
    faults = {
        "has unknown": sorted(set(given) - set(wanted)),
        "has misshapen": [key for key in wanted if key in given and given[key].shape != wanted[key].shape],
        "lacks": [key for key in wanted if key not in given],
    }
    if words := [f"{what} {few(keys)}" for what, keys in faults.items() if keys]:
        pdn = f"{net.kind} PDN of {net.channels} channels"
        raise UserError(f"weights: {path} is not a {pdn}: it {' and '.join(words)}")
    check_values(path, given.values())
    net.load_state_dict(given)


def _named_layers(tensors: dict[str, torch.Tensor], net: PDN) -> dict[str, torch.Tensor]:
    """The same tensors under our keys, or under their own keys if a file mixes layouts."""
    heads = {key: key.partition(".")[0] for key in tensors}
    if all(head.isdecimal() for head in heads.values()):
        names = [name for name, _ in net.named_children()]
        convs = {str(i): name for i, name in enumerate(names) if name.startswith("conv")}
        return {convs.get(head, head) + key.removeprefix(head): tensors[key] for key, head in heads.items()}
    prefixes = {key.rpartition(".conv")[0] for key in tensors}
    if len(prefixes) == 1 and (prefix := prefixes.pop()):
        return {key.removeprefix(f"{prefix}."): tensor for key, tensor in tensors.items()}
    return tensors
