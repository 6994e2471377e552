"""Families computed pixel by pixel: (cls, one, size) -> field [size,size] or [size,size,3] float32, about 0..1."""

import cv2
import numpy as np
from numpy.random import default_rng

from pretraining.formula.parts import cell_of, filtered, frame, grid, jitter, patches, step, waves


def fractal(cls, one, size):
    """The attractor of a few affine maps by the chaos game, as log density; the hue shows which maps came last."""
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
    """Noise of one wavelength, pushed to two levels: looks like a reaction-diffusion pattern."""
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
    """The periodic table [256], each entry replaced by the mean of the `width` entries around it."""
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
    """A small random network from position to colour (a compositional pattern network), its input bent by noise."""
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
