"""One run over several processes, started by torchrun (PyTorch DDP)."""

import atexit
from collections.abc import Callable
from datetime import timedelta
from typing import TypeVar

import torch
import torch.distributed as dist

from utils.errors import UserError
from utils.ranks import is_main, world_size

Value = TypeVar("Value")


def join(device: torch.device) -> None:
    """Connect to the other processes, if there are any."""
    if world_size() > 1 and not dist.is_initialized():
        # The first process validates and writes while the others wait, which may take long on a big set.
        backend = "nccl" if device.type == "cuda" else "gloo"
        dist.init_process_group(backend, timeout=timedelta(hours=2))
        atexit.register(dist.destroy_process_group)


def from_main(make: Callable[[], Value]) -> Value:
    """Call `make` in the first process; all processes return its value or raise its UserError."""
    if not dist.is_initialized():
        return make()
    shared = [None, None]
    if is_main():
        try:
            shared = [make(), None]
        except UserError as error:
            shared = [None, str(error)]
    dist.broadcast_object_list(shared, src=0)
    if shared[1] is not None:
        raise UserError(shared[1])
    return shared[0]


def mean_over_processes(value: torch.Tensor) -> float:
    """The mean of a scalar over all processes."""
    if dist.is_initialized():
        dist.all_reduce(value)
        value /= world_size()
    return value.item()
