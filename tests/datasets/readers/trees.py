"""A tiny data set in each layout: 4 good images to train on, 2 good and 2 defective ones for the test, 64 px wide."""

import csv
import json
from typing import NamedTuple

import numpy as np

from tests.conftest import draw_defect, draw_good, write_image, write_mvtec
from utils.config import CommonData, RunConfig

DATA = CommonData(batch_size=4, lr=0.1, img_size=64)
SQUARE = 14 * 14  # pixels of a defect
EMPTY = np.zeros((64, 64), np.uint8)


class Tree(NamedTuple):
    reader: str
    obj: str
    words: dict  # further keys of a configuration
    defect_types: set
    validation: int = 0


def config_of(root, obj, **keys):
    keys = {"distillType": "st", "backbone": "resnet18", "TrainingData": DATA} | keys
    return RunConfig[CommonData](data_path=str(root), obj=obj, **keys)


def good(*paths):
    random = np.random.default_rng(3)
    for path in paths:
        write_image(path, draw_good(random))


def bad(path, mask_path, value=255):
    image, mask = draw_defect(np.random.default_rng(sum(path.name.encode())))
    write_image(path, image)
    if mask_path is not None:
        write_image(mask_path, (mask > 0).astype(np.uint8) * value)


def mvtec(root):
    write_mvtec(root, "part", 4, 2, 2)
    return Tree("mvtec", "part", {}, {"square"})


def btad(root):
    good(*(root / "01/train/ok" / f"{k:04}.bmp" for k in range(4)), *(root / f"01/test/ok/{k}.bmp" for k in (4, 5)))
    for k in (6, 7):  # images and masks of one category have different formats
        bad(root / f"01/test/ko/{k}.bmp", root / f"01/ground_truth/ko/{k}.png")
    return Tree("btad", "01", {}, {"ko"})


def mvtec_ad2(root):
    good(*(root / f"can/train/good/{k:03}_regular.png" for k in range(4)))
    good(*(root / f"can/validation/good/{k:03}_regular.png" for k in range(3)))
    public = root / "can/test_public"
    good(*(public / f"good/{k:03}_regular.png" for k in range(2)), root / "can/test_private/000_regular.png")
    for name in ("000_overexposed", "000_regular"):
        bad(public / f"bad/{name}.png", public / f"ground_truth/bad/{name}_mask.png")
    return Tree("mvtec_ad2", "can", {}, {"bad"}, 3)


def mvtec_loco(root):
    folder = root / "pushpins"
    good(*(folder / f"train/good/{k:03}.png" for k in range(4)), *(folder / f"test/good/{k:03}.png" for k in range(2)))
    good(*(folder / f"validation/good/{k:03}.png" for k in range(3)))
    bad(
        folder / "test/logical_anomalies/000.png",
        folder / "ground_truth/logical_anomalies/000/000.png",
        255,
    )
    write_image(folder / "ground_truth/logical_anomalies/000/001.png", corner(254))
    bad(folder / "test/structural_anomalies/000.png", folder / "ground_truth/structural_anomalies/000/000.png", 253)
    entries = [("missing", 255, 49, False), ("another", 254, 0.5, True), ("scratch", 253, 1.0, True)]
    keys = ("defect_name", "pixel_value", "saturation_threshold", "relative_saturation")
    (folder / "defects_config.json").write_text(json.dumps([dict(zip(keys, each, strict=True)) for each in entries]))
    return Tree("mvtec_loco", "pushpins", {}, {"logical_anomalies", "structural_anomalies"}, 3)


def corner(value):
    """A mask of 4 x 4 pixels, where no square of `draw_defect` is."""
    mask = EMPTY.copy()
    mask[:4, :4] = value
    return mask


