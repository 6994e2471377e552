"""The demo category `weave`: a plain weave of grey-blue warp and raw weft under slanting light."""

from dataclasses import dataclass, replace
from math import cos, pi, radians, sin

import numpy as np

from datasets.demo.draw import Array, Random, bent, blob, blur, curve, grid, lambert, noise, paint, ramp, rgb, shifted

YARNS = 25  # across the picture
LIGHT = (-0.35, -0.45, 0.82)
WARP, WEFT, BEHIND = rgb(0.44, 0.47, 0.50), rgb(0.66, 0.64, 0.60), rgb(0.24, 0.22, 0.20)


@dataclass(frozen=True)
class Cloth:
    """One piece of cloth; [n,n] each unless noted. Places are counted in yarns, widths in yarn pitches."""

    warp: Array  # which warp yarn, and where on it: 3.5 is the middle of yarn 3
    weft: Array
    warp_width: Array
    weft_width: Array
    warp_tone: Array
    weft_tone: Array
    tint: Array  # [1 or 3,n,n], the factor of the colour under dirt
    strand: Array  # 0..1, the height of what lies on top
    shade: Array  # share of the light that arrives


def lay(n: int, random: Random) -> Cloth:
    """A flawless Cloth."""
    x, y = grid(n)
    pitch, turn = YARNS * random.uniform(0.97, 1.03), radians(random.uniform(-2, 2))
    warp = pitch * (cos(turn) * x + sin(turn) * y) + random.uniform(4, 6)
    weft = pitch * (cos(turn) * y - sin(turn) * x) + random.uniform(4, 6)
    # the cloth as a whole is slightly distorted, and each yarn varies on its own
    warp = warp + 0.12 * noise(n, random, 3, 3) + 0.045 * noise(n, random, 20, 36)
    weft = weft + 0.12 * noise(n, random, 3, 3) + 0.045 * noise(n, random, 36, 20)
    yarns = random.standard_normal((4, 64)).astype(np.float32)
    i, j = warp.astype(np.int32) % 64, weft.astype(np.int32) % 64
    return Cloth(
        warp=warp,
        weft=weft,
        warp_width=0.85 + 0.03 * yarns[0][i] + 0.04 * noise(n, random, 16, 36),
        weft_width=0.92 + 0.03 * yarns[1][j] + 0.04 * noise(n, random, 36, 16),
        warp_tone=1 + 0.035 * yarns[2][i] + fibres(n, random, 50, 300),
        weft_tone=1 + 0.035 * yarns[3][j] + fibres(n, random, 300, 50),
        tint=(1 + 0.015 * noise(n, random, 6, 6))[None],
        strand=np.zeros((n, n), np.float32),
        shade=np.ones((n, n), np.float32),
    )


def fibres(n: int, random: Random, rows: int, columns: int) -> Array:
    """The yarn's own grain [n,n], stretched along it."""
    return 0.08 * noise(n, random, rows, columns) + 0.04 * noise(n, random, 200, 200)


def profile(across: Array, width: Array) -> Array:
    """Height of a round yarn, `across` from its middle; far below the cloth where there is no yarn."""
    inside = 1 - (2 * across / np.maximum(width, 1e-3)) ** 2
    return np.where(inside > 0, 0.42 * np.sqrt(np.maximum(inside, 0)) * np.minimum(width, 1.4), -0.7)


def photograph(cloth: Cloth) -> Array:
    """The cloth as a picture [3,n,n], 0 to 1."""
    i, j = np.floor(cloth.warp), np.floor(cloth.weft)
    s, t = cloth.warp - i - 0.5, cloth.weft - j - 0.5
    over = 1 - 2 * ((i + j) % 2)  # 1 where the warp passes over the weft, else -1
    warp = profile(s, cloth.warp_width) + 0.25 * over * np.cos(pi * t)
    weft = profile(t, cloth.weft_width) - 0.25 * over * np.cos(pi * s)
    height, on_warp = np.maximum(np.maximum(warp, weft), -0.4), warp > weft
    # the plies run diagonally around the yarn
    tone = np.where(on_warp, cloth.warp_tone, cloth.weft_tone)
    tone = tone + 0.05 * np.sin(np.where(on_warp, 17 * t + 8 * s, 17 * s + 8 * t))
    light = lambert(blur(height, 0.002) / YARNS, LIGHT)
    light = light * (0.55 + 0.45 * ramp(height, -0.4, 0.5)) * tone * cloth.shade * 1.15
    colour = paint(height > -0.39, BEHIND, paint(on_warp, WEFT, WARP) * cloth.tint) * light
    if not cloth.strand.any():
        return colour
    plies = cloth.weft_tone * (1 + 0.12 * np.sin(9 * (cloth.warp + cloth.weft)))
    strand = lambert(0.4 * cloth.strand / YARNS, LIGHT) * (0.6 + 0.5 * cloth.strand) * plies
    return paint(ramp(cloth.strand, 0, 0.7), colour, WEFT * 1.1 * strand)


