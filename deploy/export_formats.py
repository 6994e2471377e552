"""The files of an export: ONNX or OpenVINO, in a precision."""

from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

import numpy as np

from deploy.export_graph import Graphs
from deploy.runtime.metadata import HEAD, KEY, MODELS, Metadata
from utils.errors import UserError

if TYPE_CHECKING:
    import onnx
    import openvino

PACKAGES = {"onnx": ["onnx", "onnxscript", "onnxruntime"], "openvino": ["onnx", "onnxscript", "openvino"]}


class Exported(Protocol):
    """A model that can be written, also again with other metadata."""

    def save(self, folder: Path, metadata: Metadata) -> None: ...


def check_possible(kind: str, precision: str) -> None:
    """Raises UserError for a precision that the format lacks here, and naming packages that are missing."""
    missing = [name for name in [*PACKAGES[kind], *(["nncf"] if precision == "int8" else [])] if not find_spec(name)]
    if missing:
        raise UserError(f"--format {kind}: packages are missing: pip install {' '.join(missing)}")
    if precision != "bf16":
        return
    if kind == "onnx":
        raise UserError("--precision bf16: ONNX Runtime has no bfloat16 networks on a CPU; use --format openvino")
    import openvino

    if "BF16" not in openvino.Core().get_property("CPU", "OPTIMIZATION_CAPABILITIES"):
        raise UserError(
            "--precision bf16: this processor has no bfloat16 instructions, so the export could not be checked"
        )


def build(kind: str, precision: str, graphs: Graphs, images: Sequence[np.ndarray]) -> Exported:
    """`images` [3,h,w] float32 in [0,1] are good ones; for fp32 they are not used."""
    if kind == "onnx":
        return OnnxFile(graphs, precision, images)
    return OpenVinoFiles(graphs, precision, images)


class OnnxFile:
    """model.onnx, one graph."""

    def __init__(self, graphs: Graphs, precision: str, images: Sequence[np.ndarray]):
        if precision == "int8":
            from deploy.export_int8 import quantized_onnx

            networks, head = graphs.networks_and_head(distances=False)
            self.model = joined(quantized_onnx(networks, images), head)
        else:
            self.model = graphs.whole()

    def save(self, folder: Path, metadata: Metadata) -> None:
        import onnx

        del self.model.metadata_props[:]
        onnx.helper.set_model_props(self.model, {KEY: metadata.text(), **metadata.about})
        onnx.save(self.model, folder / MODELS["onnx"])


def joined(networks: "onnx.ModelProto", head: "onnx.ModelProto") -> "onnx.ModelProto":
    """Two graphs as one: the outputs of the first are the inputs of the second."""
    import onnx

    names = [output.name for output in networks.graph.output]
    head = onnx.compose.add_prefix(head, "head/", rename_inputs=False, rename_outputs=False)
    return onnx.compose.merge_models(networks, head, [(name, name) for name in names])


class OpenVinoFiles:
    """model.xml and model.bin; in bf16 and int8 these are the networks, and head.xml has the rest, in float32.

    In bf16 the distances are among the networks, and the most sensitive convolutions compute in float32 too.
    """

    def __init__(self, graphs: Graphs, precision: str, images: Sequence[np.ndarray]):
        # The distances need float32. In bf16 they are in the graph of the networks all the same: OpenVINO (2025, 2026)
        # computes what follows the last convolutions in float32, and need not reorder large maps to return them.
        parts = [graphs.whole()] if precision == "fp32" else graphs.networks_and_head(distances=precision == "bf16")
        self.model, *self.head = map(_openvino, parts)
        if precision == "int8":
            from deploy.export_int8 import quantized_openvino

            self.model = quantized_openvino(self.model, images)
        elif precision == "bf16":
            from deploy.export_bf16 import in_float32, sensitive

            self.model = in_float32(self.model, sensitive(self.model, *self.head, images))

    def save(self, folder: Path, metadata: Metadata) -> None:
        self.model.set_rt_info(metadata.text(), [KEY])
        for key, value in metadata.about.items():
            self.model.set_rt_info(value, ["about", key])
        _save(self.model, folder / MODELS["openvino"])
        for head in self.head:
            _save(head, folder / HEAD)


def _openvino(graph: "onnx.ModelProto") -> "openvino.Model":
    import openvino

    return openvino.Core().read_model(graph.SerializeToString())


def _save(model: "openvino.Model", path: Path) -> None:
    import openvino

    openvino.save_model(model, path, compress_to_fp16=False)  # its default halves the precision of all weights
