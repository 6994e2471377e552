"""The precision that is fast on this CPU."""

import functools

import torch
from torch import nn

from utils.console import note

INSTRUCTIONS = {"bf16": ("avx512_bf16", "amx_bf16"), "fp16": ("avx512_fp16", "amx_fp16")}  # of x86


def cpu_precision(precision: str, net: nn.Module) -> str:
    """The key `precision` on a CPU, `auto` as bf16 or fp32; a note says if bf16 or fp16 is slow there.

    `auto` is bf16 where the CPU has instructions for it, but fp32 for networks with depthwise convolutions, which gain
    nothing (benchmarks/train.py --backbone).
    """
    capabilities = getattr(torch.cpu, "get_capabilities", dict)()  # older torch cannot tell
    if precision == "auto":
        depthwise = any(isinstance(m, nn.Conv2d) and m.groups == m.in_channels > 1 for m in net.modules())
        fast = any(capabilities.get(name) for name in INSTRUCTIONS["bf16"])
        return "bf16" if fast and not depthwise else "fp32"
    if precision in INSTRUCTIONS and not any(capabilities.get(name, True) for name in INSTRUCTIONS[precision]):
        _note_slow(precision)  # not where torch does not know them, as on ARM
    return precision


@functools.cache  # once per process
def _note_slow(precision: str) -> None:
    note(f"precision: this CPU has no instructions for {precision}, so {precision} may be many times slower than fp32")
