"""EfficientAD's numbers (Batzner, Heckler & König, WACV 2024): hard loss, statistics, scale of maps, colour changes."""

from collections.abc import Iterable

import numpy as np
import torch
from torchvision.transforms.functional import adjust_brightness, adjust_contrast, adjust_saturation

from datasets.images import MEAN, STD, standardise

CHANGES = (adjust_brightness, adjust_contrast, adjust_saturation)


def hard_feature_loss(difference: torch.Tensor) -> torch.Tensor:
    """Mean of the elements that are no less than the 0.999-quantile of all of them, whatever their shape (algorithm 1).

    `difference` holds the squared differences of a batch's features; gradients reach the elements kept.
    """
    n = difference.numel()
    # The linearly interpolated quantile lies at rank (n-1) 0.999 of the sorted elements, counted from 0, so just those
    # from the next whole rank on are no less. A float product could miss a whole rank, and torch.quantile, besides
    # being slower, refuses more than 2^24 elements in many versions. Of elements that equal the quantile any may be
    # kept: the mean is that of the published mask as long as no two are equal.
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


def channel_statistics(chunks: Iterable[torch.Tensor]) -> tuple[torch.Tensor, torch.Tensor]:
    """Mean and standard deviation (of the population) of each channel of [B,C,h,w] chunks: float64 [C] and [C].

    A channel that never changes gets 1e-6, so that it can be divided by.
    """
    count, mean, squares = 0, 0.0, 0.0
    for chunk in chunks:
        # Chan et al.'s merge of two groups' moments. A difference of large sums would lose a small deviation, and half
        # precision any.
        var, own = torch.var_mean(chunk.double(), dim=(0, 2, 3), correction=0)
        size = chunk.numel() // chunk.shape[1]
        total, shift = count + size, own - mean
        squares = squares + var * size + shift.square() * (count * size / total)
        mean = mean + shift * (size / total)
        count = total
    return mean, (squares / count).sqrt().clamp_min(1e-6)


def jitter(image: torch.Tensor, rng: np.random.Generator) -> torch.Tensor:
    """Normalised images [B,3,H,W] -> same, all with one change of brightness, contrast or saturation by 0.8 to 1.2."""
    change, factor = CHANGES[rng.integers(3)], rng.uniform(0.8, 1.2)
    mean, std = (image.new_tensor(values).view(3, 1, 1) for values in (MEAN, STD))
    return standardise(change((image * std + mean).clamp(0, 1), factor))
