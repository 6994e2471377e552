"""Memories of normal features, and the forward student that reads them (Gu et al., ICCV 2023)."""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import nn

from models.blocks import StudentPlan, init_convolutions, stem


class NormalityMemory(nn.Module):
    """`size` learned keys and values: [B,C,h,w] -> same, the values weighted by the similarity of their keys."""

    def __init__(self, size: int, channels: int, temperature: float = 1.0):
        super().__init__()
        self.keys = nn.Parameter(torch.randn(size, channels))
        self.values = nn.Parameter(torch.randn(size, channels))
        self.channels, self.temperature = channels, temperature

    def forward(self, maps: torch.Tensor) -> torch.Tensor:
        return self._read(maps, self.keys)

    def embed(self, maps: torch.Tensor) -> torch.Tensor:
        """Values weighted by their own similarity: the memory's approximation of these maps, [B,C,h,w] -> same."""
        return self._read(maps, self.values)

    def alignment(self) -> torch.Tensor:
        """Cosine of each key with each value: [size,size]; all zero means orthogonal."""
        with torch.autocast(self.keys.device.type, enabled=False):
            return F.normalize(self.keys, dim=1) @ F.normalize(self.values, dim=1).T

    def _read(self, maps: torch.Tensor, addresses: torch.Tensor) -> torch.Tensor:
        # In full precision: the weights are nearly equal, and half precision would lose their differences.
        with torch.autocast(maps.device.type, enabled=False):
            queries, addresses = F.normalize(maps.float(), dim=1), F.normalize(addresses, dim=1)
            likeness = torch.einsum("bchw,lc->blhw", queries, addresses)
            weights = (likeness / self.temperature).softmax(dim=1)  # over the items of the memory
            return torch.einsum("blhw,lc->bchw", weights, self.values).to(maps.dtype)


class RememberingStudent(nn.Module):
    """An untrained ResNet with a memory after each level except the last: [B,3,H,W] -> L x [B,C_l,h_l,w_l]."""

    def __init__(self, plan: StudentPlan, teacher: Sequence[int], memories: Sequence[NormalityMemory]):
        super().__init__()
        self.stem = stem()
        channels = plan.channels(teacher)
        inputs = [64, *(c + memory.channels for c, memory in zip(channels[:-1], memories, strict=True))]
        sizes = ["same", *["down"] * len(memories)]
        stages = zip(inputs, channels, plan.depths[: len(channels)], sizes, strict=True)
        self.stages = nn.ModuleList(plan.stage(*stage) for stage in stages)
        self.memories = nn.ModuleList(memories)
        init_convolutions(self)
        self.leave = plan.leave(teacher)

    def forward(self, image: torch.Tensor) -> list[torch.Tensor]:
        x = self.stages[0](self.stem(image))
        maps = [self.leave[0](x)]
        for memory, stage, leave in zip(self.memories, self.stages[1:], self.leave[1:], strict=True):
            x = stage(torch.cat([x, memory(maps[-1])], dim=1))
            maps.append(leave(x))
        return maps
