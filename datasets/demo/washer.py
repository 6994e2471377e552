"""The demo category `washer`: a turned steel flange with bolt holes, lying on a rubber mat."""

from dataclasses import dataclass, replace
from math import cos, pi, radians, sin

import cv2
import numpy as np

from datasets.demo.draw import Array, Random, bent, blob, curve, grid, lambert, noise, paint, ramp, rgb, shifted, soft

RIM, HUB, BORE = 0.375, 0.205, 0.12  # radii
BOLTS, BOLT_CIRCLE, BOLT = 6, 0.29, 0.032
SECTOR = 2 * pi / BOLTS
KEY = (0.024, 0.15)  # the keyway's half width, and the distance from the middle to its end
STEEL, MAT = rgb(0.52, 0.53, 0.54), rgb(0.27, 0.29, 0.32)


@dataclass(frozen=True)
class Part:
    """One flange on its mat; [n,n] each unless noted."""

    centre: Array  # [2], x and y
    turn: float  # [rad]
    light: float  # [rad], where the lamp stands
    metal: Array  # 0..1, how much of the pixel is steel
    height: Array  # of the steel
    grooves: Array  # turning marks of the lathe, around 0
    sheen: Array  # strength of the highlight
    mat: Array  # brightness of the ground
    dirt: Array  # colour of dirt on the steel
    cover: Array  # 0..1, how much dirt


def outline(x: Array, y: Array, radius: Array) -> Array:
    """Signed distance [n,n] from the flange's edge in its own frame, above 0 inside the steel."""
    ring = np.minimum(RIM - radius, radius - BORE)
    bolts = np.full_like(radius, 9)
    for angle in np.arange(BOLTS) * SECTOR:
        bolt_x, bolt_y = BOLT_CIRCLE * cos(angle), BOLT_CIRCLE * sin(angle)
        bolts = np.minimum(bolts, (x - bolt_x) ** 2 + (y - bolt_y) ** 2)
    key = np.maximum(np.abs(y) - KEY[0], np.abs(x - KEY[1] / 2) - KEY[1] / 2)
    return np.minimum(np.minimum(ring, np.sqrt(bolts) - BOLT), key)


def lathe(random: Random, radius: Array, angle: Array) -> Array:
    """Turning marks [n,n]: rings that change little along their circumference."""
    rings = 0.6 * random.standard_normal((1, 400)) + 0.5 * random.standard_normal((24, 400))
    rings[-1] = rings[0]
    rings = cv2.GaussianBlur(rings.astype(np.float32), (0, 0), sigmaX=0.7, sigmaY=0.4)
    row = angle % (2 * pi) * (23 / (2 * pi))
    return cv2.remap(rings, radius * 990, row, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REFLECT)


def lay(n: int, random: Random) -> Part:
    """A flawless Part."""
    x, y = grid(n)
    centre = 0.5 + random.uniform(-0.03, 0.03, 2)
    turn, light = random.uniform(0, 2 * pi), radians(random.uniform(-140, -120))
    size = random.uniform(0.98, 1.02)
    dx, dy = (x - float(centre[0])) / size, (y - float(centre[1])) / size
    radius, angle = np.hypot(dx, dy), np.arctan2(dy, dx)
    edge = outline(cos(turn) * dx + sin(turn) * dy, cos(turn) * dy - sin(turn) * dx, radius)
    height = 0.006 * ramp(edge, 0, 0.009) + 0.008 * ramp(radius, HUB + 0.006, HUB - 0.006)
    grain = 0.04 * noise(n, random, 250, 250) + 0.035 * noise(n, random, 110, 110) + 0.025 * noise(n, random, 6, 6)
    grooves = lathe(random, radius, angle + turn)
    # circular brushing shows two bright fans along the line to the lamp and two faint ones across
    facing = np.cos(angle - (light + random.uniform(-0.1, 0.1)) + 0.06 * grooves) ** 2
    fans = facing * (facing**2) ** 2 + 0.35 * ((1 - facing) ** 2) ** 2
    return Part(
        centre=centre,
        turn=turn,
        light=light,
        metal=ramp(edge, -0.001, 0.001),
        height=height,
        grooves=grooves,
        sheen=random.uniform(0.34, 0.44) * fans,
        mat=1 + grain,
        dirt=STEEL,
        cover=np.zeros((n, n), np.float32),
    )


