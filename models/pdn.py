"""EfficientAD's patch description network (Batzner, Heckler & König, WACV 2024), tables 6 and 7."""

import math
from collections import OrderedDict

import torch
import torch.nn.functional as F
from torch import nn

CHANNELS = 384  # of the teacher's maps, the autoencoder's, and each half of the student's

# Tables 6 and 7. Each layer's output channels (None: `channels`), kernel, padding if padding is on, and whether its
# maps are pooled.
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
    """Positions of a PDN's maps along an image side of at least 33 pixels: 56 for 256 pixels, 64 with padding."""
    return math.ceil(side / 4) - (0 if padding else 8)


class PDN(nn.Sequential):
    """Patch description network "small" or "medium": [B,3,H,W] -> [B,channels,h,w] of stride 4, h and w by `pdn_size`.

    A position sees 33 x 33 pixels: (i,j) those from (4i,4j) on, with padding those around (4i,4j). Padding does not
    change the weights, or the values far from the border.
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
        """Only the channels `part` of the maps, which need only that part of the last layer: [B,part,h,w]."""
        *trunk, last = self
        for layer in trunk:
            image = layer(image)
        return F.conv2d(image, last.weight[part], last.bias[part])  # stride 1 and no padding in either kind
