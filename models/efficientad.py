"""EfficientAD's autoencoder and student (Batzner, Heckler & König, WACV 2024), its losses, statistics and scales."""

from collections.abc import Iterable

import numpy as np
import torch
from torch import nn
from torchvision.transforms.functional import adjust_brightness, adjust_contrast, adjust_saturation

from models.anomaly_map import resize
from models.pdn import CHANNELS, PDN, pdn_size

CHANGES = (adjust_brightness, adjust_contrast, adjust_saturation)


class Autoencoder(nn.Module):
    """Predicts a PDN's maps from 64 numbers (table 8): [B,3,H,W] -> [B,channels,h,w], h and w by `pdn_size`.

    For sides of at least 256. From 288 on there is more than one position of 64 numbers, each for a part of the image.
    """

    def __init__(self, channels: int = CHANNELS):
        super().__init__()
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
        return self.predict(resize(x, [pdn_size(side) for side in sides]))


def _decoder_sizes(side: int) -> list[int]:
    """The size of a side in each stage of the decoder. Its even kernels then add 1: 4, 9, 16, 33, 64, 128 for 256."""
    return [side // 64 - 1, side // 32, side // 16 - 1, side // 8, side // 4 - 1, side // 2 - 1]


class EfficientADStudent(nn.Module):
    """All that a run learns: [B,3,H,W] -> S1, S2 and A of [B,384,h,w], the student's halves and the autoencoder's maps.

    It also contains the statistics of a finished run: `mean` and `std` [1,384,1,1] of the teacher's channels, and
    `quantiles` [2,2]: q_a and q_b of the local and of the global map, from held-out images.
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
        """The teacher's maps, scaled as student and autoencoder predict them: [B,384,h,w] -> same."""
        return (teacher - self.mean) / self.std

    def local(self, image: torch.Tensor) -> torch.Tensor:
        """Only S1, which predicts the teacher."""
        return self.pdn.head(image, slice(0, CHANNELS))

    def global_head(self, image: torch.Tensor) -> torch.Tensor:
        """Only S2, which predicts the autoencoder."""
        return self.pdn.head(image, slice(CHANNELS, 2 * CHANNELS))


def hard_feature_loss(difference: torch.Tensor) -> torch.Tensor:
    """Mean of the elements that are not below the 0.999-quantile of all elements, of any shape (algorithm 1).

    `difference` are the squared differences of a batch's features; only the elements kept get gradients.
    """
    n = difference.numel()
    # The linearly interpolated quantile is at rank (n-1) 0.999 of the sorted elements, from 0, so the elements from
    # the next whole rank on are not below it. A float product could miss a whole rank. torch.quantile is slower and
    # refuses more than 2^24 elements in many versions. Of elements equal to the quantile, any may be kept: the mean
    # is that of the published mask if no two elements are equal.
    rank = -(-(n - 1) * 999 // 1000)
    return difference.flatten().topk(n - rank, sorted=False).values.mean()


def calibrated(maps: torch.Tensor, quantiles: torch.Tensor) -> torch.Tensor:
    """Maps of any shape -> same, where `quantiles` [2], q_a and q_b of normal images, become 0 and 0.1."""
    low, high = quantiles
    return 0.1 * (maps - low) / (high - low).clamp_min(1e-12)


def low_and_high(maps: Iterable[torch.Tensor]) -> torch.Tensor:
    """q_a and q_b of normal images: the 0.9- and 0.995-quantile of all values of their maps, float64 [2]."""
    values = torch.cat([part.flatten() for part in maps]).double().cpu().numpy()
    return torch.from_numpy(np.quantile(values, (0.9, 0.995)))  # torch's refuses more than 2^24 values in many versions


def jitter(image: torch.Tensor, rng: np.random.Generator) -> torch.Tensor:
    """Images [B,3,H,W] in [0,1] -> same, with brightness, contrast or saturation of all changed by 0.8 to 1.2."""
    change, factor = CHANGES[rng.integers(3)], rng.uniform(0.8, 1.2)
    return change(image, factor)
