"""From scored images to metrics, files and a table; nothing of an image is kept without need."""

import csv
import json
import tracemalloc
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import yaml

from datasets.dataset import ImageDataset, Sample
from evaluation import report
from evaluation.metrics import detection, segmentation
from evaluation.report import LABELS, evaluate, summary
from evaluation.score import Scored
from utils.config import Config

RNG = np.random.default_rng(0)
TYPES = [name for name in ("good", "hole", "stain") for _ in range(4)]
MASKS = np.zeros((12, 16, 16), bool)
MASKS[4:, 4:8, 4:8] = True
MAPS = RNG.random((12, 16, 16)).astype(np.float32) + MASKS


def samples(masks=True):
    """Four good images, four with a hole, four with a stain."""
    mask = Path("mask.png") if masks else None
    return [Sample(Path(f"test/{name}/{i % 4}.png"), mask, name) for i, name in enumerate(TYPES)]


def scored(masks=MASKS, order=range(12)):
    """The results of a test as they come, in any order."""
    for index in order:
        yield Scored(index, np.full((3, 16, 16), 90, np.uint8), masks[index], MAPS[index])


def test_evaluate_gives_every_metric_and_a_row_per_defect_type():
    tested = evaluate(samples(), scored())
    assert set(tested.metrics) == set(LABELS) - {"spro"} and list(tested.per_defect) == ["hole", "stain"]
    labels = np.array(TYPES) != "good"
    expected = detection(MAPS.max(axis=(1, 2)), labels) | segmentation(MAPS, MASKS)
    assert tested.metrics == pytest.approx(expected, abs=1e-12)
    assert tested.scores.tolist() == MAPS.max(axis=(1, 2)).tolist() and tested.notes == []


def test_evaluate_goes_by_the_index_of_a_result_and_not_by_its_place():
    backwards, forwards = evaluate(samples(), scored(order=range(11, -1, -1))), evaluate(samples(), scored())
    assert backwards.scores.tolist() == forwards.scores.tolist()
    assert backwards.metrics == pytest.approx(forwards.metrics, abs=1e-12)
    assert backwards.per_defect["hole"] == pytest.approx(forwards.per_defect["hole"], abs=1e-12)


def test_evaluate_says_what_the_data_do_not_allow():
    without_masks = evaluate(samples(masks=False), scored(MASKS & False), ["first"])
    assert set(without_masks.metrics) == {"image_auroc", "image_ap", "image_f1max"}
    assert without_masks.notes == ["first", "no pixel metrics and no AUPRO: there are no masks"]
    assert set(without_masks.per_defect["hole"]) == {"images", "image_auroc"}
    assert "have no defective pixel" in evaluate(samples(), scored(MASKS & False)).notes[0]


def test_evaluate_of_images_of_one_kind_alone_has_no_image_metrics():
    only_good = evaluate(samples(masks=False)[:4], scored(order=range(4)))
    assert only_good.metrics == {} and only_good.per_defect == {} and len(only_good.scores) == 4
    assert only_good.notes == [
        "no image metrics: there are no defective test images",
        "no pixel metrics and no AUPRO: there are no defective test images",
    ]
    shifted = (Scored(result.index - 4, *result[1:]) for result in scored(order=range(4, 12)))
    only_defective = evaluate(samples()[4:], shifted)
    assert "no good test images" in only_defective.notes[0]
    assert set(only_defective.metrics) == {"pixel_auroc", "pixel_ap", "pixel_f1max", "aupro"}
    everywhere = (Scored(result.index - 4, *result[1:]) for result in scored(MASKS | True, order=range(4, 12)))
    all_of_it = evaluate(samples()[4:], everywhere)
    assert all_of_it.metrics == {} and "every pixel that counts is defective" in all_of_it.notes[1]


