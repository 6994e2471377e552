"""One seed for every source of randomness."""

import random

import numpy as np
import torch

from engine.seed import set_seed


def drawn(seed):
    """A number of each source."""
    set_seed(seed)
    return random.random(), np.random.random(), torch.rand(1).item()


def test_every_source_repeats_with_the_seed_and_differs_with_another():
    first, again, other = drawn(3), drawn(3), drawn(4)
    assert first == again
    assert all(a != b for a, b in zip(first, other, strict=True))


def test_the_largest_seed_of_a_configuration_is_taken():
    assert drawn(2**32 - 1) == drawn(2**32 - 1)
