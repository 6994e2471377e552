"""From a family's field to a picture: colours, light, blur and noise."""

from typing import NamedTuple

import cv2
import numpy as np

from pretraining.formula.parts import grid, normal


def chromatic(colour):
    """Colour without its brightness."""
    return colour - colour.mean(axis=-1, keepdims=True)


class Look(NamedTuple):
    """How a field becomes a picture: chosen by the class, including the small changes of the instance."""

    ramp: np.ndarray  # [256,3] colours for a field of one channel
    base: np.ndarray  # [3] and
    axes: np.ndarray  # [3,3]: colour = base + (field - 0.5) @ axes, for three channels, the first of which is light
    lamp: np.ndarray  # [2] how the light decreases across the picture, in x and y
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
    """The field, with more contrast if its brightness varies too little to be seen."""
    light = field if field.ndim == 2 else field[..., 0]
    mean, deviation = (float(value[0, 0]) for value in cv2.meanStdDev(light))
    if deviation < least:
        spread = (light - mean) * (least / (deviation + 1e-6)) + min(max(mean, 0.3), 0.7)
        if field.ndim == 2:
            return spread
        field[..., 0] = spread
    return field
