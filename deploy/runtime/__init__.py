"""An exported model at work: NumPy, Pillow and ONNX Runtime or OpenVINO, without torch."""

from deploy.runtime.model import ExportedModel

__all__ = ["ExportedModel"]
