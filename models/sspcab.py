"""A block that predicts each position from the corners around it, and its self-supervised loss."""

import torch
import torch.nn.functional as F
from torch import nn


class SSPCAB(nn.Module):
    """Self-supervised predictive convolutional attentive block (Ristea et al., CVPR 2022): [B,C,H,W] -> same shape.

    A masked convolution sees the four `kernel_dim` x `kernel_dim` corners of a window of side
    2*kernel_dim + 2*dilation + 1 and never its centre; squeeze-and-excitation then weighs the channels.
    The output is never negative, so a signed input cannot be restored.
    """

    def __init__(self, channels: int, kernel_dim: int = 1, dilation: int = 1, reduction: int = 8):
        super().__init__()
        self.padding = kernel_dim + dilation
        self.shift = kernel_dim + 2 * dilation + 1  # from a corner to the opposite one
        # Top left, bottom left, top right, bottom right.
        self.corners = nn.ModuleList(nn.Conv2d(channels, channels, kernel_dim) for _ in range(4))
        squeezed = max(1, channels // reduction)
        self.gate = nn.Sequential(
            nn.AdaptiveAvgPool2d(1),
            nn.Flatten(),
            nn.Linear(channels, squeezed),
            nn.ReLU(inplace=True),
            nn.Linear(squeezed, channels),
            nn.Sigmoid(),
            nn.Unflatten(1, (channels, 1, 1)),
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        padded = F.pad(x, [self.padding] * 4)
        ends = slice(-self.shift), slice(self.shift, None)
        views = [padded[..., rows, columns] for columns in ends for rows in ends]
        restored = F.relu(sum(corner(view) for corner, view in zip(self.corners, views, strict=True)))
        return self.gate(restored) * restored


def prediction_loss(inputs: torch.Tensor, output: torch.Tensor) -> torch.Tensor:
    """The block's self-supervised loss: mean of (output - inputs)^2, two tensors of one shape -> float32 scalar.

    The inputs are not detached, as published: the layers before the block also learn to be predictable.
    """
    return (output.float() - inputs.float()).square().mean()
