"""This process's number among those of torchrun, from the environment."""

import os


def world_size() -> int:
    """Number of processes torchrun started; 1 without it."""
    return int(os.environ.get("WORLD_SIZE", 1))


def rank() -> int:
    return int(os.environ.get("RANK", 0))


def is_main() -> bool:
    """Only the first process prints and writes files."""
    return rank() == 0
