"""The teacher of a detector: a frozen network with the image normalisation that its weights were trained with."""

from collections.abc import Sequence
from typing import NamedTuple

import timm
import torch
from timm.data import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD
from timm.models import PretrainedCfg
from torch import nn


class Frozen(nn.Module):
    """A module without gradients that always stays in eval mode."""

    def train(self, mode: bool = True):
        return super().train(False)  # a parent's .train() must not change it


class Statistics(NamedTuple):
    """Mean and standard deviation of each colour of RGB images in [0, 1], as used to train the weights."""

    mean: tuple[float, float, float]
    std: tuple[float, float, float]


Vector = torch.Tensor | Sequence[float]
IMAGENET = Statistics(IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD)


def pretrained_cfg(backbone: str) -> PretrainedCfg | None:
    """timm's entry for the weights of a tag; None for an unknown tag."""
    try:
        return timm.get_pretrained_cfg(backbone, allow_unregistered=True)
    except RuntimeError:
        return None


def tag_statistics(backbone: str) -> Statistics:
    """The statistics of a timm tag's weights; ImageNet's if timm has none."""
    cfg = pretrained_cfg(backbone)
    return IMAGENET if cfg is None else Statistics(tuple(cfg.mean), tuple(cfg.std))


class Normalise(nn.Module):
    """Normalise images: [B,3,H,W] in [0,1] -> (image - mean) / std for each colour, float32."""

    def __init__(self, statistics: Statistics):
        super().__init__()
        self.register_buffer("mean", torch.tensor(statistics.mean).view(3, 1, 1))
        self.register_buffer("std", torch.tensor(statistics.std).view(3, 1, 1))

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        return (image - self.mean) / self.std


class Standardise(nn.Module):
    """Maps [B,C,h,w] -> (maps - mean) / std for each channel, of the same type."""

    def __init__(self, mean: Vector, std: Vector):
        super().__init__()
        # Not among the teacher's values: they belong to a set of images, and the student's file keeps them.
        for name, vector in (("mean", mean), ("std", std)):
            self.register_buffer(name, torch.as_tensor(vector).float().view(-1, 1, 1), persistent=False)

    def forward(self, maps: torch.Tensor) -> torch.Tensor:
        return ((maps - self.mean) / self.std).to(maps.dtype)


class Teacher(Frozen):
    """RGB images [B,3,H,W] in [0,1] -> maps L x [B,C_l,h_l,w_l], shallow to deep.

    `net` computes the maps of normalised images. `weights` is the value of the key `weights` that gives these weights,
    `package` the pip package (name and version) that they come from, if any.
    A student that reads images must use `normalise`, as the teacher does.
    """

    def __init__(self, backbone: str, net: nn.Module, statistics: Statistics, weights: str, package: str | None = None):
        super().__init__()
        self.backbone, self.weights, self.statistics, self.package = backbone, weights, statistics, package
        self.normalise = Normalise(statistics)
        self.net = net
        self.levels = nn.ModuleList()  # see `standardise`
        self.requires_grad_(False)
        self.train(False)

    @property
    def channels(self) -> Sequence[int]:
        return self.net.channels

    def standardise(self, levels: Sequence[tuple[Vector, Vector]]) -> None:
        """From now on subtract from each channel its mean and divide it by its std, which are [C] for each level."""
        self.levels = nn.ModuleList(Standardise(*level) for level in levels).to(self.normalise.mean.device)

    @property
    def standardised(self) -> bool:
        return len(self.levels) > 0

    def forward(self, image: torch.Tensor) -> list[torch.Tensor]:
        maps = self.net(self.normalise(image))
        return [level(m) for level, m in zip(self.levels, maps, strict=True)] if self.standardised else maps


class TeacherPair(Frozen):
    """Two teachers, each with its own normalisation: [B,3,H,W] in [0,1] -> maps of the first, then of the second."""

    def __init__(self, first: Teacher, second: Teacher):
        super().__init__()
        self.first, self.second = first, second
        self.train(False)

    def standardise(self, levels: Sequence[tuple[Vector, Vector]]) -> None:
        count = len(self.first.channels)
        self.first.standardise(levels[:count])
        self.second.standardise(levels[count:])

    @property
    def standardised(self) -> bool:
        return self.first.standardised

    def forward(self, image: torch.Tensor) -> list[torch.Tensor]:
        return [*self.first(image), *self.second(image)]
