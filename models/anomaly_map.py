"""From one distance map per level to one anomaly map of the image's size."""

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F


def resize(maps: torch.Tensor, size: Sequence[int], align_corners: bool = False) -> torch.Tensor:
    """Bilinear resize: [B,1,h,w] -> [B,1,H,W]."""
    return F.interpolate(maps, size=tuple(size), mode="bilinear", align_corners=align_corners)


def repeat_inner(level: torch.Tensor, border: int) -> torch.Tensor:
    """The outermost `border` positions replaced by the nearest inner ones: [B,1,h,w] -> [B,1,h,w]."""
    y, x = (min(border, (side - 1) // 2) for side in level.shape[-2:])
    inner = level[..., y : level.shape[-2] - y, x : level.shape[-1] - x]
    return F.pad(inner, [x, x, y, y], mode="replicate") if border else level


def sum_levels(levels: Sequence[torch.Tensor], size: Sequence[int], align_corners: bool = False) -> torch.Tensor:
    """Each level at image size, added up: L x [B,1,h,w] -> [B,1,H,W]."""
    return torch.stack([resize(level, size, align_corners) for level in levels]).sum(dim=0)


def share_out(levels: Sequence[torch.Tensor]) -> list[torch.Tensor]:
    """Each level divided by its number of positions, so coarse levels have the largest weight: L x [B,1,h,w].

    At 256 px, levels of 64, 32 and 16 positions per side get 1/4096, 1/1024 and 1/256 (DBFAD, MixedTeacher).
    """
    return [level / math.prod(level.shape[-2:]) for level in levels]


def multiply_levels(levels: Sequence[torch.Tensor], size: Sequence[int]) -> torch.Tensor:
    """Levels multiplied at the finest level's size, then resized: L x [B,1,h,w] -> [B,1,H,W].

    STPM's published code also multiplies at the finest level's size, 64 x 64 for 256-px images.
    """
    finest = max((level.shape[-2:] for level in levels), key=math.prod)
    return resize(torch.stack([resize(level, finest) for level in levels]).prod(dim=0), size)


def smooth(maps: torch.Tensor, sigma: float) -> torch.Tensor:
    """Two-dimensional Gaussian blur, sigma in pixels: [B,1,H,W] -> [B,1,H,W]; 0 means no blur.

    Same kernel and borders as scipy.ndimage.gaussian_filter: radius 4 sigma, edge samples mirrored with
    the edge repeated (torch's own "reflect" padding does not repeat the edge and gives other corners).
    """
    if sigma == 0:
        return maps
    radius = int(4 * sigma + 0.5)
    offsets = torch.arange(-radius, radius + 1, dtype=torch.float32, device=maps.device)
    kernel = torch.exp(-0.5 * (offsets / sigma).square())
    kernel = (kernel / kernel.sum()).view(1, 1, 1, -1)
    for _ in range(2):  # rows, then columns
        maps = F.conv2d(_mirror_rows(maps, radius), kernel).transpose(-1, -2)
    return maps


def _mirror_rows(maps: torch.Tensor, radius: int) -> torch.Tensor:
    """Extend the last axis by `radius` on both sides, d c b a | a b c d | d c b a, however short it is."""
    width = maps.shape[-1]
    index = torch.arange(-radius, width + radius, device=maps.device) % (2 * width)
    return maps[..., torch.where(index < width, index, 2 * width - 1 - index)]
