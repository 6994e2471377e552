"""EfficientAD's networks (Batzner, Heckler & König, WACV 2024): PDN, autoencoder, student and the PDN's own teacher."""

import math
from collections import OrderedDict
from collections.abc import Sequence
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import nn

from models.features import Features
from models.weights import bundled_names, find_source, read_tensors, teachers_randomness
from utils.anomaly_map import resize
from utils.console import note
from utils.errors import UserError

CHANNELS = 384  # of the teacher's maps, the autoencoder's, and each half of the student's

# Tables 6 and 7. Each layer's output channels (None: those asked for), kernel, padding if any is wanted, and whether
# its maps are pooled.
LAYERS = {
    "small": [(128, 4, 3, True), (256, 4, 3, True), (256, 3, 1, False), (None, 4, 0, False)],
    "medium": [
        (256, 4, 3, True),
        (512, 4, 3, True),
        (512, 1, 0, False),
        (512, 3, 1, False),
        (None, 4, 0, False),
        (None, 1, 0, False),
    ],
}


def pdn_size(side: int, padding: bool = False) -> int:
    """Positions of a PDN's maps along a side of the image, of at least 33 pixels: 56 of 256, 64 with padding."""
    return math.ceil(side / 4) - (0 if padding else 8)


class PDN(nn.Sequential):
    """Patch description network "small" or "medium": [B,3,H,W] -> [B,channels,h,w] of stride 4, h and w by `pdn_size`.

    A position sees 33 x 33 pixels: (i,j) those from (4i,4j) on, with padding those around (4i,4j). Padding leaves
    the weights and the values away from the border as they are.
    """

    def __init__(self, kind: str, channels: int = CHANNELS, padding: bool = False):
        layers, inputs = OrderedDict(), 3
        for k, (outputs, kernel, pad, pool) in enumerate(LAYERS[kind], start=1):
            outputs = outputs or channels
            layers[f"conv{k}"] = nn.Conv2d(inputs, outputs, kernel, padding=pad if padding else 0)
            layers[f"relu{k}"] = nn.ReLU(inplace=True)
            if pool:
                layers[f"pool{k}"] = nn.AvgPool2d(2, padding=1 if padding else 0)  # padded zeros count, as published
            inputs = outputs
        layers.popitem()  # maps may be negative
        super().__init__(layers)
        self.kind, self.channels = kind, channels

    def head(self, image: torch.Tensor, part: slice) -> torch.Tensor:
        """The channels `part` of the maps alone, which need that part of the last layer alone: [B,part,h,w]."""
        *trunk, last = self
        for layer in trunk:
            image = layer(image)
        return F.conv2d(image, last.weight[part], last.bias[part])  # stride 1 and no padding in either kind


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


class Autoencoder(nn.Module):
    """Predicts a PDN's maps from 64 numbers (table 8): [B,3,H,W] -> [B,channels,h,w], h and w by `pdn_size`.

    For sides of at least 256; from 288 on there is more than one position of 64 numbers, and the view less global.
    """

    def __init__(self, channels: int = CHANNELS, padding: bool = False):
        super().__init__()
        self.padding = padding
        widths = [3, 32, 32, 64, 64, 64]
        halvings = (
            nn.Sequential(nn.Conv2d(a, b, 4, stride=2, padding=1), nn.ReLU(inplace=True))
            for a, b in zip(widths, widths[1:], strict=False)
        )
        self.encoder = nn.Sequential(*halvings, nn.Conv2d(64, 64, 8))
        self.decoder = nn.ModuleList(
            nn.Sequential(nn.Conv2d(64, 64, 4, padding=2), nn.ReLU(inplace=True), nn.Dropout(0.2)) for _ in range(6)
        )
        self.predict = nn.Sequential(
            nn.Conv2d(64, 64, 3, padding=1), nn.ReLU(inplace=True), nn.Conv2d(64, channels, 3, padding=1)
        )

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        x = self.encoder(image)
        sides = image.shape[-2:]
        for stage, *size in zip(self.decoder, *map(_decoder_sizes, sides), strict=True):
            x = stage(resize(x, size))
        return self.predict(resize(x, [pdn_size(side, self.padding) for side in sides]))