def hole(cloth: Cloth, random: Random, severity: float) -> tuple[Cloth, Array]:
    """The yarns get thin, and break if it is severe."""
    n = cloth.warp.shape[0]
    middle, radius = random.uniform(0.12, 0.88, 2), 0.03 + 0.075 * severity * random.uniform(0.6, 1)
    spot = blob(n, random, middle, radius, 0.9)
    # every yarn wears at its own place
    worn = (0.25 + 1.35 * severity) * spot
    warp_left = np.clip(1 - worn * (1 + 0.5 * noise(n, random, 14, 60)), 0, 1)
    weft_left = np.clip(1 - worn * (1 + 0.5 * noise(n, random, 60, 14)), 0, 1)
    strand = np.zeros((n, n), np.float32)
    for _ in range(int(4 * severity)):
        start = middle + random.normal(0, 0.4 * radius, 2)
        strand = np.maximum(strand, round_line(n, bent(random, start, random.uniform(0, 2 * pi), radius, 0.6), 0.0022))
    widths = {"warp_width": cloth.warp_width * warp_left, "weft_width": cloth.weft_width * weft_left}
    return replace(cloth, strand=strand, **widths), np.maximum(spot, strand)


def stain(cloth: Cloth, random: Random, severity: float) -> tuple[Cloth, Array]:
    """A liquid has dried: darker, with a rim."""
    n = cloth.warp.shape[0]
    radius = 0.035 + 0.07 * random.uniform(0.2, 1) * (0.4 + 0.6 * severity)
    spot = blob(n, random, random.uniform(0.12, 0.88, 2), radius, 0.3)
    soaked = spot * (1 + 0.12 * noise(n, random, 24, 24) + 1.2 * (1 - spot))
    colour = (rgb(0.55, 0.75, 1.0), rgb(0.9, 0.9, 0.85), rgb(0.4, 0.8, 1.0))[random.integers(3)]
    strength = 0.19 + 0.4 * severity
    return replace(cloth, tint=cloth.tint * (1 - strength * soaked * colour)), spot


def thread(cloth: Cloth, random: Random, severity: float) -> tuple[Cloth, Array]:
    """A yarn is missing for a stretch, is too thick, or lies loose on top."""
    return (missing, thick, loose)[int(3 * random.random())](cloth, random, severity)


def missing(cloth: Cloth, random: Random, severity: float) -> tuple[Cloth, Array]:
    """The yarn is worn thin or gone."""
    name, off, ends = stretch(cloth, random, severity)
    part = ends * (np.abs(off) < 0.5)
    width = getattr(cloth, f"{name}_width") * (1 - (0.3 + 0.7 * severity) * part)
    # what is left of the yarn lies deeper, with less light
    return replace(cloth, **{f"{name}_width": width}, shade=1 - (0.02 + 0.38 * severity) * part), part


def thick(cloth: Cloth, random: Random, severity: float) -> tuple[Cloth, Array]:
    """The yarn is a coarse or a doubled one."""
    name, off, ends = stretch(cloth, random, severity)
    # the yarn spreads and pushes its neighbours together
    push = (0.18 + 0.35 * severity) * off * ends * ramp(np.abs(off), 1.4, 0)
    shine = 1 + (0.06 + 0.12 * severity) * ends * ramp(np.abs(off), 1, 0.4)
    spread = replace(cloth, **{name: getattr(cloth, name) - push}, shade=shine)
    return spread, ends * ramp(np.abs(off), 1.3, 0.7)


def stretch(cloth: Cloth, random: Random, severity: float) -> tuple[str, Array, Array]:
    """A piece of one yarn: "warp" or "weft", distance [n,n] from its middle in yarns, 1..0 towards its ends."""
    x, y = grid(cloth.warp.shape[0])
    name, along = (("warp", y), ("weft", x))[random.integers(2)]
    place = getattr(cloth, name)
    yarn = int(place.mean()) + int(random.integers(-YARNS // 3, YARNS // 3 + 1))
    length = 0.15 + 0.55 * severity * random.uniform(0.5, 1)
    start = random.uniform(0.05, 0.95 - length)
    ends = ramp(along, start, start + 0.02) * ramp(along, start + length, start + length - 0.02)
    return name, place - yarn - 0.5, ends


def loose(cloth: Cloth, random: Random, severity: float) -> tuple[Cloth, Array]:
    """A stray yarn lies on the cloth and throws a shadow."""
    n = cloth.warp.shape[0]
    length = 0.12 + 0.5 * severity * random.uniform(0.5, 1)
    points = bent(random, random.uniform(0.25, 0.75, 2), random.uniform(0, 2 * pi), length, 1.0)
    strand = round_line(n, points, (0.2 + 0.2 * severity) / YARNS)
    shadow = shifted(blur(strand, 0.004), 0.006, 0.007) * (0.25 + 0.3 * severity)
    return replace(cloth, strand=strand, shade=1 - shadow), np.maximum(ramp(strand, 0, 0.3), shadow)


def round_line(n: int, points: Array, radius: float) -> Array:
    """Height [n,n], 0..1, of a round yarn along points [k,2]."""
    x, y = grid(n)
    ends = [np.hypot(x - float(end[0]), y - float(end[1])) for end in (points[0], points[-1])]
    return np.sqrt(np.maximum(1 - (curve(n, points) / radius) ** 2, 0)) * ramp(np.minimum(*ends), 0, 4 * radius)


DEFECTS = {"hole": hole, "stain": stain, "thread": thread}
