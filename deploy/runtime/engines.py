"""Exported files in the two inference engines: images [B,3,h,w] float32 in [0,1] -> maps [B,1,h,w] float32."""

from pathlib import Path

import numpy as np

from deploy.runtime.metadata import HEAD, KEY, MODELS, Metadata
from utils.console import note
from utils.errors import UserError


class OnnxEngine:
    """model.onnx in ONNX Runtime."""

    def __init__(self, folder: Path, threads: int):
        try:
            import onnxruntime
        except ImportError:
            raise missing(MODELS["onnx"], "onnxruntime") from None
        path, options = folder / MODELS["onnx"], onnxruntime.SessionOptions()
        options.intra_op_num_threads, options.log_severity_level = threads, 3  # 3: errors
        try:
            self.session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
        except Exception as error:  # its exceptions have no common class
            raise damaged(path, error) from None
        self.metadata = Metadata.read(self.session.get_modelmeta().custom_metadata_map.get(KEY), path)

    def __call__(self, images: np.ndarray) -> np.ndarray:
        return self.session.run(["map"], {"image": images})[0]


class OpenVinoEngine:
    """model.xml in OpenVINO; in bf16 and int8 it has the networks (bf16: and the distances), and head.xml the rest."""

    def __init__(self, folder: Path, threads: int):
        try:
            import openvino
        except ImportError:
            raise missing(MODELS["openvino"], "openvino") from None
        path, core = folder / MODELS["openvino"], openvino.Core()

        def compiled(path: Path, precision: str) -> "openvino.CompiledModel":
            # Without this hint OpenVINO would compute in bfloat16 wherever the processor can, also the distances.
            settings = {"INFERENCE_PRECISION_HINT": precision, "INFERENCE_NUM_THREADS": threads}
            return core.compile_model(core.read_model(path), "CPU", settings)

        try:
            check_complete(path)
            model = core.read_model(path)
            text = model.get_rt_info([KEY]).astype(str) if model.has_rt_info([KEY]) else None
            self.metadata = Metadata.read(text, path)
            bf16 = self.metadata.precision == "bf16"
            if bf16 and "BF16" not in core.get_property("CPU", "OPTIMIZATION_CAPABILITIES"):
                note(
                    f"{path}: this processor has no bfloat16 instructions, so scores differ a little from those of the "
                    "calibration; export the run again with --precision fp32"
                )
            self.networks = compiled(path, "bf16" if bf16 else "f32")
            self.head = None
            if self.metadata.precision != "fp32":
                check_complete(folder / HEAD)
                self.head = compiled(folder / HEAD, "f32")
        except RuntimeError as error:
            raise damaged(path, error) from None

    def __call__(self, images: np.ndarray) -> np.ndarray:
        if self.head is None:
            return self.networks(images)["map"]
        outputs = self.networks(images)
        return self.head({port.any_name: outputs[port.any_name] for port in self.head.inputs})["map"]


ENGINES = {"onnx": OnnxEngine, "openvino": OpenVinoEngine}


def engine_of(folder: Path, threads: int) -> OnnxEngine | OpenVinoEngine:
    """Raises UserError for a folder without an exported model, a damaged one, and a missing package."""
    for name, file in MODELS.items():
        if (folder / file).is_file():
            return ENGINES[name](folder, threads)
    if folder.is_file() and any((folder.parent / file).is_file() for file in MODELS.values()):
        raise UserError(f"{folder} is a file of an exported model: give its folder, {folder.parent}")
    raise UserError(f"{folder}: there is no exported model ({' or '.join(MODELS.values())}); export.py writes one")


def missing(file: str, package: str) -> UserError:
    return UserError(f"{file} needs a package that is not installed: pip install {package}")


def check_complete(path: Path) -> None:
    """Raises UserError naming a file of OpenVINO that is missing: the graph at `path`, or its weights."""
    for file in (path, path.with_suffix(".bin")):
        if not file.is_file():
            raise UserError(f"{file} is missing: copy all files of the exported model")


def damaged(path: Path, error: Exception) -> UserError:
    last = str(error).strip().rpartition("\n")[2] or type(error).__name__  # OpenVINO begins with lines of its source
    return UserError(f"{path} cannot be loaded; copy the exported model again, or export the run again ({last[:200]})")
