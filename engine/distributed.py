"""One run over several processes, started by torchrun (PyTorch DDP)."""

import atexit
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist

from utils.ranks import world_size


def start(device: torch.device) -> None:
    """Join the other processes; nothing to do when there is only this one."""
    if world_size() > 1 and not dist.is_initialized():
        # The first process validates and writes while the others wait, which may take long on a big set.
        backend = "nccl" if device.type == "cuda" else "gloo"
        dist.init_process_group(backend, timeout=timedelta(hours=2))
        atexit.register(dist.destroy_process_group)


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
