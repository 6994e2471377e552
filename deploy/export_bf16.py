"""Networks in bfloat16 whose most sensitive convolutions stay in float32.

One convolution can be most of the difference: with one of the 30 of a teacher and student of STPM in float32, a score
moved by 1.6 % at most, and by 7.4 % without that. Which one it is differs between students, so it is found by trying.
"""

import tempfile
import xml.etree.ElementTree as ElementTree
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from utils.progress import progress

if TYPE_CHECKING:
    import openvino

CONVOLUTIONS = ("Convolution", "GroupConvolution")
NEAR = 0.005  # of a map's highest value: maps this close are good enough
WORST = 4  # images by which convolutions are ranked
MOST = 0.25  # of the convolutions: with more, hardly anything would be faster
Levels = dict[str, np.ndarray]


def sensitive(networks: "openvino.Model", head: "openvino.Model", images: Sequence[np.ndarray]) -> list[str]:
    """The convolutions that must compute in float32 so that no map is further than `NEAR` from its own in float32.

    `images` [3,h,w] are float32 in [0,1]. Each convolution is tried alone on the images that are furthest; then as many
    of the best are taken as are needed, doubling their number, `MOST` of them at most.
    """
    joined = _compiled(head, "f32")
    wanted = [joined(levels)["map"] for levels in _levels(networks, "f32", images)]

    def distances(kept: Collection[str], chosen: Sequence[int]) -> np.ndarray:
        try:
            found = _levels(in_float32(networks, kept), "bf16", [images[k] for k in chosen])
        except RuntimeError:  # OpenVINO cannot compute every convolution in float32 between others in bfloat16
            return np.full(len(chosen), np.inf)
        pairs = [(joined(levels)["map"], wanted[k]) for k, levels in zip(chosen, found, strict=True)]
        return np.array([np.abs(ours - theirs).max() / np.abs(theirs).max() for ours, theirs in pairs])

    everywhere = distances([], range(len(images)))
    if everywhere.max() <= NEAR:
        return []
    worst = np.argsort(everywhere)[-WORST:].tolist()
    names = [op.get_friendly_name() for op in networks.get_ops() if op.get_type_name() in CONVOLUTIONS]
    alone = [distances([name], worst).mean() for name in progress(names, "layers", len(names))]
    ranked = [names[k] for k in np.argsort(alone)]
    furthest = {0: everywhere.max()}  # by the number of those kept
    count = 1
    while count <= MOST * len(names) and min(furthest.values()) > NEAR:
        furthest[count] = distances(ranked[:count], worst).max()
        count *= 2
    return ranked[: min(furthest, key=furthest.get)]


def in_float32(model: "openvino.Model", names: Collection[str]) -> "openvino.Model":
    """A copy whose layers with these names compute in float32 whatever precision is asked for.

    Python has no function for it; the file format has an attribute.
    """
    import openvino

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "model.xml")
        openvino.save_model(model, path, compress_to_fp16=False)
        tree = ElementTree.parse(path)
        for layer in tree.getroot().find("layers"):
            if layer.get("name") in names:
                info = layer.find("rt_info")
                if info is None:
                    info = ElementTree.Element("rt_info")
                    layer.insert(1, info)  # behind the layer's own data
                ElementTree.SubElement(info, "attribute", {"name": "precise", "version": "0"})
        tree.write(path)
        core = openvino.Core()
        core.set_property({"ENABLE_MMAP": False})  # the file does not stay
        return core.read_model(path)


def _levels(model: "openvino.Model", precision: str, images: Sequence[np.ndarray]) -> list[Levels]:
    """Of each image [3,h,w] what the networks give: the distances `level0` ... [1,1,h,w]."""
    networks = _compiled(model, precision)
    return [{port.any_name: value for port, value in networks(image[None]).items()} for image in images]


def _compiled(model: "openvino.Model", precision: str) -> "openvino.CompiledModel":
    import openvino

    return openvino.Core().compile_model(model, "CPU", {"INFERENCE_PRECISION_HINT": precision})
