"""Exports against the run: every way in which an exported model is known to become another one."""

import json
import os
import shutil
from pathlib import Path

import numpy as np
import onnx
import openvino
import pytest
import torch
from torch import nn

import calibrate
import deploy.runtime.model
from datasets.fit import Fit
from datasets.regions import Roi
from datasets.tiles import Tiles
from deploy import export_data, export_formats, export_graph, export_int8
from deploy.export import Export, check_free
from deploy.export_check import LIMITS, OF_RUN, Found, Judged, Judgement, Refused, check_files, differences
from deploy.judge import Judge
from deploy.predictor import Predictor
from deploy.runtime import ExportedModel
from evaluation.calibration import Calibration
from evaluation.score import CALIBRATION, HELD_OUT
from models.anomaly_map import resize
from tests.conftest import draw_defect, draw_good, write_image
from tests.deploy.conftest import trained
from trainer import TRAINERS, build_trainer, open_run
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
        maps = [np.where(np.isneginf(each.anomaly_map), 0, each.anomaly_map) for each in (one, other)]
        assert np.abs(maps[0] - maps[1]).max() <= tolerance * other.score
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


@pytest.mark.parametrize("align_corners", [False, True])
def test_a_map_is_resized_by_matrix_products(align_corners):
    """OpenVINO's own resize of one channel is slow; the batch stays variable and the values those of torch."""

    class Net(nn.Module):
        def forward(self, maps):
            return resize(maps, (37, 64), align_corners)

    maps = torch.rand(3, 1, 9, 16, generator=torch.Generator().manual_seed(0))
    dimensions = {"maps": export_graph.BATCH}
    graph = export_graph._graph(Net(), maps[:2], ["maps"], ["map"], dimensions, export_graph.RESIZES)
    assert {node.op_type for node in graph.graph.node} <= {"MatMul", "Constant"}
    model = openvino.Core().compile_model(export_formats._openvino(graph), "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    torch.testing.assert_close(torch.from_numpy(model(maps.numpy())["map"]), resize(maps, (37, 64), align_corners))


@pytest.mark.parametrize(
    "other", [{}, {"bias": True}, {"output_padding": 1}, {"padding": 1}, {"stride": 3}, {"groups": 3}]
)
def test_a_pixel_shuffle_doubles_the_size_of_a_map(other):
    """Every other transposed convolution stays as it is, and so does the network that is copied."""
    torch.manual_seed(0)
    doubling = nn.ConvTranspose2d(6, 9, 2, **({"stride": 2, "bias": False} | other))
    net = nn.Sequential(nn.Conv2d(3, 6, 3), nn.Sequential(doubling))
    image, copied = torch.rand(2, 3, 9, 7), export_graph.without_doubling(net)
    torch.testing.assert_close(copied(image), net(image))
    assert any(isinstance(layer, nn.PixelShuffle) for layer in copied.modules()) is (not other)
    assert net[1][0] is doubling


@pytest.mark.parametrize("method", TRAINERS)
def test_networks_and_head_compute_the_map(config, method):
    trainer = build_trainer(config(method))
    detector, size = export_graph.on_cpu(trainer.detector), trainer.options.input_size
    image = torch.rand(2, 3, *size, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        expected = export_graph.Whole(detector)(image)
        for distances in (False, True):
            found = export_graph.Head(detector, distances, size)(export_graph.Networks(detector, distances)(image))
            torch.testing.assert_close(found, expected)


@pytest.mark.slow
def test_only_the_graph_with_distances_has_no_transposed_convolutions(config):
    trainer = build_trainer(config("rd"))
    graphs = export_graph.Graphs(trainer.detector, trainer.options.input_size)
    expected = {False: (["teacher0", "student0"], "ConvTranspose"), True: (["level0"], "DepthToSpace")}
    for distances, (names, kind) in expected.items():
        graph, head = (model.graph for model in graphs.networks_and_head(distances))
        outputs = [value.name for value in graph.output]
        assert set(names) <= set(outputs) and outputs == [value.name for value in head.input]
        kinds = {node.op_type for node in graph.node} & {"ConvTranspose", "DepthToSpace", "Expand"}
        assert kinds == {kind}  # OpenVINO is slow where lengths are expanded


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


def test_an_export_that_prepares_pictures_otherwise_is_refused(run_folder, export, same_graph, tmp_path, monkeypatch):
    """What is stored in the file decides what predict.py does; the run's data set does not know it."""
    original = Export._metadata

    def other_size(self):
        found = original(self)
        return found._replace(options=found.options | {"img_size": [80, 80]})

    monkeypatch.setattr(Export, "_metadata", other_size)
    with pytest.raises(Refused, match=r"\.png: the exported model does not resize or cut this picture as the run does"):
        export(run_folder, tmp_path / "out")
    assert list(tmp_path.iterdir()) == []


class Contrast(Judge):
    """The map is the brightness above the mean of what is seen as a whole; above 0.1 a part is rejected."""

    def __init__(self, **parts):
        normal = {"source": CALIBRATION, "scores": [0.1] * 9}
        super().__init__(normal=normal, calibration=Calibration.of(normal, 0.1), batch_size=2, **parts)

    def maps_of(self, images):
        gray = np.stack(images).mean(axis=1, dtype=np.float32) / 255
        return gray - gray.mean(axis=(1, 2), keepdims=True)


PREPARED = {
    "fit": Fit((16, 16), (16, 12), pad=True),
    "tiles": Tiles((16, 12), (8, 12), 0.25, 4),
    "roi": Roi(np.arange(48).reshape(8, 6) % 6 < 4, "roi.png"),
}


@pytest.mark.parametrize(
    "other",
    [
        {},
        {"fit": Fit((16, 16), (16, 12))},
        {"fit": Fit((18, 18), (16, 12), pad=True)},
        {"tiles": None},
        {"tiles": Tiles((16, 12), (8, 12), 0, 4)},
        {"roi": None},
    ],
)
def test_pictures_are_judged_from_their_files_with_all_that_is_stored(other, tmp_path):
    paths, rng = [tmp_path / f"{k}.png" for k in range(3)], np.random.default_rng(0)
    for path in paths:
        write_image(path, rng.integers(0, 256, (16, 12, 3), dtype=np.uint8))
    judged = [Contrast(**PREPARED)(path) for path in paths]
    found = [
        Found(str(path), 1.0, 0.0, (each.score,) * 2, (Judgement(each.decision, 0.5),) * 2)
        for path, each in zip(paths, judged, strict=True)
    ]
    if not other:
        check_files(Contrast(**PREPARED), found, LIMITS["fp32"])
        return
    with pytest.raises(Refused, match=r"\d.png: .* the score is .* from its file, and .* from the run's pixels"):
        check_files(Contrast(**PREPARED | other), found, LIMITS["fp32"])


def test_a_failed_export_leaves_the_earlier_one(run_folder, export, same_graph, tmp_path, monkeypatch):
    (tmp_path / "out").symlink_to("version1")
    export(run_folder, tmp_path / "out")
    assert (tmp_path / "out").is_symlink() and (tmp_path / "version1/card.json").is_file()
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
    with pytest.raises(UserError, match=r"--out: a new export would delete .*other.file; move it"):
        check_free(tmp_path / "other")
    (tmp_path / "other/file").rename(tmp_path / "other/model.onnx")
    check_free(tmp_path / "other")


def test_a_folder_that_cannot_be_renamed_is_refused_before_the_work(tmp_path, monkeypatch):
    (tmp_path / "inside").mkdir()
    monkeypatch.chdir(tmp_path / "inside")
    for out in (Path("."), Path("..")):
        with pytest.raises(UserError, match=f"--out: {out} cannot be replaced, .* such as {out / 'exported'}"):
            check_free(out)
    check_free(Path("exported"))
    monkeypatch.setattr(os.path, "ismount", lambda path: path == tmp_path / "inside/drive")
    with pytest.raises(UserError, match="--out: drive cannot be replaced"):
        check_free(Path("drive"))


def copied(run_folder, tmp_path):
    """A copy of the run, to change it; its data stay where they are."""
    return shutil.copytree(run_folder, tmp_path / "run")


def of_bf16(folder):
    """A run that scores in bfloat16, as `precision: auto` does on many processors."""
    trained(folder, precision="bf16", out_indice=[1])


@pytest.mark.slow
def test_scores_of_calibration_are_computed_again_by_the_export(shared, export, tmp_path):
    """The run's own were computed in a lower precision: a threshold from them would not fit."""
    run = shared("bf16_run", of_bf16) / "results/st/part"
    card = export(run, tmp_path / "out")
    model, predictor = ExportedModel(tmp_path / "out"), Predictor(run)
    images = export_data.RunData(predictor.trainer, None).calibration
    own = sorted(model(sample.path).score for sample in images.samples)
    assert model.normal["scores"] == pytest.approx(own, rel=1e-5)
    assert model.normal["scores"] != pytest.approx(predictor.normal["scores"], rel=1e-5)
    assert card["check"]["score_difference"] < LIMITS["fp32"]  # from PyTorch in float32, not from the run


def new_good_images(folder, count=20):
    rng = np.random.default_rng(11)
    for k in range(count):
        write_image(folder / f"{k:02}.png", draw_good(rng))
    return folder


def test_images_for_calibration_may_be_given(run_folder, export, same_graph, tmp_path):
    images = new_good_images(tmp_path / "good")
    card = export(run_folder, tmp_path / "out", "onnx", "fp32", images, "false_reject_rate=0.1")
    model = ExportedModel(tmp_path / "out")
    assert model.calibration.rate == 0.1
    assert model.normal["scores"] == pytest.approx(sorted(model(path).score for path in images.iterdir()), rel=1e-5)
    given = card["data"]["sets"]["calibration"]
    assert given["images"] == 20 and given["folder"] == str(images) and len(given["hash"]) == 16
    train = Path(Predictor(run_folder).trainer.config.data_path, "part/train/good")
    for folder, expected in ((train, "which the student may have seen"), (tmp_path / "none", "there are no images")):
        with pytest.raises(UserError, match=f"--images: .*{expected}"):
            export(run_folder, tmp_path / "out", "onnx", "fp32", folder)


@pytest.mark.parametrize("word", ["part_pattern=^.", "TrainingData.sigma=2", "seed=5"])
def test_thresholds_of_other_settings_are_not_exported(word, run_folder, export, same_graph, tmp_path):
    with pytest.raises(UserError, match="thresholds do not belong to these settings"):
        export(run_folder, tmp_path / "out", "onnx", "fp32", None, word)


def test_another_batch_size_leaves_the_thresholds(run_folder):
    predictor = Predictor(run_folder, ["TrainingData.batch_size=2"])
    assert predictor.batch_size == 2 and predictor.calibration


def test_images_are_counted_by_parts_as_in_the_calibration(run_folder, export, same_graph, tmp_path):
    run, images = copied(run_folder, tmp_path), new_good_images(tmp_path / "good")
    calibrate.calibrate(open_run(run, ["part_pattern=^.", "false_reject_rate=0.4"]), images)
    export(run, tmp_path / "out", "onnx", "fp32", images)
    normal = ExportedModel(tmp_path / "out").normal
    assert normal["unit"] == "parts" and len(normal["scores"]) == 2  # the tens
    assert ExportedModel(tmp_path / "out").part("a/17.png") == Predictor(run).part("a/17.png") == "1"


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_after_another_calibration_scores_are_kept_or_its_images_are_asked_for(
    precision, run_folder, shared, export, same_graph, tmp_path
):
    """calibrate.py keeps scores, not paths. They are the export's own only if both compute alike."""
    run = copied(run_folder if precision == "float32" else shared("bf16_run", of_bf16) / "results/st/part", tmp_path)
    calibrate.calibrate(open_run(run), new_good_images(tmp_path / "good"))
    if precision == "float32":
        export(run, tmp_path / "out")
        assert ExportedModel(tmp_path / "out").normal == Predictor(run).normal
        assert "from 20 images given to calibrate.py" in (tmp_path / "out/card.md").read_text(encoding="utf-8")
        return
    with pytest.raises(UserError, match="give good images .* --images FOLDER"):
        export(run, tmp_path / "out")


def test_a_run_without_calibration_exports_scores_and_maps_only(run_folder, export, same_graph, tmp_path):
    run = copied(run_folder, tmp_path)
    trainer = open_run(run)
    trainer.metadata["normal"]["source"] = HELD_OUT
    trainer.save()
    card = export(run, tmp_path / "out")
    assert card["calibration"] is None and "none" in card["check"]["decisions"]
    found = ExportedModel(tmp_path / "out")(pictures()[1])
    assert found.decision is None and found.score == pytest.approx(Predictor(run)(pictures()[1]).score, rel=1e-4)


@pytest.mark.slow
def test_pictures_are_padded_cropped_and_cut_into_tiles_as_by_the_run(export, tmp_path):
    options = {"fit": "pad", "img_size": 96, "crop_size": [64, 96], "tile": [64, 64]}
    run = trained(tmp_path, options, out_indice=[1]).run_dir
    export(run, tmp_path / "out")
    model, predictor = ExportedModel(tmp_path / "out"), Predictor(run)
    assert_same(model.predict(pictures()), predictor.predict(pictures()))


@pytest.mark.slow
def test_a_run_that_several_students_decide_for_needs_images(export, tmp_path):
    """`calibration: cross`: an export has one of the students, so its thresholds must be its own."""
    run = trained(tmp_path, {"epochs": 2}, calibration="cross", out_indice=[1]).run_dir
    with pytest.raises(UserError, match="with calibration=cross several students decide, .* --images FOLDER"):
        export(run, tmp_path / "out")
    card = export(run, tmp_path / "out", "onnx", "fp32", new_good_images(tmp_path / "good"))
    model, of_run = ExportedModel(tmp_path / "out"), Predictor(run)
    assert card["calibration"]["images"] == 20 and model(pictures()[1]).decision
    paths = [sample.path for sample in of_run.trainer.test_set[0].samples]
    other = sum(model(path).decision != of_run(path).decision for path in paths)
    assert f"{other} of 8 differ from the run's, where 5 further students" in card["check"]["decisions"]


@pytest.mark.slow
@pytest.mark.skipif(not has_bf16, reason="this processor has no bfloat16 instructions")
def test_bfloat16_is_for_the_networks_only(run_folder, export, tmp_path, monkeypatch, capsys):
    """In bfloat16 the distance, a difference of near values, would be far off."""
    card = export(run_folder, tmp_path / "out", "openvino", "bf16")
    engine = ExportedModel(tmp_path / "out").engine
    precisions = [part.get_property("INFERENCE_PRECISION_HINT") for part in (engine.networks, engine.head)]
    assert precisions == [openvino.Type.bf16, openvino.Type.f32]
    assert LIMITS["fp32"] < card["check"]["score_difference"] < LIMITS["bf16"]
    assert "bfloat16" not in capsys.readouterr().err
    monkeypatch.setattr(openvino.Core, "get_property", lambda *key: ["FP32"])  # of an older processor
    ExportedModel(tmp_path / "out")
    assert "this processor has no bfloat16 instructions" in capsys.readouterr().err


def test_ranges_come_from_good_images_and_spoiled_copies():
    images = [np.full((3, 64, 48), value, np.float32) for value in (0.4, 0.6)]
    found = export_int8.with_spoiled(images)
    assert len(found) == 4 and all((a == b).all() for a, b in zip(found, images, strict=False))
    for image, spoiled in zip(images, found[2:], strict=True):
        changed = (spoiled != image).any(axis=0)
        assert 0 < changed.mean() < 0.5 and spoiled.min() >= 0 and spoiled.max() <= 1
    assert all((a == b).all() for a, b in zip(found, export_int8.with_spoiled(images), strict=True))


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_8_bit_networks_clip_defects_unless_they_see_some(kind, run_folder, export, tmp_path, monkeypatch):
    pytest.importorskip("nncf")
    card = export(run_folder, tmp_path / "out", kind, "int8")
    assert LIMITS["fp32"] < card["check"]["score_difference"] < LIMITS["int8"]
    monkeypatch.setattr(export_int8, "with_spoiled", lambda images: list(images))
    with pytest.raises(UserError, match=r"test/square/.* differs by"):
        export(run_folder, tmp_path / "other", kind, "int8")


class Shortcut(nn.Module):
    """Two convolutions, each with a shortcut around it."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.first, self.second = nn.Conv2d(3, 3, 3, padding=1), nn.Conv2d(3, 3, 3, padding=1)

    def forward(self, image):
        image = torch.relu(image + self.first(image))
        return [torch.relu(image + self.second(image))]


def links(model):
    """Of each input: the operation that makes it, and the one that takes it."""
    if isinstance(model, onnx.ModelProto):
        makers = {name: node.op_type for node in model.graph.node for name in node.output}
        return {(makers.get(name), node.op_type) for node in model.graph.node for name in node.input}
    inputs = [(port.get_source_output().get_node(), op) for op in model.get_ops() for port in op.inputs()]
    return {(maker.get_type_name(), op.get_type_name()) for maker, op in inputs}


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_sums_at_shortcuts_are_not_in_8_bits(kind):
    """They are what is compared."""
    pytest.importorskip("nncf")
    images = list(np.random.default_rng(0).random((4, 3, 16, 16), np.float32))
    shapes = {"image": export_graph.BATCH}
    graph = export_graph._graph(Shortcut(), torch.rand(2, 3, 16, 16), ["image"], ["student0"], shapes)
    if kind == "onnx":
        found, rounded, convolution = export_int8.quantized_onnx(graph, images), "DequantizeLinear", "Conv"
    else:
        model = export_formats._openvino(graph)
        found, rounded, convolution = export_int8.quantized_openvino(model, images), "FakeQuantize", "Convolution"
    assert (rounded, convolution) in links(found) and (rounded, "Add") not in links(found)


def test_what_is_impossible_is_said_before_anything_is_computed(run_folder, export, tmp_path, monkeypatch):
    with pytest.raises(UserError, match="--precision bf16: .* use --format openvino"):
        export(run_folder, tmp_path / "out", "onnx", "bf16")
    monkeypatch.setattr(export_formats, "find_spec", lambda name: None if name in ("onnxscript", "nncf") else name)
    with pytest.raises(UserError, match="pip install onnxscript nncf"):
        export("nowhere", tmp_path / "out", "onnx", "int8")


def found(score=1.0, difference=0.0, decisions=("accept", "accept"), distance=0.5, path="a.png"):
    return Found(path, 1.0, difference, (1.0, score), tuple(Judgement(each, distance) for each in decisions))


def test_differences_say_where_they_are():
    usual = [found() for _ in range(4)]
    assert differences([*usual, found(1 - 5e-5, 8e-5)], "fp32", "fp32") == {
        "images": 5,
        "map_difference": pytest.approx(8e-5),
        "score_difference": pytest.approx(5e-5),
        "limit": LIMITS["fp32"],
        "decisions": "the same on all images",
        "other_decisions": [],
    }
    for other, expected in (
        (found(0.98, path="b.png"), "the score of b.png differs by 2 % .*score 0.98, with PyTorch 1"),
        (found(difference=0.3, path="c.png"), "the anomaly map of c.png differs by 30 %"),
        (found(float("nan"), path="d.png"), "the score of d.png"),
    ):
        with pytest.raises(UserError, match=expected):
            differences([*usual, other], "fp32", "fp32")


def test_the_distance_is_that_to_the_next_threshold():
    judged = Judged(None, Calibration([0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 1.0], 0.1, 0.3))  # 1 and 0.7
    for score, decision, distance in ((0.35, "accept", 0.5), (0.77, "review", 0.1), (1.2, "reject", 0.2)):
        found = judged.judgement(np.full((2, 2), score, np.float32))
        assert found.decision == decision and found.distance == pytest.approx(distance, rel=1e-5)


@pytest.mark.parametrize(
    ("precision", "of_run"), [("int8", "fp32"), ("bf16", "bf16"), ("fp32", "bf16"), ("fp32", "fp32")]
)
def test_decisions_may_differ_only_at_the_threshold(precision, of_run):
    limit = max(LIMITS[precision], OF_RUN[of_run])
    usual, other = [found() for _ in range(4)], ("accept", "reject")
    near = differences([*usual, found(decisions=other, distance=0.9 * limit, path="near.png")], precision, of_run)
    assert near["other_decisions"] == ["near.png"] and near["decisions"].startswith("not the same on 1 of 5 images")
    with pytest.raises(
        UserError, match="far.png: the exported model decides 'reject', the run 'accept', and the score is not within"
    ):
        differences([*usual, found(decisions=other, distance=1.1 * limit, path="far.png")], precision, of_run)


# EfficientAD needs 256 px and DBFAD 96.
@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("method", TRAINERS)
def test_every_method_is_exported(method, kind, config, export):
    raw = config(method, {"epochs": 4}, weights="bundled", calibration=0.4, false_reject_rate=0.25, precision="fp32")
    trainer = build_trainer(raw)
    trainer.train()
    card = export(trainer.run_dir, trainer.run_dir.parent / "out", kind)
    assert card["check"]["map_difference"] < 1e-5 and card["check"]["decisions"] == "the same on all images"
    if kind == "openvino" and has_bf16:
        export(trainer.run_dir, trainer.run_dir.parent / "out", kind, "bf16")
