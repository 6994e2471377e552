"""A patch description network as a teacher, and its weights."""

from pathlib import Path

import torch
from torch import nn

from models.pdn import PDN
from models.teachers.weights import bundled_names, find_source, read_tensors, teachers_randomness
from utils.console import note
from utils.errors import UserError


class PDNTeacher(nn.Module):
    """A PDN among the other teachers: [B,3,H,W] -> one map [B,384,h,w] in a list."""

    def __init__(self, kind: str):
        super().__init__()
        self.backbone = kind
        self.pdn = PDN(kind)

    def forward(self, image: torch.Tensor) -> list[torch.Tensor]:
        return [self.pdn(image)]


def pretrained_pdn(kind: str, weights: str, seed: int) -> PDNTeacher:
    """A teacher with the weights the key `weights` asks for, noted in its `.source`.

    Raises UserError when they cannot be had or do not fit.
    """
    if weights == "imagenet":
        raise UserError(
            "weights: a PDN is distilled from an ImageNet network, and no model hub has one; write bundled, or the "
            "path of one you have or made (python3 pretrain.py --config configs/teachers/pdn_small.yaml)"
        )
    if weights == "auto":
        note("no model hub has a PDN: going on with the bundled one, which was made from formula-made images alone")
        weights = "bundled"
    if weights == "bundled" and f"pdn_{kind}" not in bundled_names():
        raise UserError(
            f"weights: no {kind} PDN is bundled (bundled: {', '.join(bundled_names())}); make one (python3 pretrain.py "
            f"--config configs/teachers/pdn_{kind}.yaml) or give the path of one you have"
        )
    with teachers_randomness(seed):
        teacher = PDNTeacher(kind)
    teacher.source = find_source(f"pdn_{kind}", weights)
    if teacher.source.path is not None:
        load_pdn(teacher.pdn, teacher.source.path)
    return teacher


def load_pdn(net: PDN, path: Path) -> None:
    """Fill `net` from a .safetensors or .pth file, strictly; half precision is widened.

    Keys are our own or anomalib's (conv1.weight), all behind one prefix if any, or nelson1425's, which count the
    layers of the same nn.Sequential (0.weight). Raises UserError naming the keys at fault.
    """
    given, wanted = _named_layers(read_tensors(path), net), net.state_dict()
    faults = {
        "has unknown": sorted(set(given) - set(wanted)),
        "has misshapen": [key for key in wanted if key in given and given[key].shape != wanted[key].shape],
        "lacks": [key for key in wanted if key not in given],
    }
    words = []
    for what, keys in faults.items():
        if keys:
            more = f" and {len(keys) - 3} more" if len(keys) > 3 else ""
            words.append(f"{what} {', '.join(keys[:3])}{more}")
    if words:
        pdn = f"{net.kind} PDN of {net.channels} channels"
        raise UserError(f"weights: {path} is no {pdn}: it {' and '.join(words)}")
    net.load_state_dict(given)


def _named_layers(tensors: dict[str, torch.Tensor], net: PDN) -> dict[str, torch.Tensor]:
    """The same tensors under our keys, or under those they have where a file mixes layouts."""
    heads = {key: key.partition(".")[0] for key in tensors}
    if all(head.isdecimal() for head in heads.values()):
        names = [name for name, _ in net.named_children()]
        convs = {str(i): name for i, name in enumerate(names) if name.startswith("conv")}
        return {convs.get(head, head) + key.removeprefix(head): tensors[key] for key, head in heads.items()}
    prefixes = {key.rpartition(".conv")[0] for key in tensors}
    if len(prefixes) == 1 and (prefix := prefixes.pop()):
        return {key.removeprefix(f"{prefix}."): tensor for key, tensor in tensors.items()}
    return tensors
