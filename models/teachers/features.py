"""timm networks as lists of feature maps."""

import difflib
from collections.abc import Sequence

import timm
import torch
from torch import nn

from utils.errors import UserError


class Features(nn.Module):
    """A timm CNN up to its last selected level: [B,3,H,W] -> L x [B,C_l,H/s_l,W/s_l], shallow to deep.

    `backbone` is a timm name, `out_indice` counts its levels (0 = stride 2 ... 4 = stride 32 in most). Weights are
    random; `models.teachers.weights` loads others. Raises UserError if timm has no such name, feature maps or level.
    """

    def __init__(self, backbone: str, out_indice: Sequence[int]):
        super().__init__()
        self.backbone = backbone
        _check_levels(backbone, out_indice)
        self.net = timm.create_model(backbone, pretrained=False, features_only=True, out_indices=tuple(out_indice))
        self.channels: list[int] = self.net.feature_info.channels()
        self.reduction: list[int] = self.net.feature_info.reduction()
        for module in self.modules():
            # timm initialises the last norm of each residual branch with zero; torchvision, which the papers'
            # students use, does not. With zeros, a random teacher would be little more than its stem.
            if isinstance(module, nn.BatchNorm2d):
                nn.init.ones_(module.weight)

    def forward(self, image: torch.Tensor) -> list[torch.Tensor]:
        return self.net(image)

    def check_neighbours(self, first: int | None = None) -> None:
        """Raises UserError unless each level halves the one before, and the first has stride `first` if given."""
        expected = [(first or self.reduction[0]) * 2**k for k in range(len(self.reduction))]
        if self.reduction != expected:
            other = "; use distillType=st or mixed" if len(set(self.reduction)) < len(self.reduction) else ""
            raise UserError(f"out_indice: this method needs levels of strides {expected} (got {self.reduction}){other}")

    def check_multiple(self, size: Sequence[int], key: str = "crop_size") -> None:
        """Raises UserError unless the last level of images of `size` can be halved once more; see `check_positions`."""
        multiple = 2 * self.reduction[-1]
        if any(side % multiple for side in size):
            raise UserError(f"TrainingData.{key} {tuple(size)}: this method needs multiples of {multiple}")
        self.check_positions(size, key)

    def check_positions(self, size: Sequence[int], key: str) -> None:
        """Raises UserError unless the levels of images of `size` are size / stride: some networks do not pad."""
        whole = [tuple(-(-side // stride) for side in size) for stride in self.reduction]
        if whole != (sizes := [tuple(level.shape[2:]) for level in self.check_size(size, key)]):
            raise UserError(f"backbone '{self.backbone}': this method needs levels of {whole} positions (got {sizes})")

    @torch.inference_mode()
    def check_size(self, size: Sequence[int], key: str = "crop_size") -> list[torch.Tensor]:
        """Maps [1,C,h,w] of a [1,3,*size] image; `key` sets its size. Raises UserError if it does not fit."""
        training = self.training
        self.eval()
        try:
            maps = self(torch.zeros(1, 3, *size, device=next(self.parameters()).device))
        except (AssertionError, RuntimeError, ValueError) as error:
            if "memory" in str(error):  # not caused by the network
                raise
            side = self.net.pretrained_cfg["input_size"][-1]  # of the images that timm's weights saw
            if tuple(size) != (side, side):
                self.check_size((side, side), key)  # first what no size can mend
            use = f"write TrainingData.{key}={side}" if key in ("img_size", "crop_size", "tile") else f"use {side}"
            raise UserError(f"backbone '{self.backbone}' cannot take {key} {tuple(size)}; {use}") from None
        finally:
            self.train(training)
        if any(m.ndim != 4 or m.shape[1] != c for m, c in zip(maps, self.channels, strict=True)):
            raise UserError(f"backbone '{self.backbone}' does not give feature maps [B,C,H,W]; choose a CNN")
        return maps


def outline(backbone: str, out_indice: Sequence[int]) -> Features:
    """A `Features` without values, to check the settings before any weights are downloaded."""
    with torch.device("meta"):
        return Features(backbone, out_indice)


def _check_levels(backbone: str, out_indice: Sequence[int]) -> None:
    name = backbone.partition(".")[0]
    if not timm.is_model(name):
        close = difflib.get_close_matches(name, timm.list_models(), n=3)
        hint = f"did you mean {', '.join(close)}?" if close else "see timm.list_models()"
        raise UserError(f"backbone: timm has no model '{name}'; {hint}")
    try:
        with torch.device("meta"):  # shapes only, no memory
            info = timm.create_model(backbone, pretrained=False, features_only=True).feature_info
    except Exception as error:  # timm's networks raise different errors for features_only
        tags = ", ".join(timm.list_models(f"{name}.*", pretrained=True))
        said = f"is not in timm, which has {tags}" if " tag " in str(error) else f"gives no feature maps: {error}"
        raise UserError(f"backbone '{backbone}' {said}") from None
    levels = [f"{i} (stride {level['reduction']}, {level['num_chs']} channels)" for i, level in enumerate(info.info)]
    for index in sorted(set(out_indice) - set(range(len(levels)))):
        raise UserError(f"out_indice: '{backbone}' has no level {index}; it has {', '.join(levels)}")
