"""Exports against the run: every way in which an exported model is known to become another one."""

import json

import numpy as np
import onnx
import openvino
import pytest
from torch import nn

import deploy.runtime.model
from deploy import export_graph
from deploy.export import check_free
from deploy.predictor import Predictor
from deploy.runtime import ExportedModel
from evaluation.score import CALIBRATION
from tests.conftest import draw_defect, draw_good
from utils.errors import UserError

KINDS = ["onnx", "openvino"]
has_bf16 = "BF16" in openvino.Core().get_property("CPU", "OPTIMIZATION_CAPABILITIES")


def pictures():
    """Of other sizes than the networks take, in 8 and 16 bits, in colours and gray."""
    rng = np.random.default_rng(1)
    good, (defect, _), (wide, _) = draw_good(rng, 150), draw_defect(rng, 64), draw_defect(rng, 97)
    return [good, defect, wide[:60], defect.astype(np.uint16) * 257, draw_good(rng, 64)[..., :1].repeat(3, axis=2)]


def assert_same(ours, theirs, tolerance=1e-4):
    """Predictions of the same pictures."""
    for one, other in zip(ours, theirs, strict=True):
        assert one.score == pytest.approx(other.score, rel=tolerance)
        assert one.decision == other.decision and one.p_value == other.p_value
        finite = np.isfinite(other.anomaly_map)
        assert np.abs(one.anomaly_map - other.anomaly_map)[finite].max() <= tolerance * other.score
        assert len(one.regions) == len(other.regions)


@pytest.mark.parametrize("kind", KINDS)
def test_an_export_judges_pictures_as_the_run_does(kind, run_folder, exported):
    """Also in batches of one and of several: the batch size of a graph can become a constant unnoticed."""
    predictor, model = Predictor(run_folder), ExportedModel(exported(kind))
    expected = [predictor(picture) for picture in pictures()]
    assert {one.decision for one in expected} == {"accept", "reject"}
    assert_same([model(picture) for picture in pictures()], expected)
    assert_same(model.predict(pictures()), expected)


def test_the_resize_is_outside_of_the_graph(exported):
    """OpenVINO's reader of ONNX ignores that a resize is antialiased, without a word."""
    graph = onnx.load(exported("onnx") / "model.onnx").graph
    (image,) = graph.input
    assert [side.dim_value for side in image.type.tensor_type.shape.dim][1:] == [3, 64, 64]
    resizes = [node for node in graph.node if node.op_type == "Resize"]
    assert not [a for node in resizes for a in node.attribute if a.name == "antialias" and a.i]


def test_openvino_computes_in_float32(exported):
    """Its default is bfloat16 where the processor can, distances included; and saving halves weights by default."""
    engine = ExportedModel(exported("openvino")).engine
    assert engine.networks.get_property("INFERENCE_PRECISION_HINT") == openvino.Type.f32
    onnx_size = (exported("onnx") / "model.onnx").stat().st_size
    assert (exported("openvino") / "model.bin").stat().st_size > 0.9 * onnx_size


def test_the_file_has_what_the_runtime_needs(run_folder, exported):
    """Also the scores, which the exported file computed."""
    stored = onnx.load(exported("onnx") / "model.onnx").metadata_props
    found = json.loads(next(each.value for each in stored if each.key == "anomaly_detector"))
    assert found["options"]["img_size"] == found["options"]["crop_size"] == [64, 64]
    assert found["normal"]["source"] == CALIBRATION and found["false_reject_rate"] == 0.25
    run = Predictor(run_folder).normal
    assert found["normal"]["scores"] == pytest.approx(run["scores"], rel=1e-5)


def test_map_and_score_are_outputs_of_the_graph(exported):
    engine = ExportedModel(exported("onnx")).engine
    image = np.random.default_rng(0).random((3, 3, 64, 64), dtype=np.float32)
    maps, scores = engine.session.run(["map", "score"], {"image": image})
    assert maps.shape == (3, 1, 64, 64) and scores == pytest.approx(maps.max(axis=(1, 2, 3)))


def other_scale(image):
    return np.divide(image, np.iinfo(image.dtype).max + 1, dtype=np.float32)


def other_order_of_colours(image):
    return np.divide(image[::-1], np.iinfo(image.dtype).max, dtype=np.float32)


@pytest.mark.parametrize("broken", [other_scale, other_order_of_colours])
def test_another_preprocessing_is_refused(broken, run_folder, export, same_graph, tmp_path, monkeypatch):
    monkeypatch.setattr(deploy.runtime.model, "unit_range", broken)
    with pytest.raises(UserError, match=r"does not compute what the run computes: the .* of .*\.png differs by"):
        export(run_folder, tmp_path / "out")
    assert list(tmp_path.iterdir()) == []


def test_a_graph_that_normalises_otherwise_is_refused(run_folder, export, tmp_path, monkeypatch):
    original = export_graph.on_cpu

    def without_normalisation(detector):
        copy = original(detector)
        copy.teacher.normalise = nn.Identity()
        return copy

    monkeypatch.setattr(export_graph, "on_cpu", without_normalisation)  # not that of the reference
    with pytest.raises(UserError, match="does not compute what the run computes"):
        export(run_folder, tmp_path / "out")


def test_a_failed_export_leaves_the_earlier_one(run_folder, export, same_graph, tmp_path, monkeypatch):
    export(run_folder, tmp_path / "out")
    before = {path.name: path.read_bytes() for path in (tmp_path / "out").iterdir()}
    monkeypatch.setattr(deploy.runtime.model, "unit_range", other_scale)
    with pytest.raises(UserError):
        export(run_folder, tmp_path / "out")
    assert {path.name: path.read_bytes() for path in (tmp_path / "out").iterdir()} == before


def test_only_an_earlier_export_may_be_replaced(tmp_path):
    check_free(tmp_path / "new")
    (tmp_path / "other").mkdir()
    check_free(tmp_path / "other")
    (tmp_path / "other/file").touch()
    for out in (tmp_path / "other", tmp_path / "other/file"):
        with pytest.raises(UserError, match="--out: .* was not written by export.py"):
            check_free(out)
    (tmp_path / "other/card.json").touch()
    check_free(tmp_path / "other")
