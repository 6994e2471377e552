"""Pictures made from formulas: any number of textures, shapes and surfaces, without a photograph.

A class is one family with one vector of parameters; its pictures differ by what a camera would change (position,
rotation, size, light) and by chance. Lengths are fractions of the side, so a picture looks the same at any size.
"""

import hashlib
from collections.abc import Callable
from operator import index as as_int

import cv2
import numpy as np
from numpy.random import Generator, default_rng

from pretraining.formula.drawings import glyphs, leaves, shapes, strokes, surface
from pretraining.formula.fields import cells, clouds, fractal, network, relief, spots_and_stripes, stripes, tiles, weave
from pretraining.formula.look import choose_look, enough_contrast, finish
from pretraining.formula.parts import SHIFT, fixed, frame, outlines, patches, step, unit


class FormulaImages:
    """Picture `index` for every index >= 0: [size,size,3] uint8 RGB, which depends on (seed, index) only.

    With `classes` it is an instance of class `index % classes`; without, every index is a class of its own.
    Raises ValueError for a size below 32, a negative seed or index, or less than one class.
    """

    def __init__(self, size: int, seed: int = 0, classes: int | None = None):
        self.size, self.seed = as_int(size), as_int(seed)
        self.classes = None if classes is None else as_int(classes)
        if self.size < 32:
            raise ValueError(f"size must be at least 32 pixels, it is {size}")
        if self.seed < 0:
            raise ValueError(f"seed must be 0 or more, it is {seed}")
        if self.classes is not None and self.classes < 1:
            raise ValueError(f"classes must be at least 1, it is {classes}")

    def __getitem__(self, index: int) -> np.ndarray:
        index = self._check(index)
        label = index if self.classes is None else index % self.classes
        cls, one = default_rng((self.seed, 1, label)), default_rng((self.seed, 2, index))
        name = NAMES[cls.integers(len(NAMES))]
        return picture(name, cls, one, self.size)

    def fingerprint(self) -> str:
        """A hash of a small picture of each family: if it is the same, an index still means the same picture."""
        small = (picture(name, default_rng(1), default_rng(2), 32).tobytes() for name in NAMES)
        return hashlib.sha256(b"".join(small)).hexdigest()[:8]

    def label(self, index: int) -> int:
        """The class of picture `index`. Raises ValueError if the pictures have no classes."""
        if self.classes is None:
            raise ValueError("these pictures have no classes: FormulaImages(..., classes=n)")
        return self._check(index) % self.classes

    def _check(self, index):
        index = as_int(index)
        if index < 0:
            raise ValueError(f"index must be 0 or more, it is {index}")
        return index


def picture(name: str, cls: Generator, one: Generator, size: int) -> np.ndarray:
    """One picture of a family: [size,size,3] uint8. The class comes from `cls`, the instance from `one`."""
    look = choose_look(cls, one)
    field = FAMILIES[name](cls, one, size)
    if name != "surface":
        field = enough_contrast(field)
    return finish(field, look, one)


def mixture(cls, one, size):
    """One family inside another: in patches, in a large shape, in bands or on one side."""
    inner, outer = cls.choice(len(PLAIN), 2, replace=False)
    kind, share, tint, knots = cls.integers(4), cls.uniform(-0.5, 0.5), cls.normal(0, 0.3), int(cls.integers(4, 8))
    soft = cls.choice([0, 0, 0.1])
    inner, outer = (three(PLAIN[i](cls, one, size)) for i in (inner, outer))
    u, v = frame(cls, one, size)
    if kind == 0:
        mask = step((patches(one, size, knots) - np.float32(share)) / knots, soft, size)
    elif kind == 1:
        drawn, turn = np.zeros((size, size), np.uint8), one.uniform(0.3, 0.7, (1, 1, 2))
        cv2.fillPoly(drawn, list(fixed(outlines(cls, one, 1, 48) * 0.3 + turn, size)), 255, cv2.LINE_AA, SHIFT)
        mask = unit(drawn)
    elif kind == 2:
        mask = step((np.abs((u * knots) % 2 - 1) - np.float32(0.5 + share / 2)) / knots, soft, size)
    else:
        mask = step(u - u[size // 2, size // 2] + np.float32(one.normal(0, 0.15)), soft, size)
    mask = mask[..., None]
    field = outer + (inner - outer) * mask
    field[..., 1] += np.float32(tint) * (mask[..., 0] - np.float32(0.5))
    return field


def three(field):
    return field if field.ndim == 3 else cv2.merge([field, np.full_like(field, 0.5), field])


PLAIN = (fractal, leaves, clouds, spots_and_stripes, cells, stripes, weave, tiles, network, strokes, glyphs, shapes)
PLAIN = (*PLAIN, relief, surface)

FAMILIES: dict[str, Callable[[Generator, Generator, int], np.ndarray]] = {
    family.__name__: family for family in (*PLAIN, mixture)
}
NAMES = tuple(FAMILIES)
