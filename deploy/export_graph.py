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
# A transposed convolution that doubles the size of a map.
DOUBLING = {"kernel_size": (2, 2), "stride": (2, 2), "padding": (0, 0), "output_padding": (0, 0)}
DOUBLING |= {"dilation": (1, 1), "groups": 1}


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

    With `distances`, the distance at each level instead.
    """

    def __init__(self, detector: Detector, distances: bool):
        super().__init__()
        self.detector, self.distances = detector, distances

    def forward(self, image: torch.Tensor) -> list[torch.Tensor]:
        teacher, student = self.detector.pairs(image)
        return self.detector.levels(teacher, student) if self.distances else [*teacher, *student]


class Head(nn.Module):
    """What `Networks` gives -> what `Whole` gives, for images of `size`. It needs float32.

    Distances are differences of near values, and the precision of a score should not depend on that of the networks.
    """

    def __init__(self, detector: Detector, distances: bool, size: Sequence[int]):
        super().__init__()
        self.detector, self.distances, self.size = detector, distances, size

    def forward(self, outputs: list[torch.Tensor]) -> tuple[torch.Tensor, torch.Tensor]:
        if not self.distances:
            half = len(outputs) // 2
            outputs = self.detector.levels(outputs[:half], outputs[half:])
        anomaly_map = self.detector.final_map(outputs, self.size)
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

        They are the compared maps, `teacher0` ... `student0` ..., or with `distances` the distance at each level,
        `level0` ... With `distances`, the networks are those of `without_doubling`.
        """
        networks = Networks(without_doubling(self.detector) if distances else self.detector, distances)
        with torch.no_grad():
            outputs = networks(self._example)
        kinds = ["level"] if distances else ["teacher", "student"]
        names = [f"{kind}{k}" for kind in kinds for k in range(len(outputs) // len(kinds))]
        first = _graph(networks, self._example, ["image"], names, {"image": BATCH})
        head, dimensions = Head(self.detector, distances, self.size), {"outputs": [BATCH] * len(outputs)}
        return first, _graph(head, outputs, names, OUTPUTS, dimensions, RESIZES)

    @property
    def _example(self) -> torch.Tensor:
        # A batch of one would make the batch size a constant of the graph.
        return torch.rand(2, 3, *self.size, generator=torch.Generator().manual_seed(0))


def on_cpu(detector: Detector) -> Detector:
    """A copy in float32 on the CPU, in eval mode."""
    return copy.deepcopy(detector).to("cpu", torch.float32).eval()


def without_doubling(net: nn.Module) -> nn.Module:
    """A copy in which a 1 x 1 convolution and a pixel shuffle replace each transposed convolution of `DOUBLING`.

    Asked for bfloat16, OpenVINO computes those of the shortcuts in float32: 2 of the 47 ms of RNRD (AMD, one thread).
    """
    net = copy.deepcopy(net)
    for parent in list(net.modules()):
        for name, child in parent.named_children():
            if isinstance(child, nn.ConvTranspose2d) and child.bias is None and _has(child, DOUBLING):
                setattr(parent, name, _shuffled(child))
    return net


def _has(layer: nn.Module, values: dict) -> bool:
    return all(getattr(layer, key) == value for key, value in values.items())


def _shuffled(layer: nn.ConvTranspose2d) -> nn.Sequential:
    """What computes the same: the weights [in,out,2,2] make 4 x out channels, and the shuffle makes pixels of them."""
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
