"""What the drawn scenes share: smooth noise, patches, curves, light.

All lengths are fractions of the picture, so a scene looks the same at every size.
"""

from collections.abc import Sequence
from math import cos, exp, pi, sin

import cv2
import numpy as np

Array = np.ndarray
Random = np.random.Generator


def grid(n: int) -> tuple[Array, Array]:
    """x [1,n] and y [n,1] of the pixel centres, 0 to 1."""
    axis = (np.arange(n, dtype=np.float32) + 0.5) / n
    return axis[None, :], axis[:, None]


def noise(n: int, random: Random, rows: int, columns: int) -> Array:
    """Smooth noise [n,n] around 0, spread about 1; it depends on the lattice, so it is the same at every n."""
    lattice = random.standard_normal((rows, columns)).astype(np.float32)
    return cv2.resize(lattice, (n, n), interpolation=cv2.INTER_CUBIC)


def ramp(value: Array, low: Array | float, high: Array | float) -> Array:
    """0 up to low, 1 from high on, smooth between (low may be the larger one)."""
    t = np.clip((value - low) / (high - low), 0, 1)
    return t * t * (3 - 2 * t)


def blur(image: Array, sigma: float) -> Array:
    """Gaussian blur; sigma is a fraction of the picture."""
    return cv2.GaussianBlur(image, (0, 0), sigma * image.shape[0])


def soft(image: Array, sigma: float) -> Array:
    """A wide blur of [n,n], computed at a quarter of the side because the result is as good."""
    n = image.shape[0]
    small = cv2.resize(image, (n // 4, n // 4), interpolation=cv2.INTER_AREA)
    return cv2.resize(blur(small, sigma), (n, n), interpolation=cv2.INTER_LINEAR)


def rgb(red: float, green: float, blue: float) -> Array:
    """A colour as [3,1,1]; scenes are drawn in planes because numpy is slow on a last axis of 3."""
    return np.float32([red, green, blue])[:, None, None]


def paint(cover: Array, under: Array, over: Array) -> Array:
    """`over` where cover [n,n] is 1, `under` where it is 0; both [3,n,n] or a colour made by rgb()."""
    mixed = (over - under) * cover
    mixed += under
    return mixed


def blob(n: int, random: Random, centre: Array, radius: float, edge: float = 0.3) -> Array:
    """An irregular patch [n,n] in 0..1 that falls off over the outer `edge` part of its radius."""
    x, y = grid(n)
    dx, dy = x - float(centre[0]), y - float(centre[1])
    stretch, turn = exp(random.uniform(-0.3, 0.3)), random.uniform(0, pi)
    along = (cos(turn) * dx + sin(turn) * dy) * stretch
    across = (cos(turn) * dy - sin(turn) * dx) / stretch
    distance = np.hypot(along, across) / radius
    # irregular, at the same two scales for every radius
    angle, outline = np.arctan2(across, along), 1.0
    for k in range(2, 9):
        outline = outline + 0.16 / k * random.normal() * np.cos(k * angle + random.uniform(0, 2 * pi))
    return ramp(distance, outline, outline * (1 - edge))


def curve(n: int, points: Array) -> Array:
    """Distance [n,n] of every pixel from the line through points [k,2]."""
    canvas = np.full((n, n), 255, np.uint8)
    # four fractional bits: points are exact to 1/16 of a pixel
    cv2.polylines(canvas, [np.round(points * n * 16).astype(np.int32)], False, 0, 1, cv2.LINE_8, 4)
    return cv2.distanceTransform(canvas, cv2.DIST_L2, 5) / n


def bent(random: Random, start: Array, heading: float, length: float, bend: float) -> Array:
    """Points [60,2] of a stroke whose heading [rad] wanders by about `bend`."""
    knots = heading + bend * np.cumsum(random.standard_normal(5)) / 2
    headings = np.interp(np.linspace(0, 4, 60), np.arange(5), knots)
    steps = np.stack([np.cos(headings), np.sin(headings)], axis=1) * length / 60
    return np.asarray(start) + np.cumsum(steps, axis=0)


def shifted(image: Array, dx: float, dy: float) -> Array:
    """The picture [n,n] moved by (dx, dy), its border repeated."""
    n = image.shape[0]
    move = np.float32([[1, 0, dx * n], [0, 1, dy * n]])
    return cv2.warpAffine(image, move, (n, n), borderMode=cv2.BORDER_REPLICATE)


def lambert(height: Array, towards: Sequence[float]) -> Array:
    """Brightness [n,n] of a relief [n,n] lit from towards (x, y, z); 1 on level ground."""
    down, right = np.gradient(height * height.shape[0])
    x, y, z = towards
    return np.maximum(1 - (right * x + down * y) / z, 0) / np.sqrt(1 + right * right + down * down)


def lamp(n: int, random: Random) -> Array:
    """Gain [n,n,3] of one shot: exposure, white balance, uneven light, darker corners."""
    x, y = grid(n)
    exposure, across, down = (
        random.uniform(0.92, 1.08),
        random.uniform(-0.09, 0.09),
        random.uniform(-0.09, 0.09),
    )
    field = 1 + across * (x - 0.5) + down * (y - 0.5) - 0.12 * ((x - 0.5) ** 2 + (y - 0.5) ** 2)
    return field[..., None] * (exposure * (1 + random.normal(0, 0.006, 3))).astype(np.float32)