def test_evaluate_counts_defects_that_resize_and_crop_left_nothing_of():
    vanished = MASKS.copy()
    vanished[5] = False
    assert "1 defective images have no mask pixel" in evaluate(samples(), scored(vanished)).notes[0]


def test_a_defect_type_without_masks_has_empty_cells_in_the_table():
    masks = MASKS.copy()
    masks[4:8] = False  # no hole has a mask any more
    tested = evaluate(samples(), scored(masks))
    assert "aupro" not in tested.per_defect["hole"] and "aupro" in tested.per_defect["stain"]
    head, hole, stain = report._table(tested.per_defect, "defect")
    assert head.split() == ["defect", "images", "image", "AUROC", "pixel", "AUROC", "AUPRO@0.3"]
    assert hole.split() == ["hole", "4", "1.0000"] and stain.split() == ["stain", "4", "1.0000", "1.0000", "1.0000"]


def test_a_summary_is_what_metrics_json_says(tmp_path):
    tested = evaluate(samples(), scored(), ["a note"])
    config = {"obj": "screw", "distillType": "mixed", "backbone": ["resnet18", "efficientnet_b0"]}
    teachers = [{"weights": "random", "package": None}, {"weights": "imagenet", "package": "lite0 0.1.0"}]
    report.write_metrics(tmp_path, tested, {"config": config, "teachers": teachers})
    text = summary(tmp_path)
    for words in ("screw", "mixed", "resnet18 + efficientnet_b0", "random, lite0 0.1.0", "image AUROC     1.0000"):
        assert words in text
    for words in ("hole", "stain", "a note", str(tmp_path)):
        assert words in text


def data_set():
    size = (16, 16)
    return ImageDataset(samples(), SimpleNamespace(img_size=size, crop_size=size, fit="squeeze", tile=None))


def test_a_test_leaves_scores_and_a_picture_of_every_image(tmp_path):
    tested, _ = report.test_report(tmp_path, data_set(), scored(), [], None)
    report.write_scores(tmp_path, samples(), tested, [])
    with (tmp_path / "scores.csv").open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert [row["path"] for row in rows] == [str(sample.path) for sample in samples()]
    assert [float(row["score"]) for row in rows] == tested.scores.tolist()
    assert [row["label"] for row in rows] == ["0"] * 4 + ["1"] * 8
    pictures = {path.relative_to(tmp_path / "maps").with_suffix("").as_posix() for path in tmp_path.rglob("*.png")}
    assert pictures == {sample.name for sample in samples()}


def test_a_test_that_fails_leaves_the_pictures_of_the_last_one(tmp_path):
    report.test_report(tmp_path, data_set(), scored(), [], None)
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}

    def breaks_off():
        yield from scored(order=range(5))
        raise RuntimeError

    with pytest.raises(RuntimeError):
        report.test_report(tmp_path, data_set(), breaks_off(), [], None)
    assert {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()} == before


def test_a_training_leaves_its_configuration_its_epochs_and_their_curves(tmp_path):
    config = Config.model_validate(
        {
            "data_path": "data",
            "distillType": "st",
            "backbone": "resnet18",
            "obj": "Schraube für Größe 3",
            "TrainingData": {"batch_size": 4, "lr": 0.4},
        }
    )
    history = [{"epoch": epoch, "train_loss": 1 / epoch, "val_score": 2 / epoch} for epoch in (1, 2, 3)]
    report.write_training_report(tmp_path, config, history, {"": 2})
    written = yaml.safe_load((tmp_path / "config.yaml").read_text(encoding="utf-8"))
    assert Config.model_validate(written) == config
    assert (tmp_path / "training.csv").read_text(encoding="utf-8").splitlines()[0] == "epoch,train_loss,val_score"
    assert (tmp_path / "training.png").read_bytes()[:4] == b"\x89PNG"


# ---- memory --------------------------------------------------------------------------------------------------


