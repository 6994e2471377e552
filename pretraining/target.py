"""The features a PDN is distilled from (EfficientAD, section 3.1): PatchCore's embedding of a backbone's levels."""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import nn

from models.anomaly_map import resize
from models.pdn import CHANNELS
from models.teachers.features import Features
from utils.errors import UserError


class TargetFeatures(nn.Module):
    """The features that a PDN is distilled from: images [B,3,512,512] -> [B,channels,64,64], PatchCore's embedding.

    PatchCore unfolds 3 x 3 neighbourhoods of two levels, pools each to 1024 values, and both together to `channels`.
    All of this is linear, and no output depends on both levels, so one fixed 3 x 3 convolution per level does it. The
    deeper level can be resized last, because resizing treats all channels alike. If the levels together have `channels`
    channels (128 and 256 of a ResNet-18), the mean over 3 x 3 of each channel is used. Raises UserError unless
    `features` has levels of strides 8 and 16.
    """

    def __init__(self, features: Features, channels: int = CHANNELS):
        super().__init__()
        if features.reduction != [8, 16]:
            raise UserError(
                f"out_indice: a PDN's teacher needs levels with strides 8 and 16 ([2, 3] of a ResNet), "
                f"but these of '{features.backbone}' have {features.reduction}"
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
    pooled = torch.eye(channels * 9)  # the outputs for each single value of an unfolded neighbourhood
    for size in sizes:
        pooled = F.adaptive_avg_pool1d(pooled, size)
    return pooled.T.reshape(sizes[-1], channels, 3, 3).contiguous()
