"""The geometry of the pages' charts: axes, bars and lines in the units of an SVG picture."""

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from evaluation.curves import Curve

BINS = 40
TINY = 1e-9
LOG_FROM = 30  # ratio of the highest to the lowest score from which an axis is logarithmic


class Axis(NamedTuple):
    """Values from `low` to `high` at positions from `start` to `end` of the picture."""

    low: float
    high: float
    start: float
    end: float
    log: bool = False

    @classmethod
    def of(cls, values: Sequence[float], start: float, end: float, room: float = 0.03) -> "Axis":
        """With a little room at both ends, so that a threshold can be outside of all values."""
        low, high = min(values), max(values)
        if low > 0 and high > LOG_FROM * low:
            factor = (high / low) ** room
            return cls(low / factor, high * factor, start, end, True)
        margin = room * (high - low) or max(abs(high), 1e-6) * room
        return cls(low - margin, high + margin, start, end)

    def at(self, value: float) -> float:
        """The position of a value, at most at an end."""
        value, low, high = (math.log(max(v, self.low)) if self.log else v for v in (value, self.low, self.high))
        share = (value - low) / (high - low)
        return self.start + min(max(share, 0), 1) * (self.end - self.start)

    def value(self, share: float) -> float:
        """The value at a share of the axis, 0..1."""
        if self.log:
            return self.low * (self.high / self.low) ** share
        return self.low + share * (self.high - self.low)

    def ticks(self, about: int) -> list[tuple[float, str]]:
        """Round values with their positions, as (position, text)."""
        found = _decades(self.low, self.high) if self.log else _round(self.low, self.high, about)
        return [(self.at(value), f"{value:.10g}") for value in found]


def _round(low: float, high: float, about: int) -> list[float]:
    rough = (high - low) / about
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(k * power for k in (1, 2, 5, 10) if k * power >= rough)
    # 0.3 / 0.1 is a little less than 3.
    return [k * step for k in range(math.ceil(low / step - TINY), math.floor(high / step + TINY) + 1)]


def _decades(low: float, high: float) -> list[float]:
    """Powers of ten, at most about eight; 2 and 5 times them if there are few."""
    first, last = math.floor(math.log10(low)), math.ceil(math.log10(high))
    every = max(1, (last - first) // 8)
    factors = (1, 2, 5) if last - first <= 2 else (1,)
    values = [float(f"{k}e{n}") for n in range(first, last + 1, every) for k in factors]
    return [value for value in values if low <= value <= high]


class Bar(NamedTuple):
    """A bar from the middle line: its left edge, width and height, how many images, and their scores as text."""

    x: float
    width: float
    height: float
    count: int
    scores: str


def bars(groups: Sequence[np.ndarray], axis: Axis, height: float) -> list[list[Bar]]:
    """For each group of scores its bars; the highest of all is `height` high."""
    edges = [axis.value(k / BINS) for k in range(BINS + 1)]
    counts = [np.histogram(group, edges)[0].tolist() for group in groups]
    highest = max(max(each) for each in counts)
    places = [axis.at(edge) for edge in edges]
    return [
        [
            Bar(
                places[k],
                places[k + 1] - places[k],
                count / highest * height,
                count,
                f"{edges[k]:.4g} to {edges[k + 1]:.4g}",
            )
            for k, count in enumerate(each)
            if count
        ]
        for each in counts
    ]


def line(curve: Curve, x: Axis, y: Axis) -> str:
    """The points of an SVG polyline."""
    return " ".join(f"{x.at(a):.1f},{y.at(b):.1f}" for a, b in zip(curve.x, curve.y, strict=True))
