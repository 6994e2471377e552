"""A detector as ONNX graphs: the whole of it, or the networks and the head apart.

Decoding, resize and crop stay outside: OpenVINO's ONNX reader ignores that a resize is antialiased.
"""

import contextlib
import copy
import logging
import warnings
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import nn

from models.detector import Detector

if TYPE_CHECKING:
    import onnx
    from onnxscript.onnx_types import FLOAT

OUTPUTS = ["map", "score"]
BATCH = {0: torch.export.Dim("batch")}
TWICE = (2, 2)
DOUBLING = {"kernel_size": TWICE, "stride": TWICE, "padding": (0, 0), "dilation": (1, 1), "groups": 1, "bias": None}


class Whole(nn.Module):
    """Images [B,3,h,w] in [0,1] -> map [B,1,h,w] and its maximum [B]."""

    def __init__(self, detector: Detector):
        super().__init__()
        self.detector = detector

    def forward(self, image: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        anomaly_map = self.detector(image)
        return anomaly_map, anomaly_map.amax(dim=(1, 2, 3))


class Networks(nn.Module):
    """The same images -> the maps that are compared: the teacher's of all levels, then the student's.

    With `distances` their distance at each level instead.
    """

    def __init__(self, detector: Detector, distances: bool):
        super().__init__()
        self.detector, self.distances = by_shuffling(detector), distances

    def forward(self, image: torch.Tensor) -> list[torch.Tensor]:
        teacher, student = self.detector.pairs(image)
        return self.detector.levels(teacher, student) if self.distances else [*teacher, *student]


class Head(nn.Module):
    """What `Networks` gives -> what `Whole` gives, for images of `size`. It needs float32: it subtracts near values."""

    def __init__(self, detector: Detector, distances: bool, size: Sequence[int]):
        super().__init__()
        self.detector, self.distances, self.size = detector, distances, size

    def forward(self, found: list[torch.Tensor]) -> tuple[torch.Tensor, torch.Tensor]:
        half = len(found) // 2
        levels = list(found) if self.distances else self.detector.levels(found[:half], found[half:])
        anomaly_map = self.detector.final_map(levels, self.size)
        return anomaly_map, anomaly_map.amax(dim=(1, 2, 3))


class Graphs:
    """The graphs of a detector for images of `size` (height, width)."""

    def __init__(self, detector: Detector, size: Sequence[int]):
        self.detector, self.size = on_cpu(detector), tuple(size)

    def whole(self) -> "onnx.ModelProto":
        """Input `image`, outputs `map` and `score`."""
        return _graph(Whole(self.detector), self._example, ["image"], OUTPUTS, {"image": BATCH}, RESIZES)

    def networks_and_head(self, distances: bool) -> tuple["onnx.ModelProto", "onnx.ModelProto"]:
        """The outputs of the first are the inputs of the second.

        They are the maps that are compared, `teacher0` ... `student0` ..., or with `distances` those, `level0` ...
        """
        first, second = Networks(self.detector, distances), Head(self.detector, distances, self.size)
        with torch.no_grad():
            found = first(self._example)
        kinds = ["level"] if distances else ["teacher", "student"]
        names = [f"{kind}{k}" for kind in kinds for k in range(len(found) // len(kinds))]
        networks = _graph(first, self._example, ["image"], names, {"image": BATCH})
        head = _graph(second, found, names, OUTPUTS, {"found": [BATCH] * len(found)}, RESIZES)
        return networks, head

    @property
    def _example(self) -> torch.Tensor:
        # A batch of one would make the batch size a constant of the graph.
        return torch.rand(2, 3, *self.size, generator=torch.Generator().manual_seed(0))


def on_cpu(detector: Detector) -> Detector:
    """A copy in float32 on the CPU, in eval mode."""
    return copy.deepcopy(detector).to("cpu", torch.float32).eval()


def by_shuffling(net: nn.Module) -> nn.Module:
    """A copy in which 1 x 1 convolutions and a shuffle of pixels double a map's size, not transposed convolutions.

    OpenVINO computes half of these in float32 when bfloat16 is asked for: they took 5 of the 47 ms of RNRD.
    """
    net = copy.deepcopy(net)
    for parent in list(net.modules()):
        for name, child in parent.named_children():
            if isinstance(child, nn.ConvTranspose2d) and all(getattr(child, key) == DOUBLING[key] for key in DOUBLING):
                setattr(parent, name, _shuffled(child))
    return net


def _shuffled(layer: nn.ConvTranspose2d) -> nn.Sequential:
    """The weights [in,out,2,2] of each output pixel become channels of their own, which the shuffle puts in place."""
    convolution = nn.Conv2d(layer.in_channels, 4 * layer.out_channels, 1, bias=False)
    convolution.weight.data = layer.weight.detach().permute(1, 2, 3, 0).reshape(convolution.weight.shape)
    return nn.Sequential(convolution, nn.PixelShuffle(2))


def resize_by_products(
    maps: "FLOAT", output_size: Sequence[int] | None, align_corners: bool, scale_factors: Sequence[float] | None
) -> "FLOAT":
    """A bilinear resize as two matrix products, for rows and columns: [B,C,h,w] -> [B,C,H,W].

    OpenVINO is slow at resizing one channel on a CPU: three levels to 256 x 256 took 2.5 of the 51 ms of RD in bf16.
    As products they take hardly any time.
    """
    import onnx_ir
    from onnxscript import opset18

    def matrix(axis: int) -> torch.Tensor:  # what a resize makes of the identity: [old size, new size]
        how = {"mode": "linear", "align_corners": align_corners}
        size, scale = (None if each is None else each[axis] for each in (output_size, scale_factors))
        return F.interpolate(torch.eye(maps.shape[axis - 2])[None], size=size, scale_factor=scale, **how)[0]

    rows, columns = (opset18.Constant(value=onnx_ir.tensor(each.numpy())) for each in (matrix(0).T, matrix(1)))
    return opset18.MatMul(rows, opset18.MatMul(maps, columns))


# Not for networks in lower precisions: products would be rounded, too.
RESIZES = {torch.ops.aten.upsample_bilinear2d.vec: resize_by_products}


def _graph(
    net: nn.Module,
    example: torch.Tensor | list[torch.Tensor],
    inputs: list[str],
    outputs: list[str],
    shapes: dict,
    translations: dict | None = None,
) -> "onnx.ModelProto":
    with _quietly(), torch.no_grad():
        program = torch.onnx.export(
            net.eval(),
            (example,),
            dynamo=True,
            dynamic_shapes=shapes,
            input_names=inputs,
            output_names=outputs,
            custom_translation_table=translations,
            verbose=False,
        )
    return program.model_proto


@contextlib.contextmanager
def _quietly() -> Iterator[None]:
    """Without the exporter's remarks on shared batch sizes and optional packages, which do not help a user."""
    logger = logging.getLogger("torch.onnx")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(level)
