"""The trainable half of reverse distillation: a bottleneck that merges the teacher's levels, and a decoder."""

from collections.abc import Sequence

import torch
from torch import nn

from models.blocks import ResNetPlan, halving, init_convolutions


class Bottleneck(nn.Module):
    """One-class bottleneck embedding, MFF then OCE (Deng & Li, CVPR 2022, section 3.2).

    Teacher's maps L x [B,C_l,h_l,w_l], each level half the size of the one before -> [B,2*C_L,h_L/2,w_L/2].
    """

    # The published class also owns a 1x1 convolution and its norm (conv4, bn4) that no forward pass uses;
    # they are left out: with them it has 67,277,824 parameters for wide_resnet50_2, without 58,885,120.

    def __init__(self, plan: ResNetPlan, channels: Sequence[int]):
        super().__init__()
        self.shrink = nn.ModuleList(
            nn.Sequential(*(_halving_relu(a, b) for a, b in zip(channels[k:], channels[k + 1 :], strict=False)))
            for k in range(len(channels))  # nothing to do for the last
        )
        merged = channels[-1] * len(channels)
        self.embed = plan.stage(merged, 2 * channels[-1], plan.depths[-1], "down")
        init_convolutions(self)

    def forward(self, teacher: list[torch.Tensor]) -> torch.Tensor:
        return self.embed(torch.cat([shrink(maps) for shrink, maps in zip(self.shrink, teacher, strict=True)], dim=1))


class Decoder(nn.Module):
    """A ResNet in reverse: embedding [B,2*C_L,h,w] -> maps of the teacher's shapes, shallow to deep.

    No output convolution: the maps are ends of residual blocks, as the teacher's are, and never negative.
    """

    def __init__(self, plan: ResNetPlan, channels: Sequence[int]):
        super().__init__()
        deep_first = list(reversed(channels))
        inputs = [2 * channels[-1], *deep_first]
        # Depths in the order of decoding, as published: the largest maps get the most blocks.
        self.stages = nn.ModuleList(
            plan.stage(a, b, depth, "up") for a, b, depth in zip(inputs, deep_first, plan.depths, strict=False)
        )
        init_convolutions(self)

    def forward(self, embedding: torch.Tensor) -> list[torch.Tensor]:
        maps = [embedding]
        for stage in self.stages:
            maps.append(stage(maps[-1]))
        return maps[:0:-1]


def _halving_relu(inputs: int, outputs: int) -> nn.Sequential:
    return nn.Sequential(halving(inputs, outputs), nn.ReLU(inplace=True))
