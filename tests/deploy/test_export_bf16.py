"""Networks in bfloat16: which convolutions stay in float32, and that the distances do."""

import numpy as np
import pytest
import torch
from torch import nn

from deploy import export_bf16
from deploy.export_bf16 import NEAR, in_float32, sensitive
from deploy.export_formats import _openvino
from deploy.export_graph import BATCH, Graphs, _graph, without_doubling
from trainer import build_trainer

openvino = pytest.importorskip("openvino")
pytestmark = pytest.mark.skipif(
    "BF16" not in openvino.Core().get_property("CPU", "OPTIMIZATION_CAPABILITIES"),
    reason="this processor has no bfloat16 instructions",
)
SIDE = 16


class Networks(nn.Module):
    """A teacher of three convolutions, and a student that adds something made by two others.

    If `close`, the second of these subtracts channels from their copies with weights of 64 and 64.2, which are the same
    number in bfloat16.
    """

    def __init__(self, close: bool):
        super().__init__()
        torch.manual_seed(0)
        self.teacher = nn.Sequential(*(nn.Conv2d(3 if k == 0 else 8, 8, 3, padding=1) for k in range(3)))
        self.spread, self.subtract = nn.Conv2d(3, 8, 3, padding=1), nn.Conv2d(8, 8, 1, bias=False)
        with torch.no_grad():
            for values in self.spread.parameters():
                values[4:] = values[:4]
            same = torch.eye(4).repeat(2, 1)[..., None, None]
            weights = (64.2, 64.0) if close else (1.0, 0.5)
            self.subtract.weight.copy_(torch.cat([weights[0] * same, -weights[1] * same], dim=1))

    def forward(self, image):
        teacher = self.teacher(image)
        return teacher, teacher + self.subtract(self.spread(image))


class Head(nn.Module):
    def forward(self, maps):
        return (maps[1] - maps[0]).abs().sum(1, keepdim=True)


def model_of(net, example, inputs, outputs, shapes):
    return _openvino(_graph(net, example, inputs, outputs, shapes))


@pytest.fixture(params=[True, False], ids=["one is sensitive", "none is"])
def case(request):
    networks, image, names = Networks(request.param), torch.rand(2, 3, SIDE, SIDE), ["teacher0", "student0"]
    model = model_of(networks, image, ["image"], names, {"image": BATCH})
    head = model_of(Head(), [*networks(image)], names, ["map"], {"maps": [BATCH] * 2})
    images = np.random.default_rng(0).random((6, 3, SIDE, SIDE), np.float32)
    return request.param, model, head, images


def runtime(model):
    """The precisions of its convolutions as OpenVINO runs them when bf16 is asked for."""
    compiled = openvino.Core().compile_model(model, "CPU", {"INFERENCE_PRECISION_HINT": "bf16"})
    about = [op.get_rt_info() for op in compiled.get_runtime_model().get_ops()]
    return sorted(
        info["runtimePrecision"].astype(str) for info in about if info["layerType"].astype(str) == "Convolution"
    )


def maps_of(model, head, images, precision):
    # One core: each brings a stack for signals and, when it is deleted, gives back the one before, which another core
    # may have taken along. The next Ctrl-C would then crash.
    core = openvino.Core()
    compiled = core.compile_model(model, "CPU", {"INFERENCE_PRECISION_HINT": precision})
    joined = core.compile_model(head, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    return [joined([*compiled(image[None]).values()])[0] for image in images]


def far(model, head, images, kept):
    """The largest difference of a map from float32, as a share of its highest value."""
    found = [maps_of(model, head, images, "f32"), maps_of(in_float32(model, kept), head, images, "bf16")]
    return max(np.abs(a - b).max() / np.abs(a).max() for a, b in zip(*found, strict=True))


def test_only_what_is_needed_stays_in_float32(case):
    close, model, head, images = case
    kept = sensitive(model, head, images)
    if not close:
        assert kept == [] and far(model, head, images, []) <= NEAR
        return
    assert len(kept) == 1 and far(model, head, images, []) > 5 * NEAR
    assert far(model, head, images, kept) <= NEAR
    assert runtime(in_float32(model, kept)) == ["bf16"] * 4 + ["f32"]


@pytest.mark.slow
@pytest.mark.parametrize("method", ["st", "rd"])
def test_distances_of_bfloat16_maps_are_computed_in_float32(config, method):
    """They are in the graph of the networks."""
    trainer = build_trainer(config(method))
    size, core = trainer.options.input_size, openvino.Core()
    graphs = Graphs(without_doubling(trainer.detector), size)
    image = np.random.default_rng(0).random((1, 3, *size), np.float32)

    def found(distances):
        networks, _ = graphs.networks_and_head(distances)
        results = core.compile_model(_openvino(networks), "CPU", {"INFERENCE_PRECISION_HINT": "bf16"})(image)
        return [torch.from_numpy(value) for value in results.values()]

    maps = found(distances=False)
    half = len(maps) // 2
    expected = graphs.detector.levels(maps[:half], maps[half:])
    for ours, theirs in zip(found(distances=True), expected, strict=True):
        assert (ours - theirs).norm() < 1e-4 * theirs.norm()


def test_a_layer_that_cannot_stay_in_float32_is_not_chosen(case, monkeypatch):
    """OpenVINO refuses some convolutions between others in bfloat16, when they first compute."""
    _, model, head, images = case

    def refuse(networks, names):
        if names:
            raise RuntimeError("object is not initialized")
        return networks

    monkeypatch.setattr(export_bf16, "in_float32", refuse)
    assert sensitive(model, head, images) == []
