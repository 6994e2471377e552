"""Pictures that look alike at first sight, as those of good parts do."""

import numpy as np

from datasets.doctor.facts import look_at
from datasets.doctor.layout import Picture
from tests.conftest import write_image


def part(seed, size=160):
    """The same ring on each picture, with a texture of its own: [size,size,3] uint8."""
    rng, line = np.random.default_rng(seed), np.linspace(-1, 1, size)
    ring = 60 * (np.abs(np.hypot(line[None], line[:, None]) - 0.6) < 0.2)
    texture = np.kron(rng.normal(0, 8, (size // 8, size // 8)), np.ones((8, 8)))
    gray = np.clip(90 + ring + texture, 0, 255)
    return np.repeat(gray[..., None], 3, axis=2).astype(np.uint8)


def written(root, name, image):
    """The facts of a picture of this path, such as train/good/0.png, after writing it."""
    write_image(root / name, image)
    split, defect_type, _ = name.split("/")
    return look_at(Picture(root / name, split, defect_type))
