"""Statistics of a teacher's maps over many images, channel by channel."""

from collections.abc import Iterable

import torch

SMALLEST = 1e-6  # deviation of a channel that never changes, to avoid a division by zero


class ChannelStatistics:
    """Mean and standard deviation (of the population) of each channel of maps [B,C,h,w] that come in parts."""

    def __init__(self):
        self.count, self.mean, self.squares, self.lowest = 0, 0.0, 0.0, torch.inf

    @classmethod
    def of(cls, parts: Iterable[torch.Tensor]) -> "ChannelStatistics":
        statistics = cls()
        for part in parts:
            statistics.add(part)
        return statistics

    def add(self, maps: torch.Tensor) -> None:
        # Chan et al.'s merge of two groups' moments. A difference of large sums would lose small deviations, and half
        # precision would lose all.
        var, own = torch.var_mean(maps.double(), dim=(0, 2, 3), correction=0)
        size = maps.numel() // maps.shape[1]
        total, shift = self.count + size, own - self.mean
        self.squares = self.squares + var * size + shift.square() * (self.count * size / total)
        self.mean = self.mean + shift * (size / total)
        self.count, self.lowest = total, min(self.lowest, maps.min().item())

    @property
    def moments(self) -> tuple[torch.Tensor, torch.Tensor]:
        """Mean and standard deviation, [C] float64 each."""
        return self.mean, (self.squares / self.count).sqrt().clamp_min(SMALLEST)