def many(count, size=64, marked=False):
    """`count` samples, every second one defective, and a generator that makes their results one by one."""
    mask = np.zeros((size, size), bool)
    empty = mask.copy()
    mask[: size // 8, : size // 8] = True

    def results():
        rng = np.random.default_rng(0)
        for index in range(count):
            image = np.zeros((3, size, size), np.uint8)
            anomaly_map = rng.random((size, size), dtype=np.float32)
            yield Scored(index, image, mask if marked and index % 2 else empty, anomaly_map)

    path = Path("mask.png") if marked else None
    return [Sample(Path(f"{index}.png"), path, "hole" if index % 2 else "good") for index in range(count)], results()


def peak(*of_many, **how):
    """Bytes that `evaluate` needs at most, beyond the samples."""
    images, results = many(*of_many, **how)
    tracemalloc.start()
    evaluate(images, results)
    _, highest = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    return highest


def test_memory_does_not_grow_with_the_number_of_images_without_masks():
    """A map of 64 x 64 pixels is 16,384 bytes; a score, a label and the name of a type are less than 100."""
    few, all_of_them = peak(500), peak(5000)
    assert all_of_them < few + 4500 * 150
    assert all_of_them < 2**20 * 2


def test_memory_with_masks_is_below_two_thirds_of_keeping_maps_masks_and_a_copy_of_the_negatives():
    """They need 10 bytes per pixel: 4 for a map, 1 for a mask, 4 for the copy, and 1 to make it.

    Here a defect covers 1/64 of its image.
    """
    count, size = 400, 64
    assert peak(count, size, marked=True) < 2 / 3 * 10 * count * size**2


def test_metrics_json_takes_names_of_all_scripts(tmp_path):
    tested = report.Tested({}, {"缺陷": {"images": 3, "image_auroc": 0.5}}, np.zeros(3), [])
    config = {"obj": "деталь", "distillType": "st", "backbone": "resnet18"}
    report.write_metrics(tmp_path, tested, {"config": config, "teachers": [{"weights": "random", "package": None}]})
    text = (tmp_path / "metrics.json").read_text(encoding="utf-8")
    assert "缺陷" in text and json.loads(text)["config"] == config
    assert "деталь" in summary(tmp_path) and "缺陷" in summary(tmp_path)


def test_metrics_json_takes_a_file_name_of_bytes_that_are_no_text(tmp_path):
    """Linux allows such a name; the note about the file has it."""
    about = {"obj": "screw", "distillType": "st", "backbone": "resnet18"}
    tested = report.Tested({}, {}, np.zeros(3), ["\udcff.png: cut off"])
    report.write_metrics(tmp_path, tested, {"config": about, "teachers": [{"weights": "random", "package": None}]})
    assert report.report_of(tmp_path)["notes"] == tested.notes and "\udcff.png: cut off" in summary(tmp_path)


def test_images_with_defects_only_outside_of_the_region_do_not_count():
    """The holes are outside, the stains inside."""
    region = np.zeros((16, 16), bool)
    region[:, :4] = True
    masks = MASKS.copy()
    masks[8:, :, :4] = masks[8:, :, 4:8]

    def results():
        for result in scored(masks):
            yield result._replace(mask=result.mask & region, region=region)

    tested = evaluate(samples(), results())
    assert list(tested.per_defect) == ["stain"] and tested.counted.tolist() == [True] * 4 + [False] * 4 + [True] * 4
    assert "4 defective images have no mask pixel in the region of interest" in tested.notes[0]
    counted = np.r_[0:4, 8:12]
    labels = np.array([TYPES[k] != "good" for k in counted])
    expected = detection(MAPS[counted].max(axis=(1, 2)), labels)
    assert {key: tested.metrics[key] for key in expected} == pytest.approx(expected, abs=1e-12)
    assert tested.metrics["aupro"] == pytest.approx(
        segmentation(MAPS[:, :, :4], (masks & region)[:, :, :4])["aupro"], abs=1e-12
    )
