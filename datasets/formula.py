"""Pictures made from formulas: an endless stream of textures, shapes and surfaces in which nothing was photographed.

A class is one family with one vector of parameters; its pictures differ by what a camera would change (place, turn,
size, light) and by chance. Lengths are fractions of the picture's side, so a picture shows the same at any size.
"""

from collections.abc import Callable
from functools import lru_cache
from operator import index as as_int
from typing import NamedTuple

import cv2
import numpy as np
from numpy.random import Generator, default_rng

COARSE = 128  # random spectra are drawn for this side; a larger picture only adds finer waves to them
SHIFT = 4  # OpenCV draws at 1/16 of a pixel


class FormulaImages:
    """Picture `index` for every index >= 0: [size,size,3] uint8 RGB, fixed by (seed, index) alone.

    With `classes` it is an instance of class `index % classes`, without, every index is a class of its own.
    ValueError for a size below 32, a negative seed or index, or less than one class.
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

    def label(self, index: int) -> int:
        """The class of picture `index`; ValueError if the pictures have no classes."""
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


def chromatic(colour):
    """Colour without its light."""
    return colour - colour.mean(axis=-1, keepdims=True)


class Look(NamedTuple):
    """How a field becomes a picture; the class's, with the instance's small changes already in it."""

    ramp: np.ndarray  # [256,3] colours for a field of one channel
    base: np.ndarray  # [3] and
    axes: np.ndarray  # [3,3]: colour = base + (field - 0.5) @ axes, for three channels, the first of which is light
    lamp: np.ndarray  # [2] how the light falls off across the picture, in x and y
    blur: float  # sigma in sides
    noise: float  # sigma, white = 1
    gray_noise: bool


def choose_look(cls, one):
    gray, saturation, contrast = cls.random() < 0.3, cls.beta(1.2, 2.2), cls.uniform(0.65, 1.0)
    lights = np.sort(cls.uniform(0, 1, 4)) * 0.5 + np.array([0, 0.17, 0.33, 0.5])  # apart, so that no ramp is flat
    lights = lights[:: 1 if cls.random() < 0.5 else -1]
    if cls.random() < 0.25:
        lights = lights[[0, 2, 1, 3]]  # a ramp that turns back draws contours
    tint, tints = chromatic(cls.normal(0, 0.25, 3)), chromatic(cls.normal(0, 0.45, (4, 3)))
    middle, sign = cls.uniform(0.37, 0.63), 1 if cls.random() < 0.5 else -1
    tilt, chroma = cls.normal(0, 0.25, 3), cls.normal(0, 0.45, (2, 3))
    blur, noise = cls.uniform(0, 1) ** 3 * 0.008, np.exp(cls.uniform(np.log(0.006), np.log(0.04)))
    lamp, gray_noise = cls.uniform(0, 0.3), cls.random() < 0.5

    gain, shift = 1 + one.normal(0, 0.06), one.normal(0, 0.03)
    balance, toward, strength = one.normal(0, 0.02, 3), one.uniform(0, 2 * np.pi), one.uniform(0.3, 1)
    fuzz = one.uniform(0.5, 1.5, 2)
    if gray:
        saturation, balance = 0, balance[:1]
    saturation *= gain
    anchors = 0.5 + (lights[:, None] - 0.5) * contrast * gain + saturation * (tint + tints) + shift + balance
    steps = np.linspace(0, 3, 256)
    ramp = np.stack([np.interp(steps, range(4), channel) for channel in anchors.T.clip(0.02, 0.98)], axis=1)
    if gray:
        tilt, chroma = 0 * tilt, chroma.mean(axis=1, keepdims=True) * np.ones(3)
    axes = np.stack([sign * contrast * gain * (1 + saturation * tilt), *(chroma * (0.25 + saturation))])
    base = middle + saturation * tint + shift + balance * np.ones(3)
    return Look(
        ramp.astype(np.float32),
        base.astype(np.float32),
        axes.astype(np.float32),
        (lamp * strength * np.array([np.cos(toward), np.sin(toward)])).astype(np.float32),
        blur * fuzz[0],
        noise * fuzz[1],
        gray or gray_noise,
    )


def finish(field, look, one):
    """Field [n,n] or [n,n,3], about 0..1, to picture [n,n,3] uint8: colour, light, blur, noise."""
    size = len(field)
    if field.ndim == 2:
        rgb = look.ramp[np.clip(field * 255 + 0.5, 0, 255).astype(np.uint8)]
    else:
        rgb = cv2.transform(field, np.column_stack([look.axes.T, look.base - look.axes.sum(axis=0) / 2]))
    x, y = grid(size)
    rgb *= (1 + look.lamp[0] * (x - 0.5) + look.lamp[1] * (y - 0.5))[..., None]
    if look.blur * size > 0.3:
        rgb = cv2.GaussianBlur(rgb, (0, 0), look.blur * size)
    if look.gray_noise:
        rgb += look.noise * normal(one, (size, size, 1))
    else:
        rgb += look.noise * normal(one, (size, size, 3))
    rgb *= 255
    return np.clip(rgb, 0, 255, out=rgb).astype(np.uint8)


def enough_contrast(field, least=0.16):
    """The field, spread about its mean where its light would hardly be seen."""
    light = field if field.ndim == 2 else field[..., 0]
    mean, deviation = (float(value[0, 0]) for value in cv2.meanStdDev(light))
    if deviation < least:
        spread = (light - mean) * (least / (deviation + 1e-6)) + min(max(mean, 0.3), 0.7)
        if field.ndim == 2:
            return spread
        field[..., 0] = spread
    return field


# What families are made of


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
    """Smooth noise of about unit spread with `knots` random values a side: [size,size(,channels)] float32."""
    return cv2.resize(normal(one, (knots, knots, channels)), (size, size), interpolation=cv2.INTER_CUBIC)


def filtered(one, size, gain):
    """White noise through a filter with `gain` [size,size//2+1], mean 0 and spread 1: [size,size] float32."""
    fine = default_rng(one.integers(2**62))  # apart, because how much is drawn from it depends on the size
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
    """A class's coordinates u, v [size,size] float32 in sides: turned, moved, zoomed and perhaps bent."""
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
    """The whole part, int32, and the rest, float32 in 0..1."""
    whole = np.floor(x)
    return whole.astype(np.int32), x - whole


def step(x, width, size):
    """0 below, 1 above zero, with a ramp of `width`, at least about a pixel; x is in sides."""
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
    """Values [n,3] for things drawn: a few of the class's, varied."""
    own, variety = cls.uniform(0, 255, (5, 3)), cls.uniform(2, 40) * spread
    used = cls.integers(1, 6)
    return np.clip(own[one.integers(0, used, n)] + one.normal(0, variety, (n, 3)), 0, 255)


def outlines(cls, one, n, points=24):
    """Closed curves about 0 with a radius of about 1: [n,points,2]. Ellipses, polygons, stars or lobes, stretched."""
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


# Families: (cls, one, size) -> field [size,size] or [size,size,3] float32, about 0..1


def fractal(cls, one, size):
    """The attractor of a few affine maps by the chaos game, as log density; the hue tells which maps came last."""
    n = int(cls.integers(2, 5))
    turns, sizes = cls.uniform(-np.pi, np.pi, (n, 2)), cls.uniform([0.5, 0.25], [0.88, 0.8], (n, 2))
    sizes = np.minimum(sizes * np.sqrt(cls.uniform(0.6, 1.3) / sizes.prod(axis=1).sum()), 0.9)  # not too thin
    flips, moves, hues = cls.choice([-1, 1], n), cls.uniform(-1, 1, (n, 2)), cls.uniform(0, 1, n)
    copies, backdrop, gamma = max(1, int(cls.integers(-2, 7))), cls.uniform(0, 0.12), cls.uniform(0.5, 1.1)
    spin, extent = cls.uniform(0, 2 * np.pi), cls.uniform(1.5, 2.3)
    turns, sizes = turns + one.normal(0, 0.05, (n, 2)), np.minimum(sizes * jitter(one, 0.03, (n, 2)), 0.92)
    moves, spin = moves + one.normal(0, 0.04, (n, 2)), spin + one.normal(0, 0.25)

    (ca, cb), (sa, sb) = np.cos(turns).T, np.sin(turns).T
    p, q = sizes[:, 0], sizes[:, 1] * flips
    maps = np.stack(
        [ca * p * cb - sa * q * sb, -ca * p * sb - sa * q * cb, moves[:, 0]]
        + [sa * p * cb + ca * q * sb, -sa * p * sb + ca * q * cb, moves[:, 1], hues / 2]
    ).astype(np.float32)
    share = np.abs(p * q) + 0.06
    table = np.repeat(np.arange(n), np.diff(np.round(np.cumsum([0, *share]) / share.sum() * 256).astype(int)))
    burn, kept = 12, 20
    many = int(3000 * (size / 128) ** 1.5)
    fine = default_rng(one.integers(2**62))
    picks = table[fine.integers(0, 256, (burn + kept, many), dtype=np.uint8)]
    x, y, hue = (fine.random(many, dtype=np.float32) for _ in range(3))
    track = np.empty((3, kept, many), np.float32)
    for i, pick in enumerate(picks):
        a, b, e, c, d, f, h = maps[:, pick]
        x, y, hue = a * x + b * y + e, c * x + d * y + f, hue / 2 + h
        if i >= burn:
            track[:, i - burn] = x, y, hue
    x, y, hue = track.reshape(3, -1)
    x, y = x - x.mean(), y - y.mean()
    scale = 0.5 / (extent * max(x.std(), y.std()) + 1e-6)
    c, s = np.float32(np.cos(spin) * scale), np.float32(np.sin(spin) * scale)
    column, row = ((v * size).astype(np.int32) for v in (c * x - s * y + np.float32(0.5), s * x + c * y + 0.5))
    inside = (column >= 0) & (column < size) & (row >= 0) & (row < size)
    where = (row * size + column)[inside]
    count = np.bincount(where, minlength=size * size).astype(np.float32)
    shade = np.bincount(where, hue[inside], minlength=size * size).astype(np.float32) / np.maximum(count, 1)
    density = np.log1p(count)
    density = (density / density.max()) ** np.float32(gamma)
    field = cv2.merge([a.reshape(size, size) for a in (density, (shade - 0.5) * (count > 0) + 0.5, density)])
    if copies > 1:
        field = scattered(one, field, copies)
    field[..., 0] += patches(one, size, 5) * np.float32(backdrop)
    return field


def scattered(one, field, copies):
    """The brightest of several turned and shrunk copies of a field [n,n,3]."""
    size, out = len(field), None
    for _ in range(copies):
        zoom, angle, place = 1.15 * copies**-0.35 * jitter(one, 0.2), one.uniform(0, 360), one.uniform(0.15, 0.85, 2)
        matrix = cv2.getRotationMatrix2D((size / 2, size / 2), angle, zoom)
        matrix[:, 2] += (place - 0.5) * size
        moved = cv2.warpAffine(field, matrix, (size, size), borderValue=(0, 0.5, 0))
        out = moved if out is None else np.where(moved[..., :1] > out[..., :1], moved, out)
    return out


def leaves(cls, one, size):
    """Dead leaves: opaque things that fell on one another, sizes after a power law."""
    low, high, power = cls.uniform(0.012, 0.06), cls.uniform(0.08, 0.3), cls.uniform(1.5, 3.5)
    n, rim = 260, cls.random() < 0.25
    low, high = low * jitter(one, 0.15), high * jitter(one, 0.15)
    # inverse of the distribution function of r^-power between the two radii
    a, b = low ** (1 - power), high ** (1 - power)
    radius = (a + (b - a) * one.random(n)) ** (1 / (1 - power))
    drawn, values = canvas(one, cls, size), colours(cls, one, n, 1.5)
    shapes = fixed(outlines(cls, one, n) * radius[:, None, None] + one.uniform(-0.05, 1.05, (n, 1, 2)), size)
    for shape, value in zip(shapes, values.tolist(), strict=True):
        cv2.fillPoly(drawn, [shape], value, cv2.LINE_AA, SHIFT)
        if rim:
            cv2.polylines(drawn, [shape], True, (20, 128, 128), 1, cv2.LINE_AA, SHIFT)
    return unit(drawn)


def clouds(cls, one, size):
    """Noise whose power falls with frequency, stretched along a direction; plain, ridged or in three channels."""
    field, kind = cloud(cls, one, size), cls.integers(4)
    if kind == 1:
        return 1 - np.abs(field) * np.float32(0.7)  # ridges
    if kind == 2:
        return np.float32(0.5) + np.float32(0.5) * np.sin(field * np.float32(cls.uniform(2, 5)))  # contours
    if kind == 3:
        return np.float32(0.5) + np.float32(0.22) * cv2.merge([field, *cv2.split(patches(one, size, 7, 2))])
    return field * np.float32(0.22) + np.float32(0.5)


def cloud(cls, one, size):
    """Anisotropic 1/f noise of spread 1: [size,size] float32."""
    power, lowest = cls.uniform(0.9, 2.6), cls.choice([1, 2, 4, 8])
    stretch, angle = cls.uniform(1, 4) if cls.random() < 0.6 else 1.0, cls.uniform(0, np.pi)
    power, angle, stretch = power * jitter(one, 0.06), angle + one.normal(0, 0.12), stretch * jitter(one, 0.1)
    fx, fy = waves(size)
    c, s = np.float32(np.cos(angle)), np.float32(np.sin(angle))
    squared = ((c * fx + s * fy) * np.float32(stretch)) ** 2 + ((c * fy - s * fx) / np.float32(stretch)) ** 2
    return filtered(one, size, (squared + np.float32(lowest**2)) ** np.float32(-power / 2))


def spots_and_stripes(cls, one, size):
    """Noise of one wavelength, pushed to two levels: looks like what reaction and diffusion make."""
    frequency, width = np.exp(cls.uniform(np.log(4), np.log(20))), cls.uniform(0.08, 0.3)
    aim, aligned = cls.uniform(0, np.pi), max(0, cls.uniform(-3, 4))
    steep, bias, tones = cls.uniform(0.6, 5), cls.uniform(-0.9, 0.9), max(0, cls.uniform(-0.15, 0.15))
    frequency, aim, bias = frequency * jitter(one, 0.1), aim + one.normal(0, 0.12), bias + one.normal(0, 0.1)
    fx, fy = waves(size)
    radius = np.sqrt(fx**2 + fy**2) + np.float32(1e-6)
    along = ((np.float32(np.cos(aim)) * fx + np.float32(np.sin(aim)) * fy) / radius) ** 2
    ring = ((radius - np.float32(frequency)) / np.float32(frequency * width)) ** 2
    field = filtered(one, size, np.exp(np.float32(aligned) * along - ring / 2))
    field = np.float32(0.5) + np.float32(0.5) * np.tanh((field + np.float32(bias)) * np.float32(steep))
    return field * np.float32(0.85) + np.float32(0.08) + patches(one, size, 5) * np.float32(tones)


def cells(cls, one, size):
    """Worley cells: distance to the nearest of scattered points, walls between cells, a tone for each cell."""
    frequency, loose = np.exp(cls.uniform(np.log(3.5), np.log(15))), cls.uniform(0.25, 1)
    stretch, wall, soft = cls.uniform(1, 2) if cls.random() < 0.4 else 1.0, cls.uniform(0.03, 0.3), cls.uniform(0, 0.2)
    tone, dome, rise = cls.uniform(0, 0.8), cls.uniform(-0.8, 0.8), cls.choice([-1, 1]) * cls.uniform(0.2, 0.7)
    u, v = frame(cls, one, size)
    frequency = frequency * jitter(one, 0.1)
    u, v = u * np.float32(frequency), v * np.float32(frequency * stretch)
    points = np.float32(0.5) + np.float32(loose) * (one.random((2, 64 * 64), dtype=np.float32) - np.float32(0.5))
    tones = one.random(64 * 64, dtype=np.float32)
    (i, u), (j, v) = cell_of(u), cell_of(v)
    first = second = np.full((size, size), 9, np.float32)
    owner = np.zeros((size, size), np.int32)
    for dj in (-1, 0, 1):
        row = ((j + dj) & 63) << 6
        for di in (-1, 0, 1):
            cell = row + ((i + di) & 63)
            away = (points[0][cell] + (di - u)) ** 2 + (points[1][cell] + (dj - v)) ** 2
            second = np.minimum(second, np.maximum(first, away))
            np.copyto(owner, cell, where=away < first)
            first = np.minimum(first, away)
    near, gap = np.sqrt(first), np.sqrt(second) - np.sqrt(first)
    inside = step(gap - np.float32(wall), max(soft, 1.5 * frequency / size), size)
    level = np.float32(0.5) + np.float32(tone) * (tones[owner] - np.float32(0.5)) + np.float32(dome) * (near - 0.4)
    return np.float32(0.5 - rise / 2) * (1 - inside) + (level + np.float32(rise / 2)) * inside


def stripes(cls, one, size):
    """A periodic profile along a line, a circle's radius or an angle: bars, rings, rays, wood."""
    kind, frequency = cls.choice(["line", "line", "ring", "ray", "cross"]), np.exp(cls.uniform(np.log(2.5), np.log(16)))
    profile, other = bars(cls), bars(cls)
    wobble, knots, fade = max(0, cls.uniform(-0.6, 0.6)), int(cls.integers(3, 10)), max(0, cls.uniform(-0.25, 0.25))
    ratio = cls.choice([1, 1, 0.5, 2])
    u, v = frame(cls, one, size)
    frequency = frequency * jitter(one, 0.08)
    if kind in ("ring", "ray"):
        u, v = u - u[size // 2, size // 2], v - v[size // 2, size // 2]
        cu, cv = one.uniform(-0.45, 0.45, 2)
        u, v = u - np.float32(cu), v - np.float32(cv)
    if kind == "ring":
        u = np.sqrt(u * u + (v * np.float32(ratio)) ** 2)
    phase = u * np.float32(frequency)
    if kind == "ray":
        rays = round(frequency * 1.5) + 2
        phase = np.arctan2(v, u) * np.float32(rays / (2 * np.pi)) + np.float32(wobble) * np.hypot(u, v) * 6
    phase = phase + patches(one, size, knots) * np.float32(wobble)
    field = along(profile, phase, frequency, size)
    if kind == "cross":
        field = (field + along(other, v * np.float32(frequency * ratio), frequency * ratio, size)) / 2
    return field + patches(one, size, 4) * np.float32(fade)


def bars(cls):
    """One period of a class's profile: [256] float32, from two to five bars, hard or soft."""
    count, soft = int(cls.integers(2, 6)), int(cls.integers(1, 70))
    edges, levels, smooth = cls.integers(0, 256, 5), cls.uniform(0, 1, 5), cls.random() < 0.3
    levels[:2] = [0.05, 0.95]
    if smooth:
        return (0.5 + 0.5 * np.cos(np.linspace(0, 2 * np.pi, 256, endpoint=False))).astype(np.float32)
    cuts = np.sort(edges[:count])
    cuts = (cuts + np.linspace(0, 256, count, endpoint=False)) / 2
    table = levels[np.searchsorted(cuts, np.arange(256), side="right") % count]
    return rolled_mean(table.astype(np.float32), soft)


def rolled_mean(table, width):
    """The periodic table [256], each entry the mean of `width` about it."""
    if width <= 1:
        return table
    width = min(width, 255)
    return cv2.blur(np.tile(table, 3)[None], (width, 1))[0, 256:512]


def along(table, phase, frequency, size):
    """The periodic table at a phase in periods, smoothed to what pixels can show."""
    table = rolled_mean(table, round(256 * frequency / size))
    return table[(phase * np.float32(256)).astype(np.int32) & 255]


def weave(cls, one, size):
    """Threads over and under each other by the class's pattern, in the class's sequence of tones."""
    frequency, repeat = np.exp(cls.uniform(np.log(5), np.log(16))), int(cls.integers(2, 7))
    start, shift = cls.random(repeat) < 0.5, int(cls.integers(1, repeat))
    start[:2] = [True, False]
    sequence, contrast = int(cls.integers(1, 9)), cls.uniform(0.1, 0.7)
    tones, round_, dip = cls.uniform(0, 1, (2, 8)), cls.uniform(0.3, 1), cls.uniform(0.1, 0.5)
    gap, uneven = cls.uniform(0, 0.35), cls.uniform(0, 0.12)
    u, v = frame(cls, one, size, warp=0.5)
    frequency = frequency * jitter(one, 0.1)
    (i, u), (j, v) = cell_of(u * np.float32(frequency)), cell_of(v * np.float32(frequency))
    u, v = u * 2 - 1, v * 2 - 1
    pattern = np.stack([np.roll(start, shift * k) for k in range(repeat)])
    over = pattern[i % repeat, j % repeat]
    tones = tones[:, np.arange(64) % sequence] * contrast + one.normal(0, uneven, (2, 64))
    tones = tones.astype(np.float32)
    across, length = np.where(over, u, v), np.where(over, v, u)
    tone = np.where(over, tones[0][i & 63], tones[1][j & 63] - np.float32(contrast / 2))
    light = 1 - np.float32(round_) * across**2 - np.float32(dip) * length**2
    light = light - np.float32(gap * 2) * (np.abs(across) > 1 - gap)
    return np.float32(0.75) * light + tone - np.float32(0.1)


def tiles(cls, one, size):
    """Rows of tiles or bricks with joints, each with its own tone and perhaps a mark in the middle."""
    frequency, aspect = np.exp(cls.uniform(np.log(2.5), np.log(12))), cls.choice([1, 1, 1.5, 2, 3])
    offset, joint, depth = cls.choice([0, 0, 0.5, 0.33]), cls.uniform(0.03, 0.16), cls.choice([-1, 1])
    tone, bevel, soft = cls.uniform(0, 0.5), cls.uniform(-0.3, 0.3), cls.uniform(0, 0.08)
    mark, inner, period = cls.integers(5), cls.uniform(0.12, 0.35), int(cls.choice([2, 3, 64]))
    own = cls.uniform(-0.5, 0.5, (64, 64))
    u, v = frame(cls, one, size, warp=0.6)
    frequency = frequency / np.sqrt(aspect) * jitter(one, 0.08)
    j, v = cell_of(v * np.float32(frequency * aspect))
    i, u = cell_of(u * np.float32(frequency) + (j & 3).astype(np.float32) * np.float32(offset))
    u, v = u - np.float32(0.5), (v - np.float32(0.5)) / np.float32(aspect)
    tones = own if period < 64 else one.uniform(-0.5, 0.5, (64, 64))
    tones = (tones + one.normal(0, 0.05, (64, 64))).astype(np.float32)
    pixel = frequency / size
    edge = np.minimum(np.float32(0.5) - np.abs(u), np.float32(0.5 / aspect) - np.abs(v))
    inside = step(edge - np.float32(joint / 2), max(soft, 1.5 * pixel), size)
    level = np.float32(tone) * tones[i % period, j % period] + np.float32(bevel) * (u + v) + np.float32(depth * 0.3)
    if mark:
        inner = np.float32(inner / aspect)
        away = [np.hypot(u, v), np.maximum(np.abs(u), np.abs(v)), np.abs(u) + np.abs(v), np.abs(np.hypot(u, v) - inner)]
        middle = step((inner if mark < 4 else inner / 3) - away[mark - 1], max(soft, 1.5 * pixel), size)
        level = level - np.float32(depth * 0.5) * middle
    return np.float32(0.5) + level * inside - np.float32(depth * 0.3) * (1 - inside)


def network(cls, one, size):
    """A small random network from place to colour (a compositional pattern network), its input bent by noise."""
    width, reach, bend = 10, cls.uniform(1.5, 5), max(0, cls.uniform(-0.5, 0.9))
    knots, last, centre = int(cls.integers(4, 9)), cls.uniform(0.6, 2.5), cls.uniform(-0.5, 0.5, 2)
    weights = [cls.normal(0, 1, shape) for shape in ((4, width), (width + 1, width), (width + 1, 3))]
    kinds = cls.integers(0, 4, 2)
    centre, reach, angle = centre + one.normal(0, 0.15, 2), reach * jitter(one, 0.12), one.normal(0, 0.2)
    weights = [(w + one.normal(0, 0.06, w.shape)).astype(np.float32) for w in weights]
    n = min(size, 256)  # smooth enough to be enlarged
    x, y = grid(n)
    bent = patches(one, n, knots, 2) * np.float32(bend / 2)
    x, y = (x - np.float32(0.5 - centre[0])) * np.float32(reach), (y - np.float32(0.5 - centre[1])) * np.float32(reach)
    c, s = np.float32(np.cos(angle)), np.float32(np.sin(angle))
    x, y = c * x - s * y + bent[..., 0], s * x + c * y + bent[..., 1]
    units = np.stack([x, y, np.hypot(x, y), np.ones_like(x)]).reshape(4, -1)
    units = activate(weights[0].T @ units, kinds[0])
    units = activate(weights[1][:width].T @ units + weights[1][width:].T, kinds[1])
    out = weights[2][:width].T @ units * np.float32(last / 3) + weights[2][width:].T * np.float32(0.5)
    out = np.float32(0.5) + np.float32(0.5) * np.tanh(out)
    out = cv2.merge([channel.reshape(n, n) for channel in out])
    return out if n == size else cv2.resize(out, (size, size), interpolation=cv2.INTER_CUBIC)


def activate(units, kind):
    if kind == 0:
        return np.sin(units * 2)
    if kind == 1:
        return np.tanh(units * 2)
    if kind == 2:
        return np.exp(-units * units) * 2 - 1
    return np.abs(units) - 1


def strokes(cls, one, size):
    """Curved strokes of a pen: hair, scribble, hatching, noodles."""
    n, width, length = int(np.exp(cls.uniform(np.log(10), np.log(110)))), cls.uniform(0.004, 0.03), cls.uniform(0.15, 1)
    aim, scatter, curl = cls.uniform(0, np.pi), cls.choice([0.08, 0.3, 3]), cls.uniform(0, 0.5) ** 1.5
    drift, thicknesses = cls.normal(0, 0.15), cls.uniform(0.1, 0.6)
    width, length, n = width * jitter(one, 0.12), length * jitter(one, 0.12), max(6, int(n * jitter(one, 0.12)))
    drawn, values, points = canvas(one, cls, size), colours(cls, one, n), 18
    turns = one.normal(0, scatter, (n, 1)) + np.cumsum(
        one.normal(drift * one.choice([-1, 1], (n, 1)), curl, (n, points)), 1
    )
    steps = np.stack([np.cos(aim + turns), np.sin(aim + turns)], axis=-1) * (length / points)
    paths = np.cumsum(steps, axis=1)
    paths += one.uniform(0, 1, (n, 1, 2)) - paths[:, points // 2, None]
    widths = width * jitter(one, thicknesses, n)
    values[:, 0] = np.where(drawn[0, 0, 0] > 127, values[:, 0] * 0.6, 100 + values[:, 0] * 0.6)
    for path, value, wide in zip(fixed(paths, size), values.tolist(), widths, strict=True):
        cv2.polylines(drawn, [path], False, value, thick(wide, size), cv2.LINE_AA, SHIFT)
    return unit(drawn)


def glyphs(cls, one, size):
    """Marks of a class's own small alphabet, written in lines, on a grid or at random."""
    letters, strokes_, across = int(cls.integers(1, 7)), int(cls.integers(2, 4)), int(cls.integers(3, 11))
    alphabet, curved = cls.integers(0, 4, (6, 3, 4, 2)) / 3 - 0.5, cls.random() < 0.5
    layout, fill, width = cls.choice(["lines", "grid", "random"]), cls.uniform(0.55, 0.85), cls.uniform(0.03, 0.1)
    aim, wander, value = cls.normal(0, 0.3), cls.uniform(0, 0.06), cls.uniform(0, 255, 3)
    missing, narrow = cls.uniform(0.05, 0.3), cls.uniform(0.7, 1)
    drawn = canvas(one, cls, size)
    value[0] = value[0] * 0.3 if drawn[0, 0, 0] > 127 else 255 - value[0] * 0.3
    t = np.linspace(0, 1, 7)[:, None]
    bezier = np.hstack([(1 - t) ** 3, 3 * t * (1 - t) ** 2, 3 * t * t * (1 - t), t**3])
    alphabet = alphabet[:, :strokes_] + one.normal(0, 0.02, (6, strokes_, 4, 2))
    if curved:
        alphabet = bezier @ alphabet
    cell, aim = jitter(one, 0.08) / across, aim + one.normal(0, 0.08)
    i, j = (a.ravel() for a in np.meshgrid(np.arange(-3, across + 4), np.arange(-3, across + 4)))
    n = len(i)
    turn = aim + one.normal(0, 0.05, n) + (layout == "random") * one.uniform(0, 2 * np.pi, n)
    order = (i * 7 + j * 3) % letters if layout == "grid" else one.integers(0, letters, n)
    shown = (one.random(n) > missing) | (layout == "grid")
    places = np.stack([i + 0.5, j + 0.5], 1) + one.uniform(0, 1, 2) - across / 2
    places = places + one.normal(0, wander + 0.3 * (layout == "random"), (n, 2))
    c, s = np.cos(aim), np.sin(aim)
    places = 0.5 + cell * places @ np.array([[c, s], [-s, c]])
    shown &= (np.abs(places - 0.5) < 0.5 + cell / 2).all(axis=1)
    c, s = np.cos(turn)[:, None, None], np.sin(turn)[:, None, None]
    marks = alphabet[order] * (cell * fill) * jitter(one, 0.06, n)[:, None, None, None]
    x, y = marks[..., 0] * narrow, marks[..., 1]
    marks = np.stack([c * x - s * y, s * x + c * y], axis=-1) + places[:, None, None]
    lines = fixed(marks[shown].reshape(-1, *marks.shape[2:]), size)
    cv2.polylines(drawn, list(lines), False, value.tolist(), thick(width * cell, size), cv2.LINE_AA, SHIFT)
    return unit(drawn)


def shapes(cls, one, size):
    """A few large shapes, filled or as outlines, apart from each other or not."""
    n, radius, spread = int(cls.integers(2, 16)), cls.uniform(0.06, 0.28), cls.uniform(0.05, 0.5)
    hollow, line, inset = cls.uniform(-0.3, 1), cls.uniform(0.008, 0.04), cls.random() < 0.4
    radius = radius * jitter(one, 0.1) * min(1, 2.2 / np.sqrt(n))
    radii = radius * jitter(one, spread, n)
    drawn, values = canvas(one, cls, size), colours(cls, one, n, 0.6)
    values[:, 0] = np.where(np.abs(values[:, 0] - drawn[0, 0, 0]) < 50, (values[:, 0] + 128) % 256, values[:, 0])
    about = outlines(cls, one, n, 48) * radii[:, None, None]
    places = one.uniform(0.02, 0.98, (n, 1, 2))
    empty = one.random(n) < hollow
    for shape, inner, value, open_ in zip(
        fixed(places + about, size), fixed(places + about * 0.5, size), values.tolist(), empty, strict=True
    ):
        if open_:
            cv2.polylines(drawn, [shape], True, value, thick(line, size), cv2.LINE_AA, SHIFT)
        else:
            cv2.fillPoly(drawn, [shape], value, cv2.LINE_AA, SHIFT)
        if inset:
            cv2.fillPoly(drawn, [inner], values[0].tolist(), cv2.LINE_AA, SHIFT)
    return unit(drawn)


def relief(cls, one, size):
    """A smooth landscape of bumps under a lamp: matt shading and a highlight."""
    knots, rough, gloss = int(cls.integers(3, 16)), cls.uniform(0, 0.4), max(0, cls.uniform(-0.5, 0.9))
    aim, height, hard = cls.uniform(0, 2 * np.pi), cls.uniform(0.25, 1.3), cls.uniform(6, 40)
    mirror, tint = cls.integers(3), cls.uniform(0, 0.25)
    aim, height = aim + one.normal(0, 0.2), height * jitter(one, 0.15)
    ground = patches(one, size, knots) + np.float32(rough) * patches(one, size, 2 * knots + 3)
    if mirror == 1:
        ground = np.abs(ground)  # creases
    elif mirror == 2:
        ground = np.tanh(2 * ground)  # plateaus
    dx, dy = (cv2.Sobel(ground, cv2.CV_32F, *order, scale=size * height / (16 * knots)) for order in ((1, 0), (0, 1)))
    z = 1 / np.sqrt(1 + dx * dx + dy * dy)
    lit = (np.float32(0.6 * np.cos(aim)) * dx + np.float32(0.6 * np.sin(aim)) * dy + np.float32(0.8)) * z
    shine = np.float32(gloss) * np.clip(lit, 0, 1) ** np.float32(hard)
    light = np.float32(0.75) * np.clip(lit, -0.2, 1) + shine
    return cv2.merge([light, np.float32(0.5) + np.float32(tint) * ground, np.float32(0.5) + shine / 2])


def surface(cls, one, size):
    """An almost even surface with grain and a few small spots and scratches, whose kind and number are the class's."""
    grain, blend = cls.uniform(0.012, 0.06), cls.uniform(0, 1)
    spots, scratches = max(0, cls.uniform(-10, 40)), max(0, cls.uniform(-12, 14))
    if spots + scratches < 1:
        spots = 6.0
    radius, depth, soft = cls.uniform(0.006, 0.03), cls.choice([-1, 1]) * cls.uniform(0.15, 0.5), cls.uniform(0, 0.008)
    mixed, aim, scatter = max(0, cls.uniform(-0.5, 0.5)), cls.uniform(0, np.pi), cls.choice([0.05, 0.4, 3])
    length, curl, width = cls.uniform(0.08, 0.5), cls.uniform(0, 0.15), cls.uniform(0.003, 0.012)
    stretch, hue, ringed = cls.uniform(1, 2), cls.uniform(-0.3, 0.3), cls.random() < 0.2
    field = cloud(cls, one, size) * np.float32(grain * blend)
    field += patches(one, size, COARSE) * np.float32(grain * (1 - blend)) + np.float32(0.5)
    n, m = max(1 if spots else 0, one.poisson(spots)), max(1 if scratches else 0, one.poisson(scratches))
    drawn = np.full((size, size), 100, np.uint8)
    radii = radius * jitter(one, 0.4, n)
    values = 100 + np.where(one.random(n + m) < mixed, -1, 1) * one.uniform(50, 100, n + m)
    places, turns = one.uniform(0, 1, (n, 2)), one.uniform(0, 180, n)
    centres, axes = fixed(places, size), fixed(np.stack([radii * stretch, radii / stretch], 1), size)
    edge = thick(radius / 3, size) if ringed else -1
    for centre, pair, turn, value in zip(centres.tolist(), axes.tolist(), turns, values[:n], strict=True):
        cv2.ellipse(drawn, centre, pair, turn, 0, 360, value, edge, cv2.LINE_AA, SHIFT)
    turns = aim + one.normal(0, scatter, (m, 1)) + np.cumsum(one.normal(0, curl, (m, 8)), axis=1)
    reach = length * jitter(one, 0.4, m)[:, None, None] / 8
    paths = np.cumsum(np.stack([np.cos(turns), np.sin(turns)], -1) * reach, axis=1) + one.uniform(-0.1, 0.9, (m, 1, 2))
    for path, value in zip(fixed(paths, size), values[n:], strict=True):
        cv2.polylines(drawn, [path], False, value, thick(width, size), cv2.LINE_AA, SHIFT)
    marks = drawn.astype(np.float32) * np.float32(0.01) - 1
    if soft * size > 0.3:
        marks = cv2.GaussianBlur(marks, (0, 0), soft * size)
    return cv2.merge([field + np.float32(depth) * marks, np.float32(0.5) + np.float32(hue) * marks, field])


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
