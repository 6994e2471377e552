"""One run over several processes, started by torchrun (PyTorch DDP)."""

import os
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist


def world() -> int:
    """Number of processes torchrun started; 1 without it."""
    return int(os.environ.get("WORLD_SIZE", 1))


def rank() -> int:
    return int(os.environ.get("RANK", 0))


def is_main() -> bool:
    """Only the first process prints and writes files."""
    return rank() == 0


def start(device: torch.device) -> None:
    """Join the other processes; nothing to do when there is only this one."""
    if world() > 1 and not dist.is_initialized():
        # The first process validates and writes while the others wait, which may take long on a big set.
        backend = "nccl" if device.type == "cuda" else "gloo"
        dist.init_process_group(backend, timeout=timedelta(hours=2))


def stop() -> None:
    if dist.is_initialized():
        dist.destroy_process_group()


def wait() -> None:
    """Until every process has come here."""
    if dist.is_initialized():
        dist.barrier()


def from_main(value: Any, device: torch.device) -> Any:
    """The first process's value, in every process."""
    shared = [value]
    if dist.is_initialized():
        dist.broadcast_object_list(shared, src=0, device=device)
    return shared[0]
