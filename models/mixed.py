"""MixedTeacher's shallow pair: a ResNet-18 with one block per level, and a teacher with maps of half the size."""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import nn

from models.blocks import BASIC, init_convolutions, stem
from models.teachers.features import Features
from utils.errors import UserError

WIDTHS = (64, 64, 128, 256, 512)  # channels of ResNet-18's stem and levels 1 to 4


class ReducedResNet(nn.Module):
    """One block per level, each of stride 2: [B,3,H,W] -> L x [B,C_l,h,w], half the size of ResNet-18's levels.

    Raises UserError for level 0, which comes before the blocks.
    """

    def __init__(self, out_indice: Sequence[int]):
        super().__init__()
        if out_indice[0] < 1:
            raise UserError(f"out_indice {list(out_indice)}: with a resnet18 as first backbone, write levels 1 to 4")
        self.out_indice = tuple(out_indice)
        self.stem = stem()
        deepest = self.out_indice[-1]
        self.stages = nn.ModuleList(
            BASIC.stage(a, b, 1, "down") for a, b in zip(WIDTHS[:deepest], WIDTHS[1:], strict=False)
        )
        init_convolutions(self)

    def forward(self, image: torch.Tensor) -> list[torch.Tensor]:
        maps = [self.stem(image)]
        for stage in self.stages:
            maps.append(stage(maps[-1]))
        return [maps[level] for level in self.out_indice]


class HalvedFeatures(nn.Module):
    """A teacher's maps averaged over 2 x 2 positions, to match the sizes of the reduced student's maps."""

    def __init__(self, features: Features):
        super().__init__()
        self.features, self.channels = features, features.channels

    def forward(self, image: torch.Tensor) -> list[torch.Tensor]:
        # An odd side is rounded up, as the student's strided convolutions do.
        return [F.avg_pool2d(maps, 2, ceil_mode=True, count_include_pad=False) for maps in self.features(image)]
