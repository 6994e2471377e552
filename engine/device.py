"""Where and in which precision a run computes."""

import contextlib
import ctypes
import os
import platform
import sys
from datetime import datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import torch
from torch import nn

from models.detector import unit_range
from utils.errors import UserError

AnyModule = TypeVar("AnyModule", bound=nn.Module)
DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


def choose_device(name: str) -> torch.device:
    """`auto` is CUDA where there is one. Raises UserError for a CUDA device that is not there."""
    available = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if name == "auto":
        name = "cuda" if available else "cpu"
    device = torch.device(name)
    if device.type == "cuda":
        index = int(os.environ.get("LOCAL_RANK", 0)) if device.index is None else device.index
        if index >= available:
            raise UserError(f"device: '{name}' is not there (this machine has {available} CUDA devices)")
        device = torch.device("cuda", index)
        torch.cuda.set_device(device)
    return device


def choose_dtype(precision: str, device: torch.device) -> torch.dtype:
    """`auto` is bfloat16 where the hardware multiplies it, else float16 on CUDA and float32 on a CPU."""
    if precision != "auto":
        return DTYPES[precision]
    if device.type == "cuda":
        return torch.bfloat16 if torch.cuda.is_bf16_supported(including_emulation=False) else torch.float16
    capabilities = getattr(torch.cpu, "get_capabilities", dict)()  # older torch cannot tell
    return torch.bfloat16 if any(capabilities.get(k) for k in ("avx512_bf16", "amx_bf16")) else torch.float32


class Compute(NamedTuple):
    """Where and how networks are computed: the device, and the precision of what is fast in a lower one."""

    device: torch.device
    dtype: torch.dtype

    @classmethod
    def chosen(cls, device: str, precision: str) -> "Compute":
        """As the keys `device` and `precision` say. Raises UserError for a device that is not there."""
        found = choose_device(device)
        return cls(found, choose_dtype(precision, found))

    def __str__(self) -> str:
        """What results depend on beside thread counts: another card of the same kind gives the same."""
        return f"{str(self.dtype).removeprefix('torch.')} on {self.device.type}"

    def place(self, net: AnyModule) -> AnyModule:
        """The network on the device, its convolutions in channels_last."""
        return net.to(self.device, memory_format=torch.channels_last)

    def images(self, image: torch.Tensor) -> torch.Tensor:
        """Images of any dtype that a detector takes -> float32 in [0,1] on the device, channels_last.

        They cross to the device as they are, so 8-bit ones as a quarter of the bytes.
        """
        image = unit_range(image.to(self.device, non_blocking=True))
        return image.contiguous(memory_format=torch.channels_last)

    def autocast(self) -> contextlib.AbstractContextManager:
        """Networks that run inside compute in `dtype` where that is safe."""
        if self.dtype == torch.float32:
            return contextlib.nullcontext()
        return torch.autocast(self.device.type, self.dtype)


def keep_freed_memory() -> None:
    """Let this process reuse big buffers instead of handing them back to the system after every operation.

    By default glibc maps each large tensor anew and the kernel clears its pages each time: a tenth of a training
    step on a CPU. Affects the whole process, so it is for scripts to call; without glibc it does nothing.
    """
    if not sys.platform.startswith("linux"):
        return
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        trim_threshold, top_pad, mmap_threshold = -1, -2, -3  # names in malloc.h
        mallopt(mmap_threshold, 2**25)  # the most it accepts
        mallopt(trim_threshold, 2**31 - 1)
        mallopt(top_pad, 2**28)


def hardware(device: torch.device) -> str:
    """One line for the report: processor, cores, and the GPU in use."""
    cpu = platform.processor() or platform.machine()
    with contextlib.suppress(OSError, StopIteration):
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        cpu = next(line.split(":", 1)[1].strip() for line in lines if line.startswith("model name"))
    gpu = f", {torch.cuda.get_device_name(device)}" if device.type == "cuda" else ""
    return f"{cpu}, {os.cpu_count()} cores{gpu}"


def environment(compute: Compute) -> dict[str, Any]:
    """What a report says of the machine and the packages."""
    packages = ("torch", "timm", "numpy", "opencv-python-headless", "pillow")
    return {
        "hardware": hardware(compute.device),
        "threads": torch.get_num_threads(),
        "precision": str(compute.dtype).removeprefix("torch."),
        "versions": {"python": platform.python_version()} | {name: version(name) for name in packages},
        "date": datetime.now().astimezone().isoformat(timespec="seconds"),
    }
