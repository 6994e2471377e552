"""The device and precision of a run."""

import contextlib
import copy
import os
from typing import NamedTuple, TypeVar

import torch
from torch import nn

from models.detector import unit_range
from utils.errors import UserError
from utils.ranks import world_size

AnyModule = TypeVar("AnyModule", bound=nn.Module)
DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


def choose_device(name: str) -> torch.device:
    """The device for the key `device`; `auto` is CUDA if available, under torchrun this process's own GPU.

    Raises UserError for a device that does not exist or that the toolkit does not support.
    """
    if name == "mps":
        raise UserError("device: mps (Apple's GPU) is not supported; write cpu, or cuda with an NVIDIA GPU")
    available = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if name == "auto":
        name = "cuda" if available else "cpu"
    device = torch.device(name)
    if device.type == "cuda":
        if device.index is not None and world_size() > 1:
            raise UserError(f"device: under torchrun each process uses its own GPU; write cuda instead of {name}")
        index = int(os.environ.get("LOCAL_RANK", 0)) if device.index is None else device.index
        if index >= available:
            raise UserError(f"device: '{name}' does not exist (this machine has {available} CUDA devices)")
        device = torch.device("cuda", index)
        torch.cuda.set_device(device)
    return device


def choose_dtype(precision: str, device: torch.device, net: nn.Module) -> torch.dtype:
    """The precision of convolutions and products of `net`: as `precision` says, or for `auto` what is fast there.

    On CUDA, `auto` is bfloat16, or float16 if the GPU does not support it; on a CPU, see `engine.cpu.cpu_precision`.
    """
    if device.type == "cpu":
        from engine.cpu import cpu_precision  # imported only where used

        precision = cpu_precision(precision, net)
    elif precision == "auto":
        precision = "bf16" if torch.cuda.is_bf16_supported(including_emulation=False) else "fp16"
    return DTYPES[precision]


class Compute(NamedTuple):
    """Where and how networks are computed: the device, and the precision of operations that may use a lower one."""

    device: torch.device
    dtype: torch.dtype
    compiled: bool = False  # by torch.compile

    @classmethod
    def chosen(cls, device: torch.device, precision: str, net: nn.Module, compiled: bool = False) -> "Compute":
        """How to compute `net` on `device`, from the keys `precision` and `compile`."""
        if device.type == "cuda":
            torch.backends.cudnn.benchmark = True  # images of one size: the fastest algorithm is searched once
            torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = precision != "fp32"
        return cls(device, choose_dtype(precision, device, net), compiled)

    def __str__(self) -> str:
        """What results depend on, besides the number of threads and the type of the CPU or GPU."""
        return f"{str(self.dtype).removeprefix('torch.')} on {self.device.type}"

    def place(self, net: AnyModule) -> AnyModule:
        """The network on the device, its convolutions in channels_last."""
        return net.to(self.device, memory_format=torch.channels_last)

    def frozen(self, net: AnyModule) -> AnyModule:
        """A network that never changes, for repeated use inside `autocast`.

        Its weights are cast once, in a copy; autocast would cast them again in every pass.
        """
        if self.dtype != torch.float32:
            net = copy.deepcopy(net)
            for module in net.modules():
                if isinstance(module, nn.Conv2d | nn.Linear):
                    module.to(self.dtype)
        if self.compiled:
            net.compile()
        return net

    def images(self, image: torch.Tensor) -> torch.Tensor:
        """Images of any dtype that a detector takes -> float32 in [0,1] on the device, channels_last.

        They are copied to the device before the conversion: 8-bit images need a quarter of the bytes.
        """
        image = unit_range(image.to(self.device, non_blocking=True))
        return image.contiguous(memory_format=torch.channels_last)

    def pinned(self, image: torch.Tensor) -> torch.Tensor:
        """The image in memory from which `images` copies it to a GPU without waiting."""
        return image.pin_memory() if self.device.type == "cuda" else image

    def autocast(self) -> contextlib.AbstractContextManager:
        """A context in which networks compute in `dtype` where that is safe."""
        if self.dtype == torch.float32:
            return contextlib.nullcontext()
        return torch.autocast(self.device.type, self.dtype)
