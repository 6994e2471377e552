"""The parts of the formula families: noise, coordinates, edges, and objects to draw."""

from functools import lru_cache

import cv2
import numpy as np
from numpy.random import default_rng

COARSE = 128  # random spectra are drawn for this side; a larger picture only adds finer waves to them
SHIFT = 4  # OpenCV draws at 1/16 of a pixel


def normal(rng, shape):
    return rng.standard_normal(shape, dtype=np.float32)


def jitter(one, by, shape=None):
    """A factor near 1."""
    return np.exp(np.clip(one.normal(0, by, shape), -2.5 * by, 2.5 * by))


@lru_cache(maxsize=16)
def grid(size):
    """Pixel centres in sides: x [1,size], y [size,1] float32."""
    x = ((np.arange(size, dtype=np.float32) + 0.5) / size)[None]
    x.setflags(write=False)
    return x, x.T


@lru_cache(maxsize=16)
def waves(size):
    """Frequencies of rfft2 in cycles per side: x [1,size//2+1], y [size,1] float32."""
    fx, fy = np.fft.rfftfreq(size, 1 / size)[None], np.fft.fftfreq(size, 1 / size)[:, None]
    return fx.astype(np.float32), fy.astype(np.float32)


def patches(one, size, knots, channels=1):
    """Smooth noise of about unit spread with `knots` random values per side: [size,size(,channels)] float32."""
    return cv2.resize(normal(one, (knots, knots, channels)), (size, size), interpolation=cv2.INTER_CUBIC)


def filtered(one, size, gain):
    """White noise through a filter with `gain` [size,size//2+1], mean 0 and spread 1: [size,size] float32."""
    fine = default_rng(one.integers(2**62))  # separate, because the number of values drawn from it depends on the size
    spectrum = coarse = normal(one, (COARSE, COARSE // 2 + 1, 2)).view(np.complex64)[..., 0]
    if size != COARSE:
        k = min(COARSE, size) // 2
        shape = (size, size // 2 + 1)
        spectrum = np.zeros(shape, np.complex64)
        if size > COARSE:
            spectrum = normal(fine, (*shape, 2)).view(np.complex64)[..., 0]
        spectrum[:k, :k], spectrum[-k:, :k] = coarse[:k, :k], coarse[-k:, :k]
    spectrum = spectrum * gain
    spectrum[0, 0] = 0
    field = np.fft.irfft2(spectrum, (size, size)).astype(np.float32, copy=False)
    return field / (field.std() + 1e-12)


def frame(cls, one, size, turn=0.12, zoom=0.12, warp=1.0):
    """A class's coordinates u, v [size,size] float32 in sides: rotated, moved, zoomed and perhaps bent."""
    angle, bend, knots = cls.uniform(0, np.pi), max(0, cls.uniform(-0.06, 0.06)) * warp, cls.integers(4, 8)
    angle, zoom, bend = angle + one.normal(0, turn), jitter(one, zoom), bend * one.uniform(0.5, 1.5)
    (dx, dy), bent = one.uniform(1, 5, 2), patches(one, size, int(knots), 2)
    x, y = grid(size)
    x, y = x * np.float32(zoom) + np.float32(dx), y * np.float32(zoom) + np.float32(dy)
    c, s = np.float32(np.cos(angle)), np.float32(np.sin(angle))
    u, v = c * x - s * y, s * x + c * y
    if bend > 0:
        u += bent[..., 0] * np.float32(bend)
        v += bent[..., 1] * np.float32(bend)
    return u, v


def cell_of(x):
    """The integer part, int32, and the fraction, float32 in 0..1."""
    whole = np.floor(x)
    return whole.astype(np.int32), x - whole


def step(x, width, size):
    """0 below zero, 1 above, with a ramp of `width`, at least about a pixel; x is in sides."""
    return np.clip(x / np.float32(max(width, 1.5 / size)) + np.float32(0.5), 0, 1)


def canvas(one, cls, size):
    """A background to draw on, [size,size,3] uint8: even, or with a soft change of light."""
    level, change = cls.uniform(40, 215, 3), max(0, cls.uniform(-60, 60))
    light = patches(one, size, 4) * np.float32(change)
    drawn = np.empty((size, size, 3), np.uint8)
    drawn[...] = level
    drawn[..., 0] = np.clip(light + np.float32(level[0]), 0, 255)
    return drawn


def fixed(points, size):
    """Points in sides to OpenCV's fixed-point numbers."""
    return np.round(np.asarray(points) * (size * 2**SHIFT)).astype(np.int32)


def thick(width, size):
    return max(1, round(width * size))


def unit(drawn):
    return drawn.astype(np.float32) * np.float32(1 / 255)


def colours(cls, one, n, spread=1.0):
    """Values [n,3] for drawn objects: a few of the class's colours, varied."""
    own, variety = cls.uniform(0, 255, (5, 3)), cls.uniform(2, 40) * spread
    used = cls.integers(1, 6)
    return np.clip(own[one.integers(0, used, n)] + one.normal(0, variety, (n, 3)), 0, 255)


def outlines(cls, one, n, points=24):
    """Closed curves around 0 with a radius of about 1: [n,points,2]. Ellipses, polygons, stars or lobes, stretched."""
    kind, corners, depth = cls.integers(5), cls.integers(3, 8), cls.uniform(0.25, 0.7)
    stretch, aim, scatter = cls.uniform(1, 3), cls.uniform(0, np.pi), cls.choice([0.1, 0.4, 3])
    lobes, rough = cls.normal(0, 0.2, (2, 4)), max(0, cls.uniform(-0.08, 0.08))
    angle = np.arange(points) * (2 * np.pi / points)
    if kind == 0:
        radius = np.ones(points)
    elif kind == 1:  # straight edges
        part = (angle % (2 * np.pi / corners)) - np.pi / corners
        radius = np.cos(np.pi / corners) / np.cos(part) * 1.2
    elif kind == 2:
        radius = 1 - depth * (0.5 + 0.5 * np.cos(corners * angle)) ** 0.7
    elif kind == 3:
        order = np.arange(1, 5)[:, None]
        radius = 1 + (lobes[0] @ np.cos(order * angle) + lobes[1] @ np.sin(order * angle))
        radius = np.maximum(radius, 0.25)
    else:  # boxes
        radius = 1 / np.maximum(np.abs(np.cos(angle)), np.abs(np.sin(angle)))
    turn = aim + one.normal(0, scatter, n)
    aspect = stretch ** one.uniform(0.7, 1.0, n)
    radius = radius * (1 + rough * one.normal(0, 1, (n, points)))
    x, y = radius * np.cos(angle) * np.sqrt(aspect)[:, None], radius * np.sin(angle) / np.sqrt(aspect)[:, None]
    c, s = np.cos(turn)[:, None], np.sin(turn)[:, None]
    return np.stack([c * x - s * y, s * x + c * y], axis=-1)
