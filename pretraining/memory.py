"""How much memory a recipe needs at least, and how much there is; checked before anything is built."""

import contextlib
import os
import sys
from pathlib import Path

import torch
from torch import nn

from utils.errors import UserError


def check_fits(needed: int, device: torch.device, what: str, keys: str) -> None:
    """Raises UserError if `what` needs more bytes than `device` has in total; `keys` are the keys to lower."""
    there = total_memory(device)
    if needed > there:
        raise UserError(
            f"{what} needs at least {needed / 1e9:,.1f} GB of memory and this {_name(device)} has "
            f"{there / 1e9:.1f} GB: lower {keys}"
        )


def total_memory(device: torch.device) -> int:
    """Bytes that a process could have if it ran alone; sys.maxsize if the system does not tell."""
    if device.type == "cuda":
        return torch.cuda.get_device_properties(device).total_memory
    limits = [sys.maxsize]
    with contextlib.suppress(AttributeError, OSError, ValueError):  # Windows has no sysconf
        limits.append(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"))
    with contextlib.suppress(OSError, ValueError):  # "max" where cgroups do not limit
        limits.append(int(Path("/sys/fs/cgroup/memory.max").read_text(encoding="ascii")))
    return min(limits)


def kept_values(net: nn.Module, side: int) -> int:
    """Values that training `net`, on the meta device, keeps at least for the gradients of one image [3,side,side].

    The output of each convolution is kept, by the norm or the activation after it.
    """
    kept = []
    hooks = [
        module.register_forward_hook(lambda module, inputs, maps: kept.append(maps.numel()))
        for module in net.modules()
        if isinstance(module, nn.Conv2d)
    ]
    net(torch.empty(1, 3, side, side, device="meta"))
    for hook in hooks:
        hook.remove()
    return sum(kept)


def parameters(net: nn.Module) -> int:
    """Number of learned values."""
    return sum(parameter.numel() for parameter in net.parameters())


def _name(device: torch.device) -> str:
    return "GPU" if device.type == "cuda" else "machine"
