"""Families drawn object by object: (cls, one, size) -> field [size,size] or [size,size,3] float32, about 0..1."""

import cv2
import numpy as np

from pretraining.formula.fields import cloud
from pretraining.formula.parts import COARSE, SHIFT, canvas, colours, fixed, jitter, outlines, patches, thick, unit


def leaves(cls, one, size):
    """Dead leaves: opaque objects on top of each other, with sizes from a power law."""
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


def strokes(cls, one, size):
    """Curved strokes of a pen: hair, scribbles, hatching, noodles."""
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
    """Characters of the class's own small alphabet, in lines, on a grid or at random places."""
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
    """A few large shapes, filled or as outlines, which may overlap."""
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


def surface(cls, one, size):
    """An almost even surface with grain and a few small spots and scratches; the class decides kind and number."""
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