def _decoder_sizes(side: int) -> list[int]:
    """What each stage of the decoder resizes a side to. Its even kernels then add 1: 4, 9, 16, 33, 64, 128 for 256."""
    return [side // 64 - 1, side // 32, side // 16 - 1, side // 8, side // 4 - 1, side // 2 - 1]


class EfficientADStudent(nn.Module):
    """All that a run learns: [B,3,H,W] -> S1, S2 and A of [B,384,h,w], the student's halves and the autoencoder's maps.

    Also holds what a finished run needs of the teacher and of held-out images: `mean` and `std` [1,384,1,1] of the
    teacher's channels, and `quantiles` [2,2] of the local and of the global map, q_a and q_b each.
    """

    def __init__(self, kind: str):
        super().__init__()
        self.pdn = PDN(kind, 2 * CHANNELS)
        self.autoencoder = Autoencoder(CHANNELS)
        self.register_buffer("mean", torch.zeros(1, CHANNELS, 1, 1))
        self.register_buffer("std", torch.ones(1, CHANNELS, 1, 1))
        self.register_buffer("quantiles", torch.tensor([[0.0, 1.0], [0.0, 1.0]]))

    def forward(self, image: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        local, to_autoencoder = self.pdn(image).split(CHANNELS, dim=1)
        return local, to_autoencoder, self.autoencoder(image)

    def normalised(self, teacher: torch.Tensor) -> torch.Tensor:
        """The teacher's maps as student and autoencoder predict them: [B,384,h,w] -> same."""
        return (teacher - self.mean) / self.std

    def local(self, image: torch.Tensor) -> torch.Tensor:
        """S1 alone, which predicts the teacher."""
        return self.pdn.head(image, slice(0, CHANNELS))

    def global_head(self, image: torch.Tensor) -> torch.Tensor:
        """S2 alone, which predicts the autoencoder."""
        return self.pdn.head(image, slice(CHANNELS, 2 * CHANNELS))


class TargetFeatures(nn.Module):
    """What a PDN is distilled from (section 3.1): [B,3,512,512] -> [B,channels,64,64], PatchCore's embedding.

    PatchCore unfolds 3 x 3 neighbourhoods of two levels, pools each to 1024 values, and both together to `channels`.
    All of that is linear, and no output has to do with both levels, so each level's way is one fixed 3 x 3 convolution;
    resizing the deeper level, which treats every channel alike, can come last. Levels that have `channels` channels
    together (128 and 256 of a ResNet-18) keep each channel's mean of 3 x 3. Raises UserError unless `features` has
    levels of strides 8 and 16.
    """

    def __init__(self, features: Features, channels: int = CHANNELS):
        super().__init__()
        if features.reduction != [8, 16]:
            raise UserError(
                f"out_indice: a PDN's teacher has levels of strides 8 and 16 ([2, 3] of a ResNet), "
                f"these of '{features.backbone}' have {features.reduction}"
            )
        self.features = features
        keep = sum(features.channels) == channels
        for name, c in zip(("shallow", "deep"), features.channels, strict=True):
            weight = pooling_weight(c, [c] if keep else [1024, channels // 2])
            self.register_buffer(name, weight, persistent=False)

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        return self.embed(self.features(image))

    def embed(self, maps: Sequence[torch.Tensor]) -> torch.Tensor:
        """[B,C_1,h,w] and [B,C_2,h/2,w/2] -> [B,channels,h,w]."""
        shallow, deep = (F.conv2d(m, w, padding=1) for m, w in zip(maps, (self.shallow, self.deep), strict=True))
        return torch.cat([shallow, resize(deep, shallow.shape[-2:])], dim=1)


def pooling_weight(channels: int, sizes: Sequence[int]) -> torch.Tensor:
    """[sizes[-1],channels,3,3]: the convolution that unfolds 3 x 3 and pools adaptively to one size after another."""
    pooled = torch.eye(channels * 9)  # what each single value of an unfolded neighbourhood makes of the outputs
    for size in sizes:
        pooled = F.adaptive_avg_pool1d(pooled, size)
    return pooled.T.reshape(sizes[-1], channels, 3, 3).contiguous()


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
