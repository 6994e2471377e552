"""What the colours of an anomaly map mean: how its values compare with the scores of good images."""

from typing import Any, NamedTuple

import numpy as np

SHARES = {0.1: 0.2, 0.5: 0.375, 0.9: 0.55}  # quantiles of the good images' scores, and their colours
TIMES = {2: 0.69, 10: 0.82, 100: 0.95}  # multiples of the highest of these quantiles, and their colours
RARE = {
    "1:10": 0.05,
    "1:100": 0.275,
    "1:1,000": 0.5,
    "1:10,000": 0.725,
    "highest": 0.95,
}  # shares of pixels with a higher value, and the colours of the values
# 33 equal steps of the colour map inferno, as RGB; colour-blind people can read it too.
INFERNO = """
000004 040312 0b0724 150b37 210c4a 2f0a5b 3d0965 4a0c6b 57106e 64156e 71196e 7d1e6d 8a226a 972766 a32c61 b0315b bc3754
c63d4d d04545 da4e3c e35933 eb6429 f1711f f67e14 f98c0a fb9b06 fcaa0f fbba1f f9c932 f5d949 f2e865 f3f586 fcffa4
"""
INFERNO = np.frombuffer(bytes.fromhex(INFERNO), np.uint8).reshape(-1, 3)
TINY = float(np.finfo(np.float32).tiny)  # for maps that are zero everywhere


class Scale(NamedTuple):
    """Values of a map, ascending above 0, and their colours, from 0 (black) to 1 (pale yellow), linear in between."""

    values: list[float]
    positions: list[float]
    ticks: list[str]
    meaning: list[str]  # sentences for the legend, of at most 80 letters

    def colour(self, anomaly_map: np.ndarray) -> np.ndarray:
        """A map [H,W] -> [H,W,3] uint8."""
        return colours(np.interp(anomaly_map, [0.0, *self.values], [0.0, *self.positions]))


def colour_scale(normal: dict[str, Any] | None, anomaly_map: np.ndarray) -> Scale:
    """The scale of a student's `normal_scores`, the same for all maps; without them, a scale of this map alone.

    A pixel's colour shows where its value would be among the scores of the good images. It is based on quantiles, so
    that one unusual image does not change the scale, neither by its score nor by the area where its map is high.
    """
    if normal is None:
        return _own_scale(anomaly_map)
    scores = sorted(normal["scores"])
    steps = []
    for share, position in SHARES.items():
        no_higher = int(share * (len(scores) - 1)) + 1
        usual = max(scores[no_higher - 1], TINY)
        steps.append((usual, position, f"{no_higher} of {len(scores)}"))
    steps += [(times * usual, position, f"{times} x") for times, position in TIMES.items()]
    tick = f"{no_higher} of {len(scores)}"
    meaning = [
        f"Colours compare each value with the scores of {good_ones(normal)}.",
        f"{tick}: {no_higher} of them score no higher. 2 x: twice the value at {tick}.",
    ]
    return Scale(*_increasing(steps), meaning)


def good_ones(normal: dict[str, Any]) -> str:
    """What the scores are of, such as "40 calibration images", or parts, if a part has several images."""
    return f"{len(normal['scores'])} {normal['source']}".replace("images", normal.get("unit", "images"))


def _own_scale(anomaly_map: np.ndarray) -> Scale:
    """Steps by how rare a value is, because the values of a product of levels span many decades."""
    levels = [float(value) for value in np.quantile(anomaly_map, [0.9, 0.99, 0.999, 0.9999, 1.0])]
    levels[-1] = max(levels[-1], TINY)
    steps = [(level, position, tick) for level, (tick, position) in zip(levels, RARE.items(), strict=True)]
    meaning = [
        "Colours compare the values of this map with each other.",
        "1:100 means: 1 pixel in 100 has a higher one.",
    ]
    return Scale(*_increasing(steps), meaning)


def _increasing(steps: list[tuple[float, float, str]]) -> tuple[list[float], list[float], list[str]]:
    """Values, positions and ticks; only steps above 0, and of equal values only the last."""
    kept = [step for step, later in zip(steps, [*steps[1:], (np.inf,)], strict=True) if 0 < step[0] < later[0]]
    values, positions, ticks = zip(*kept, strict=True)
    return list(values), list(positions), list(ticks)


def colours(positions: np.ndarray) -> np.ndarray:
    """[H,W] in 0..1 -> [H,W,3] uint8."""
    steps = np.linspace(0, 1, len(INFERNO))
    channels = [np.interp(np.arange(256) / 255, steps, channel).round().astype(np.uint8) for channel in INFERNO.T]
    return np.stack(channels, axis=-1)[(positions * 255).astype(np.uint8)]
