"""The families of formula pictures by the module that draws them, and what holds for the fields of each."""

import numpy as np
from numpy.random import default_rng

from pretraining.formula import FAMILIES


def families_of(module):
    """Name -> family, of those that this module defines."""
    return {name: family for name, family in FAMILIES.items() if family.__module__ == module.__name__}


def assert_fields(family):
    """Fields of twelve classes are finite, float32, and of one or three channels."""
    for label in range(12):
        field = family(default_rng(label), default_rng(100 + label), 48)
        assert field.dtype == np.float32 and field.shape in ((48, 48), (48, 48, 3)) and np.isfinite(field).all()