def photograph(part: Part) -> Array:
    """The part as a picture [3,n,n], 0 to 1."""
    x, y = cos(part.light), sin(part.light)
    away = soft(shifted(part.metal, -0.022 * x, -0.022 * y), 0.014)
    ground = part.mat * (1 - 0.5 * away - 0.25 * soft(part.metal, 0.006))
    relief = lambert(part.height, (0.55 * x, 0.55 * y, 0.8))
    face = relief * (1 + 0.055 * part.grooves) + part.sheen * relief**2 * (1 + 0.12 * part.grooves)
    face = face + 0.35 * ramp(relief, 1.12, 1.4)
    steel = paint(part.cover, face * STEEL, part.dirt * relief)
    return paint(part.metal, ground * MAT, steel)


def place(part: Part, random: Random, low: float, high: float) -> Array:
    """x and y of a point on the steel, `low` to `high` from the middle and clear of the bolt holes."""
    angle = part.turn + SECTOR * (random.integers(BOLTS) + random.uniform(0.3, 0.7))
    return part.centre + random.uniform(low, high) * np.array([cos(angle), sin(angle)])


def scratch(part: Part, random: Random, severity: float) -> tuple[Part, Array]:
    """Something hard was dragged over the face: a groove with a raised lip."""
    n = part.metal.shape[0]
    start, side = place(part, random, 0.24, 0.34), (-1, 1)[random.integers(2)]
    outwards = np.arctan2(*(start - part.centre)[::-1])
    # along the rim or inwards; otherwise most strokes would miss the steel
    heading = outwards + side * random.uniform(0.5, 0.8) * pi
    points = bent(random, start, heading, 0.07 + 0.25 * severity * random.uniform(0.4, 1), 0.3)
    width = 0.0035 + 0.003 * severity
    line = ramp(curve(n, points), width, 0) * part.metal
    bare = 0.10 + 0.4 * severity
    sheen = part.sheen * (1 - line) + line * bare * (-0.8, 1.0)[random.integers(2)]
    height = part.height - (0.0006 + 0.0016 * severity) * line
    return replace(part, height=height, sheen=sheen), line


def dent(part: Part, random: Random, severity: float) -> tuple[Part, Array]:
    """A blow has pressed the face in."""
    n = part.metal.shape[0]
    radius = 0.014 + 0.026 * random.uniform(0.4, 1) * (0.3 + 0.7 * severity)
    spot = blob(n, random, place(part, random, 0.235, 0.35), radius, 0.9) * part.metal
    height = part.height - (0.08 + 0.35 * severity) * radius * spot
    return replace(part, height=height, sheen=part.sheen * (1 - 0.6 * spot)), spot


def contamination(part: Part, random: Random, severity: float) -> tuple[Part, Array]:
    """Grease, rust or chips stick to the face."""
    n = part.metal.shape[0]
    middle = place(part, random, 0.17, 0.33)
    radius = 0.011 + 0.035 * random.uniform(0.3, 1) * (0.3 + 0.7 * severity)
    cover = blob(n, random, middle, radius, 0.5)
    for _ in range(random.integers(2, 6)):
        speck = blob(n, random, middle + random.normal(0, 1.6 * radius, 2), radius * random.uniform(0.15, 0.4), 0.5)
        cover = np.maximum(cover, speck)
    cover = cover * part.metal
    colour = (rgb(0.30, 0.19, 0.11), rgb(0.13, 0.12, 0.11), rgb(0.40, 0.36, 0.24))[random.integers(3)]
    uneven = (0.22 + 0.7 * severity) * (1 + 0.2 * noise(n, random, 60, 60))
    return replace(part, dirt=colour, cover=np.clip(cover * uneven, 0, 1)), cover


DEFECTS = {"scratch": scratch, "dent": dent, "contamination": contamination}
