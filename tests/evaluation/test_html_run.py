"""The page of a test: what is on it, and that nothing of a user's becomes part of its code."""

import re

import numpy as np
import pytest

from evaluation.calibration import Calibration
from tests.evaluation.pages import write_run

TYPES = ["good", "good", "good", "hole", "hole"]
SCORES = [0.8, 1.0, 1.3, 1.2, 4.0]
EVIL = '<img src=x onerror="alert(1)">&'


def text_of(folder):
    return (folder / "report.html").read_text(encoding="utf-8", errors="surrogateescape")


@pytest.fixture(scope="module")
def plain(tmp_path_factory):
    """The folder of a test of TYPES with SCORES, and the data of its page."""
    folder = tmp_path_factory.mktemp("plain")
    return folder, write_run(folder, TYPES, SCORES)


def test_the_page_has_every_image_with_its_pictures_and_its_place(plain):
    folder, data = plain
    assert [image["name"] for image in data["images"]] == [f"{name}/{k:03}" for k, name in enumerate(TYPES)]
    assert [image["score"] for image in data["images"]] == pytest.approx(SCORES)
    assert [image["defective"] for image in data["images"]] == [False] * 3 + [True] * 2
    for image in data["images"]:
        assert (folder / image["page"]).is_file()
        assert image["pictures"]["map"].startswith("data:image/webp")
    assert data["views"] == ["image", "mask", "map", "level 1", "level 2"]


def test_metrics_defect_types_configuration_and_command_are_on_the_page(plain):
    folder, _ = plain
    text = text_of(folder)
    for words in ("image AUROC", "0.8333", "AUPRO@0.3", "hole", "backbone: resnet18", "2024-05-06"):
        assert words in text
    assert "--config /results/st/part/config.yaml" in text
    for curve in ("ROC", "Precision and recall", "PRO"):
        assert f'aria-label="{curve}:' in text


def test_a_page_needs_no_network(plain):
    folder, _ = plain
    assert "default-src 'none'" in text_of(folder)
    sources = re.findall(r'(?:src|href)="([^"]*)"', text_of(folder))
    assert not [source for source in sources if "//" in source]


def test_names_of_a_user_are_text_and_never_code(tmp_path):
    config = {"obj": EVIL, "distillType": "st", "backbone": "resnet18"}
    write_run(tmp_path, ["good", "good", EVIL], [1, 2, 3], config=config, folder=f"/a {EVIL}", hardware=EVIL)
    text = text_of(tmp_path)
    assert EVIL not in text and "<img" not in text and "&lt;img src=x onerror=&#34;alert(1)&#34;&gt;&amp;" in text


def test_a_type_with_two_spaces_keeps_them_in_the_filter(tmp_path):
    write_run(tmp_path, ["good", "a  b"], [1.0, 2.0])
    assert '<option value="a  b">' in (tmp_path / "report.html").read_text(encoding="utf-8")


def test_names_that_are_not_utf8_are_shown_and_their_pictures_are_found(tmp_path):
    data = write_run(tmp_path, ["good", "raw \udcff", "缺陷 1%#?"], [1, 2, 3])
    assert [image["type"] for image in data["images"]] == ["good", "raw ?", "缺陷 1%#?"]
    assert [image["page"] for image in data["images"][1:]] == [
        "maps/raw%20%FF/001.png",
        "maps/%E7%BC%BA%E9%99%B7%201%25%23%3F/002.png",
    ]


def test_without_a_calibration_the_threshold_begins_at_the_best_f1_and_the_page_says_so(plain):
    folder, data = plain
    assert data["start"] == pytest.approx(1.1)
    assert "Do not use this value for new parts" in text_of(folder)


def test_with_a_calibration_it_begins_at_its_threshold(tmp_path):
    calibration = Calibration(np.linspace(0.1, 9, 40).tolist(), 0.05)
    verdicts = [(calibration.p_value(score), calibration.decision(calibration.p_value(score))) for score in SCORES]
    kinds = [decision for _, decision in verdicts]
    decisions = calibration.measured(kinds, np.array(TYPES) != "good")
    data = write_run(tmp_path, TYPES, SCORES, verdicts=verdicts, decisions=decisions)
    assert data["start"] == calibration.threshold and data["axis"]["high"] > calibration.threshold
    assert [image["decision"] for image in data["images"]] == kinds
    assert "The threshold starts at that of the calibration" in text_of(tmp_path)
    assert "at most 5 % of good parts are rejected" in text_of(tmp_path)


@pytest.mark.parametrize("types", [["good"] * 3, ["hole"] * 3], ids=["only good", "only defective"])
def test_without_both_kinds_of_images_there_is_a_page_without_their_curves(types, tmp_path):
    (tmp_path / "curves.png").write_text("of an earlier test")
    data = write_run(tmp_path, types, [1, 2, 3], masks=False)
    assert data["start"] == 3 and len(data["images"]) == 3
    assert 'id="curves"' not in text_of(tmp_path)
    assert not (tmp_path / "curves.png").exists() and (tmp_path / "scores.png").exists()
