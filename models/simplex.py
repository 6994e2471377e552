"""OpenSimplex noise (the 2014 form) and its octaves: the smooth texture that RD++ adds to training images."""

from itertools import product

import numpy as np

STRETCH, SQUISH = 1 / 3, -1 / 6  # from cubic to simplex lattice and back; inverse to each other
NORM = 103  # brings one octave to about +-0.915

# Only lattice points nearer than sqrt(2) contribute. For a point x these can be the 8 corners of its cell and 18 of
# their outer neighbours: at most one index outside the cell, and a sum in 0..3.
OFFSETS = [o for o in product(range(-1, 3), repeat=3) if sum(i in (-1, 2) for i in o) <= 1 and 0 <= sum(o) <= 3]

_SIGNS = ((-1, 1, 1), (1, 1, 1), (-1, -1, 1), (1, -1, 1), (-1, 1, -1), (1, 1, -1), (-1, -1, -1), (1, -1, -1))
_SIZES = ((11, 4, 4), (4, 11, 4), (4, 4, 11))
GRADIENTS = np.array([np.multiply(sign, size) for sign in _SIGNS for size in _SIZES], dtype=np.float64)  # [24,3]


def permutation(seed: int) -> np.ndarray:
    """The values 0..255 in an order that depends on `seed`: [256] int64.

    A shuffle with a 64-bit linear congruential generator, so that a seed gives the same field on every machine.
    """
    seed = int(seed)  # a numpy integer would overflow
    for _ in range(3):
        seed = _next(seed)
    source, perm = list(range(256)), np.empty(256, dtype=np.int64)
    for i in range(255, -1, -1):
        seed = _next(seed)
        r = (seed + 31) % (i + 1)
        perm[i], source[r] = source[r], source[i]
    return perm


def noise3(perm: np.ndarray, x: np.ndarray, y: np.ndarray, z: np.ndarray) -> np.ndarray:
    """One octave at the points (x, y, z), which are broadcast: float64 in about +-0.915.

    A lattice point at distance vector d with gradient g adds (2 - |d|^2)^4 (g.d) if |d|^2 < 2. The published code
    selects points by a case analysis; the sum over all of them differs from it by less than 1e-4.
    """
    x, y, z = np.broadcast_arrays(*(np.asarray(c, dtype=np.float64) for c in (x, y, z)))
    shape, point = x.shape, np.stack([x.ravel(), y.ravel(), z.ravel()])
    base = np.floor(point + SQUISH * point.sum(axis=0)).astype(np.int64)
    from_base = point - base - STRETCH * base.sum(axis=0)
    total = np.zeros(point.shape[1])
    for offset in OFFSETS:
        step = np.add(offset, STRETCH * sum(offset))[:, None]
        near = np.flatnonzero(np.square(from_base - step).sum(axis=0) < 2)
        d = from_base[:, near] - step
        a, b, c = base[:, near] + np.array(offset)[:, None]
        gradient = GRADIENTS[perm[(perm[(perm[a & 255] + b) & 255] + c) & 255] % len(GRADIENTS)].T
        total[near] += (2 - np.square(d).sum(axis=0)) ** 4 * (gradient * d).sum(axis=0)
    return total.reshape(shape) / NORM


def fractal(
    perm: np.ndarray, shape: tuple[int, int, int], octaves: int = 6, persistence: float = 0.6, frequency: float = 32
) -> np.ndarray:
    """The sum of octaves, each twice as fine and `persistence` times as strong as the one before: [C,h,w] float32.

    Coordinates start at 0 and are in pixels, `frequency` pixels to one unit of the first octave; z is the channel,
    so neighbouring channels are nearly equal. RD++ (Tien et al., CVPR 2023), constants of its public code.
    """
    z, y, x = np.ogrid[tuple(slice(0, n) for n in shape)]
    total = np.zeros(shape)
    for octave in range(octaves):
        scale = 2**octave / frequency
        total += persistence**octave * noise3(perm, x * scale, y * scale, z * scale)
    return total.astype(np.float32)


def _next(seed: int) -> int:
    """One step of the generator, wrapped to a signed 64-bit integer."""
    return (seed * 6364136223846793005 + 1442695040888963407 + 2**63) % 2**64 - 2**63