def visa(root):
    rows = [("object", "split", "label", "image", "mask")]
    for k in range(6):
        image = f"candle/Data/Images/Normal/{k:04}.JPG"
        good(root / image)
        rows.append(("candle", "train" if k < 4 else "test", "normal", image, ""))
    for k in range(2):
        image, mask = f"candle/Data/Images/Anomaly/{k:03}.JPG", f"candle/Data/Masks/Anomaly/{k:03}.png"
        bad(root / image, root / mask, 1)
        rows.append(("candle", "test", "anomaly", image, mask))
    write_csv(root / "split_csv/1cls.csv", rows)
    return Tree("visa", "candle", {}, {"anomaly"})


def write_csv(path, rows):
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", newline="") as file:
        csv.writer(file).writerows(rows)


def realiad(root):
    folder, lists = root / "realiad_1024/audiojack", {"train": [], "test": []}
    for k in range(6):
        image = f"OK/S{k:04}/audiojack_{k:04}_OK_C1_20230921.jpg"
        good(folder / image)
        lists["train" if k < 4 else "test"].append(entry("OK", image, None))
    for k, kind in enumerate(("AK", "HS")):
        image = f"NG/{kind}/S{k:04}/audiojack_{k:04}_NG_{kind}_C1_20230921.jpg"
        bad(folder / image, folder / image.replace(".jpg", ".png"))
        lists["test"].append(entry(kind, image, image.replace(".jpg", ".png")))
    path = root / "realiad_jsons/realiad_jsons/audiojack.json"
    path.parent.mkdir(parents=True)
    path.write_text(json.dumps({"meta": {"prefix": "audiojack/", "normal_class": "OK"}} | lists))
    return Tree("realiad", "audiojack", {}, {"AK", "HS"})


def entry(kind, image, mask):
    return {"category": "audiojack", "anomaly_class": kind, "image_path": image, "mask_path": mask}


def kolektor(root):
    for item, parts in {"kos01": 2, "kos02": 2, "kos03": 2}.items():
        for k in range(parts):
            good(root / item / f"Part{k}.jpg")
            write_image(root / item / f"Part{k}_label.bmp", EMPTY)
    for k in (2, 3):
        bad(root / f"kos03/Part{k}.jpg", root / f"kos03/Part{k}_label.bmp")
    bad(root / "kos01/Part9.jpg", root / "kos01/Part9_label.bmp")  # does not train
    return Tree("kolektor", "fold3", {}, {"defect"})


def kolektor2(root):
    for split, count in (("train", 4), ("test", 2)):
        for k in range(count):
            good(root / split / f"{10000 + k}.png")
            write_image(root / split / f"{10000 + k}_GT.png", EMPTY)
    for k in (20000, 20001):
        bad(root / f"test/{k}.png", root / f"test/{k}_GT.png")
    bad(root / "train/20005.png", root / "train/20005_GT.png")  # does not train
    good(root / "train/10001 (copy).png")
    write_image(root / "train/10001_GT (copy).png", EMPTY)
    return Tree("kolektor2", "kolektor2", {}, {"defect"})


def dagm(root):
    good(*(root / f"Class1/Train/{k:04}.PNG" for k in range(4)), *(root / f"Class1/Test/{k:04}.PNG" for k in (5, 6)))
    for split, numbers in (("Test", (7, 8)), ("Train", (9,))):
        for k in numbers:
            bad(root / f"Class1/{split}/{k:04}.PNG", root / f"Class1/{split}/Label/{k:04}_label.PNG")
    return Tree("dagm", "Class1", {}, {"defect"})


def folder(root):
    good(*(root / f"line 1/ok/{day}/{k}.png" for day in ("monday", "tuesday") for k in range(2)))
    good(*(root / f"line 1/known good/{k}.png" for k in range(2)))
    for name in ("scratch", "dent"):
        bad(root / f"line 1/rejected/{name}/0.png", root / f"line 1/masks/{name}/0_mask.png")
    keys = {"good": ["ok"], "test_good": ["known good"], "bad": ["rejected/*"], "masks": ["masks"]}
    return Tree("folder", "line 1", {"folder": keys}, {"scratch", "dent"})


TREES = (mvtec, btad, mvtec_ad2, mvtec_loco, visa, realiad, kolektor, kolektor2, dagm, folder)
