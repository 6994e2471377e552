"""Networks in 8 bits with nncf: the range of every activation comes from good images and from spoiled copies of them.

With good images alone, defects would lie outside of the ranges: their scores can fall by more than half while every
image metric stays at 1.0. The sums at shortcuts stay in float32: what they lose goes straight into the maps that are
compared. With them in 8 bits, a map of a trained STPM moved by 14 %, and without by 4 %.
"""

import contextlib
import io
import logging
import os
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    import onnx
    import openvino

NO_TELEMETRY = "NNCF_CI"  # read when nncf is imported
IN_FLOAT32 = ["Add"]  # the name of a sum in both formats
SIDES = (1 / 16, 1 / 3)  # of a patch, as shares of the image's
KINDS = ("colour", "noise", "elsewhere")  # of patches; each copy gets one of each


def quantized_onnx(networks: "onnx.ModelProto", images: Sequence[np.ndarray]) -> "onnx.ModelProto":
    """`images` [3,h,w] float32 in [0,1] are good ones."""
    return _quantized(networks, [{"image": image[None]} for image in with_spoiled(images)])


def quantized_openvino(networks: "openvino.Model", images: Sequence[np.ndarray]) -> "openvino.Model":
    """`images` as in `quantized_onnx`."""
    return _quantized(networks, [image[None] for image in with_spoiled(images)])


def _quantized(networks: Any, inputs: list) -> Any:
    with _quietly():
        import nncf
        from nncf.quantization.range_estimator import RangeEstimatorParametersSet

        # The full range: nncf's default leaves out the rarest values, which are what matters here.
        ranges = nncf.AdvancedQuantizationParameters(
            activations_range_estimator_params=RangeEstimatorParametersSet.MINMAX
        )
        return nncf.quantize(
            networks,
            nncf.Dataset(inputs),
            preset=nncf.QuantizationPreset.MIXED,  # activations may be negative
            subset_size=len(inputs),
            ignored_scope=nncf.IgnoredScope(types=IN_FLOAT32, validate=False),  # not every network has sums
            advanced_parameters=ranges,
        )


def with_spoiled(images: Sequence[np.ndarray], seed: int = 0) -> list[np.ndarray]:
    """The images [3,h,w] and, of each, a copy with patches: of one colour, of noise, or from another image."""
    rng = np.random.default_rng(seed)
    return [*images, *(_spoiled(image, images, rng) for image in images)]


def _spoiled(image: np.ndarray, others: Sequence[np.ndarray], rng: np.random.Generator) -> np.ndarray:
    image = image.copy()
    for kind in rng.permutation(KINDS):
        sides = [int(rng.uniform(*SIDES) * side) for side in image.shape[1:]]
        place, source = (
            tuple(slice(start, start + side) for start, side in zip(_corner(image, sides, rng), sides, strict=True))
            for _ in range(2)
        )
        if kind == "colour":
            patch = rng.random((3, 1, 1))
        elif kind == "noise":
            patch = rng.random((3, *sides))
        else:
            patch = others[rng.integers(len(others))][(..., *source)][:, ::-1, ::-1]
        image[(..., *place)] = patch
    return image


def _corner(image: np.ndarray, sides: Sequence[int], rng: np.random.Generator) -> list[int]:
    return [int(rng.integers(have - side + 1)) for have, side in zip(image.shape[1:], sides, strict=True)]


@contextlib.contextmanager
def _quietly() -> Iterator[None]:
    """Without nncf's bars and remarks, and without its messages to its makers, which this name switches off."""
    loggers = [logging.getLogger(name) for name in ("nncf", "torch.utils.cpp_extension")]
    levels, before = [logger.level for logger in loggers], os.environ.get(NO_TELEMETRY)
    os.environ[NO_TELEMETRY] = "1"
    for logger in loggers:
        logger.setLevel(logging.ERROR)
    try:
        with contextlib.redirect_stdout(io.StringIO()):
            yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)
        os.environ.pop(NO_TELEMETRY) if before is None else os.environ.update({NO_TELEMETRY: before})
